"""Draw the pictures of a dataset card: one pair on its image, and bar charts of scores and boxes.

PNG files, since the Hub does not show SVG reliably.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from visrl_data.core.images import decode
from visrl_data.report.charts import LOSE, WIN, Panel, Series, draw_png
from visrl_data.runs.dataset_files import split_of
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.run_report import CRITICS, RunReport

_SIDE = 480  # pixels: the longer side of the example's image


def draw_pictures(folder: Path, pairs: PairTable, report: RunReport) -> str:
    """Write the card's pictures. Returns the id of the pair on the card, which is drawn if its image is embedded."""
    folder.mkdir()
    (folder / "scores.png").write_bytes(draw_png(score_panels(report)))
    (folder / "boxes.png").write_bytes(draw_png(box_panels(pairs, report)))
    row = example_row(pairs)
    if row["image_sha256"] in pairs.embedded:
        _example(row, decode(pairs.pixels(row["image_sha256"]))).save(folder / "example.png")
    return str(row["id"])


def example_row(pairs: PairTable) -> dict[str, Any]:
    """Return the first pair that shows most: its picture, two responses, and in the train split."""
    columns = [pairs.pairs[name].to_pylist() for name in ("image_sha256", "same_response")]
    worth = [(sha in pairs.embedded, not same, split_of(sha) == "train") for sha, same in zip(*columns, strict=True)]
    row: dict[str, Any] = pairs.pairs.slice(worth.index(max(worth)), 1).to_pylist()[0]
    return row


def score_panels(report: RunReport) -> list[Panel]:
    """Chart how many candidates got each score; unparsed verdicts are in no bar."""
    critics = [(name, critic) for name in CRITICS if (critic := report["critics"][name])]
    return [
        Panel(
            f"{name} score of {sum(critic['histogram'].values()):,} candidates",
            f"{name} score",
            "candidates",
            (Series("", tuple(critic["histogram"].values())),),
            tuple(critic["histogram"]),
        )
        for name, critic in critics
    ]


def box_panels(pairs: PairTable, report: RunReport) -> list[Panel]:
    """Chart how far apart the boxes of a pair are, and how large."""
    apart = report["boxes"]["iou_win_lose"]["histogram"]
    sizes = [Series(side, _sides(pairs, f"{side}_box"), color=color) for side, color in (("win", WIN), ("lose", LOSE))]
    tenths = tuple(f"{i / 10:.1f}" for i in range(10))
    return [
        Panel("IoU of win and lose box", "IoU, from", "pairs", (Series("", tuple(apart.values())),), tuple(apart)),
        Panel("size of the boxes", "square root of their share of the image, from", "pairs", tuple(sizes), tenths),
    ]


def _sides(pairs: PairTable, column: str) -> tuple[int, ...]:
    boxes = pc.list_flatten(pairs.pairs[column]).to_numpy().reshape(-1, 4)
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return tuple(np.histogram(sides, bins=np.arange(11) / 10)[0].tolist())


def _example(row: dict[str, Any], image: Image.Image) -> Image.Image:
    """Draw the image with both boxes, and the two crops beside it."""
    scale = _SIDE / max(image.size)
    shown = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(shown)
    crops: list[Image.Image] = []
    for side, color in (("lose", LOSE), ("win", WIN)):
        corners = [v * size for v, size in zip(row[f"{side}_box"], (*shown.size, *shown.size), strict=True)]
        pen.rectangle(corners, outline=color, width=4)
        crops.insert(0, _framed(image.crop(tuple(row[f"{side}_crop"])), color))
    height = max(shown.height, sum(crop.height for crop in crops) + 8)
    canvas = Image.new("RGB", (shown.width + 8 + max(crop.width for crop in crops), height), "white")
    canvas.paste(shown, (0, 0))
    canvas.paste(crops[0], (shown.width + 8, 0))
    canvas.paste(crops[1], (shown.width + 8, crops[0].height + 8))
    return canvas


def _framed(crop: Image.Image, color: str) -> Image.Image:
    scale = 220 / max(crop.size)
    crop = crop.resize((max(1, round(crop.width * scale)), max(1, round(crop.height * scale))))
    canvas = Image.new("RGB", (crop.width + 8, crop.height + 8), color)
    canvas.paste(crop, (4, 4))
    return canvas
