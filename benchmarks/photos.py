"""Labelled questions on pictures of true sizes, for models too large to measure on Spotlight's small scenes.

The pictures are noise of every scale with some hard-edged shapes, so that decoding and resizing cost what they cost
on photographs; nothing in them is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZES = ((640, 480), (480, 640), (1024, 768), (500, 375))  # width, height in pixels


def photo(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return an image that depends on the seed alone."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((size[1], size[0], 3))
    for cells in (4, 16, 64, 256):  # coarse and strong to fine and weak
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size)
        pixels += np.asarray(noise, float) / cells**0.5
    pixels -= pixels.min()
    image = Image.fromarray((255 * pixels / pixels.max()).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, reach = (int(rng.integers(low, high)) for low, high in ((0, size[0]), (0, size[1]), (10, size[1] // 4)))
        pen.rectangle((x, y, x + reach, y + reach // 2), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def questions(folder: Path, count: int, sizes: Sequence[tuple[int, int]] = SIZES) -> Path:
    """Write a .jsonl of so many questions, an image each, the sizes in turn."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        photo(i, sizes[i % len(sizes)]).save(folder / f"{i}.jpg", quality=90)
        rows.append({"id": f"q{i}", "question": f"What number is written on the red sign next to person {i}?",
                     "answers": [str(i)], "image": f"{i}.jpg", "boxes": [[0.1, 0.1, 0.4, 0.5]]})  # fmt: skip
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
