"""What ms-swift makes of an export: python swift_loader.py ROWS.jsonl MODEL TYPE, JSON on stdout."""

import json
import sys

from swift.dataset import load_dataset
from swift.model import get_processor
from swift.template import get_template

file, model, model_type = sys.argv[1:]
processor = get_processor(model, model_type=model_type)
template = get_template(processor, template_type=model_type)
template.set_mode("rlhf")
dataset, _ = load_dataset(file, strict=True)
rows = [template.encode(row) for row in dataset]


def shown(row):
    """Sizes (width, height) at which the template shows the images of a row."""
    if "chosen_image_grid_thw" in row:
        side = processor.image_processor.patch_size
        return [[columns * side, height * side] for _, height, columns in row["chosen_image_grid_thw"].tolist()]
    return [list(image.shape[-1:-3:-1]) for image in row["chosen_pixel_values"]]


def answer(row, side):
    tokens = [token for token in row[f"{side}_labels"] if token >= 0]
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


inputs = {"chosen": [answer(row, "chosen") for row in rows], "rejected": [answer(row, "rejected") for row in rows]}
print(
    "RESULT "
    + json.dumps({"rows": len(rows), "keys": sorted(rows[0]), "shown": [shown(row) for row in rows[:4]], **inputs})
)
