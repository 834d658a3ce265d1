"""Choose the pixels that the box critic is shown in a case: around a gold box, away from it, or anywhere.

Windows are (left, top, right, bottom) in pixels of the original image, made by the run's crop rule. None where an image
leaves no room for one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visrl_data.core.boxes import Box, Size
from visrl_data.core.crops import CropRule, crop_pixels

Window = tuple[int, int, int, int]
_SIDES = (0.15, 0.3)  # of a random small crop, as shares of the image's sides
_TRIES = 64
_MOST_LEFT = 0.75  # of the gold box in what passes for half of it
_LOOSE = 4.0  # how much longer the sides of a far too loose crop are
_LEAST_LOOSE = 6.0  # how much larger its area must be at least


def gold_box(boxes: Sequence[Box], gold_rule: str) -> Box:
    """Return the box that holds what the answer needs: the first, where any will do, else the one around all."""
    if gold_rule == "any" or len(boxes) == 1:
        return boxes[0]
    return Box(min(b.x1 for b in boxes), min(b.y1 for b in boxes), max(b.x2 for b in boxes), max(b.y2 for b in boxes))


def random_window(size: Size, rule: CropRule, rng: np.random.Generator) -> Window:
    """Draw a small crop, uniformly."""
    wide, high = rng.uniform(*_SIDES, 2)
    x, y = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
    return crop_pixels(Box(x, y, x + wide, y + high), size, rule)


def half_window(gold: Box, size: Size, rule: CropRule, rng: np.random.Generator) -> Window | None:
    """Cut the gold box in two across its longer side; None where the crop rule gives most of it back."""
    first = bool(rng.integers(2))
    x, y = (gold.x1 + gold.x2) / 2, (gold.y1 + gold.y2) / 2
    if (gold.x2 - gold.x1) * size[0] >= (gold.y2 - gold.y1) * size[1]:
        half = Box(gold.x1, gold.y1, x, gold.y2) if first else Box(x, gold.y1, gold.x2, gold.y2)
    else:
        half = Box(gold.x1, gold.y1, gold.x2, y) if first else Box(gold.x1, y, gold.x2, gold.y2)
    window = crop_pixels(half, size, rule)
    return window if _shared(window, gold, size) <= _MOST_LEFT * _area(_pixels(gold, size)) else None


def far_window(gold: Box, boxes: Sequence[Box], size: Size, rule: CropRule, rng: np.random.Generator) -> Window | None:
    """Draw a window as large as the gold crop that touches no gold box; None where there is no room."""
    left, top, right, bottom = crop_pixels(gold, size, rule)
    wide, high = right - left, bottom - top
    for _ in range(_TRIES):
        x, y = int(rng.integers(size[0] - wide + 1)), int(rng.integers(size[1] - high + 1))
        window = (x, y, x + wide, y + high)
        if not any(_shared(window, box, size) for box in boxes):
            return window
    return None


def loose_window(gold: Box, size: Size, rule: CropRule) -> Window | None:
    """Grow the gold box to four times its sides; None where that is hardly more than the gold crop."""
    x, y = (gold.x1 + gold.x2) / 2, (gold.y1 + gold.y2) / 2
    wide, high = _LOOSE * (gold.x2 - gold.x1) / 2, _LOOSE * (gold.y2 - gold.y1) / 2
    box = Box(max(0.0, x - wide), max(0.0, y - high), min(1.0, x + wide), min(1.0, y + high))
    window = crop_pixels(box, size, rule)
    return window if _area(window) >= _LEAST_LOOSE * _area(crop_pixels(gold, size, rule)) else None


def _pixels(box: Box, size: Size) -> tuple[float, float, float, float]:
    return box.x1 * size[0], box.y1 * size[1], box.x2 * size[0], box.y2 * size[1]


def _area(window: tuple[float, float, float, float]) -> float:
    return (window[2] - window[0]) * (window[3] - window[1])


def _shared(window: Window, box: Box, size: Size) -> float:
    """Return the pixels that a window and a box have in common."""
    left, top, right, bottom = _pixels(box, size)
    wide = min(window[2], right) - max(window[0], left)
    high = min(window[3], bottom) - max(window[1], top)
    return max(0.0, wide) * max(0.0, high)
