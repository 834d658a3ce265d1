"""What every other package stands on: errors, seeds, options, images, boxes, prompts, records, files, metrics."""
