"""The pictures on a dataset card: one pair drawn on its image, and bar charts of scores and boxes.

PNG files, since the Hub does not show SVG reliably; drawn with Pillow alone, from the report and the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from visrl_data.core.images import decode
from visrl_data.runs.dataset_files import split_of
from visrl_data.runs.pair_set import PairTable

WIN, LOSE, INK, FAINT = "#1a7f37", "#cf222e", "#24292f", "#d0d7de"
_SIDE = 480  # pixels: the longer side of the example's image
_CHART = (420, 220)  # pixels: one panel
_MARGIN = 34


@dataclass(frozen=True, slots=True)
class Series:
    """The bars of one color, one a label."""

    name: str
    color: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]


def draw_pictures(folder: Path, pairs: PairTable, report: dict[str, Any]) -> str:
    """Write the card's pictures. Returns the id of the pair that the card shows; its picture is drawn only
    when the dataset embeds it.
    """
    folder.mkdir()
    _chart(score_panels(report)).save(folder / "scores.png")
    _chart(box_panels(pairs, report)).save(folder / "boxes.png")
    row = example_row(pairs)
    shown: str = row["id"]
    if row["image_sha256"] in pairs.embedded:
        _example(row, decode(pairs.pixels(row["image_sha256"]))).save(folder / "example.png")
    return shown


def example_row(pairs: PairTable) -> dict[str, Any]:
    """The first pair that can show most: its picture, two responses, and in the train split."""
    columns = [pairs.pairs[name].to_pylist() for name in ("image_sha256", "same_response")]
    worth = [(sha in pairs.embedded, not same, split_of(sha) == "train") for sha, same in zip(*columns, strict=True)]
    row: dict[str, Any] = pairs.pairs.slice(worth.index(max(worth)), 1).to_pylist()[0]
    return row


def score_panels(report: dict[str, Any]) -> list[Panel]:
    """How many candidates got each score; unparsed verdicts are in no bar."""
    found = [(name, report["critics"][name]) for name in ("box", "response") if report["critics"][name]]
    return [
        Panel(
            f"{name} score of {sum(critic['histogram'].values()):,} candidates",
            tuple(critic["histogram"]),
            (Series("", INK, tuple(critic["histogram"].values())),),
        )
        for name, critic in found
    ]


def box_panels(pairs: PairTable, report: dict[str, Any]) -> list[Panel]:
    """How far apart win and lose are, and how large they are."""
    apart = report["boxes"]["iou_win_lose"]["histogram"]
    sizes = [Series(side, color, _sides(pairs, f"{side}_box")) for side, color in (("win", WIN), ("lose", LOSE))]
    tenths = tuple(f"{i / 10:.1f}" for i in range(10))
    return [
        Panel("IoU of win and lose box", tuple(apart), (Series("", INK, tuple(apart.values())),)),
        Panel("size of the boxes: square root of their share of the image", tenths, tuple(sizes)),
    ]


def _sides(pairs: PairTable, column: str) -> tuple[int, ...]:
    boxes = pc.list_flatten(pairs.pairs[column]).to_numpy().reshape(-1, 4)
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return tuple(np.histogram(sides, bins=np.arange(11) / 10)[0].tolist())


def _chart(panels: Sequence[Panel]) -> Image.Image:
    """The panels side by side."""
    width, height = _CHART
    canvas = Image.new("RGB", (width * len(panels), height), "white")
    for i, panel in enumerate(panels):
        canvas.paste(_panel(panel), (i * width, 0))
    return canvas


def _panel(panel: Panel) -> Image.Image:
    width, height = _CHART
    canvas = Image.new("RGB", _CHART, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    pen.text((_MARGIN, 6), panel.title, fill=INK, font=ImageFont.load_default(13))
    floor, top = height - 24, max(1, *(value for series in panel.series for value in series.values))
    slot, full = (width - 2 * _MARGIN) / len(panel.labels), floor - 46
    bar = 0.8 * slot / len(panel.series)
    for i, label in enumerate(panel.labels):
        left = _MARGIN + i * slot + 0.1 * slot
        for k, series in enumerate(panel.series):
            tall = round(full * series.values[i] / top)
            if series.values[i]:
                x = left + k * bar
                pen.rectangle((x, floor - max(tall, 1), x + bar - 1, floor - 1), fill=series.color)
        if len(panel.labels) <= 11 or i % 2 == 0:
            pen.text((left + 0.4 * slot, floor + 4), label, fill=INK, font=font, anchor="ma")
    pen.line((_MARGIN, floor, width - _MARGIN, floor), fill=FAINT)
    pen.text((_MARGIN - 4, floor - full), f"{top:,}", fill=INK, font=font, anchor="rm")
    for k, series in enumerate(panel.series):
        pen.text((width - _MARGIN - 60 + 30 * k, 26), series.name, fill=series.color, font=font)
    return canvas


def _example(row: dict[str, Any], image: Image.Image) -> Image.Image:
    """The image with both boxes, and the two crops beside it."""
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
