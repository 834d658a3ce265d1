"""What LLaMA-Factory's own loader makes of an export: python llamafactory_loader.py ARGUMENTS.yaml, JSON on stdout."""

import json
import sys

import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

with open(sys.argv[1]) as file:
    arguments = yaml.safe_load(file)
model_args, data_args, training_args, finetuning_args, _ = get_train_args(arguments)
loaded = load_tokenizer(model_args)
tokenizer, processor = loaded["tokenizer"], loaded["processor"]
template = get_template_and_fix_tokenizer(tokenizer, data_args)
dataset = get_dataset(template, model_args, data_args, training_args, stage="rm", **loaded)["train_dataset"]
rows = [dataset[i] for i in range(len(dataset))]


def shown(images):
    """Sizes (width, height) at which the plug-in shows the images of a row, where the processor says them."""
    inputs = template.mm_plugin.get_mm_inputs(images, [], [], [len(images)], [0], [0], [[]], processor)
    if "image_grid_thw" in inputs:
        side = processor.image_processor.patch_size
        return [[columns * side, rows * side] for _, rows, columns in inputs["image_grid_thw"].tolist()]
    return [list(image.shape[-1:-3:-1]) for image in inputs["pixel_values"]]


def answer(row, side):
    return tokenizer.decode([token for token in row[f"{side}_labels"] if token >= 0], skip_special_tokens=True)


print(
    "RESULT "
    + json.dumps(
        {
            "rows": len(rows),
            "pictures": [len(row["images"]) for row in rows],
            "chosen": [answer(row, "chosen").strip() for row in rows],
            "rejected": [answer(row, "rejected").strip() for row in rows],
            "shown": [shown(row["images"]) for row in rows[:4]],
        }
    )
)
