"""What the model sees of a scene: windows, pixels, and what is under each image token.

Used in training and measuring. A view is a window of a picture, squashed to VIEW x VIEW pixels, that
the model turns into GRID x GRID image tokens. A window is (left, top, right, bottom) in pixels of the
picture; boxes are unit xyxy, of the picture or of the view as each function says.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visrl_data.core import boxes
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.spotlight.scenes import COLORS, SHAPES, Scene, SceneObject, Xyxy

VIEW = 96
GRID = 6
CROP_RULE = CropRule(min_side=0.08, max_aspect=1.0)
"""Spotlight's crops are squares in pixels, as far as the picture allows."""
SHARP, BLURRED = 14.0, 8.0
"""Heights of a digit in view pixels: from SHARP on it reads well, at BLURRED not at all."""
COVERED = 0.4
"""A cell belongs to an object whose center it holds or that covers this share of it."""

Window = tuple[int, int, int, int]
_COLOUR = {name: k for k, name in enumerate(COLORS)}
_SHAPE = {name: k for k, name in enumerate(SHAPES)}


@dataclass(frozen=True, slots=True)
class Cells:
    """The truth under each image token, row by row; GRID * GRID entries.

    color, shape, digit: class numbers, -1 on background. box: the object's box in unit xyxy of the
    view, clipped. readable: 0 to 1. glyph: share of the cell that the digit's box covers.
    """

    color: np.ndarray
    shape: np.ndarray
    digit: np.ndarray
    box: np.ndarray
    readable: np.ndarray
    glyph: np.ndarray


def whole(scene: Scene) -> Window:
    """Return the window of the whole picture."""
    return (0, 0, *scene.size)


def crop_window(box: Xyxy, size: tuple[int, int]) -> Window:
    """Return the window of a box (unit xyxy of the picture) under Spotlight's crop rule."""
    return crop_pixels(boxes.Box(*box), size, CROP_RULE)


def pixels(picture: Image.Image, window: Window) -> np.ndarray:
    """Return the view as the image processor makes it: (3, VIEW, VIEW) float32 in [-1, 1]."""
    view = picture.crop(window).resize((VIEW, VIEW), Image.Resampling.BICUBIC)
    return (np.asarray(view, dtype=np.float32) / 127.5 - 1.0).transpose(2, 0, 1)


def readable(item: SceneObject, window: Window, size: tuple[int, int]) -> float:
    """Return how well the digit of an object reads in a view, 0 to 1: enough of it inside, and large enough."""
    left, top, right, bottom = _in_view(item.glyph, window, size)
    inside = _overlap(left, right) * _overlap(top, bottom) / ((right - left) * (bottom - top))
    glyph_px = (item.glyph[3] - item.glyph[1]) * size[1]
    height = glyph_px * VIEW / max(window[2] - window[0], window[3] - window[1])
    return _ramp(inside, 0.6, 0.9) * _ramp(height, BLURRED, SHARP)


def cells(scene: Scene, window: Window, clear: bool = False) -> Cells:
    """Return the truth under each image token of a view of a scene; `clear` pretends that all digits read well."""
    owner = np.full((GRID, GRID), -1)
    best = np.zeros((GRID, GRID))
    glyph = np.zeros((GRID, GRID), np.float32)
    boxes = [_in_view(item.box, window, scene.size) for item in scene.objects]
    for k, box in enumerate(boxes):
        share = np.outer(_shares(box[1], box[3]), _shares(box[0], box[2]))
        middle = ((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)
        if all(0 <= value < 1 for value in middle):
            share[int(middle[0] * GRID), int(middle[1] * GRID)] = 2.0
        taken = (share > best) & (share >= COVERED)
        owner[taken], best[taken] = k, share[taken]
        ink = _in_view(scene.objects[k].glyph, window, scene.size)
        glyph[taken] = np.outer(_shares(ink[1], ink[3]), _shares(ink[0], ink[2]))[taken]
    flat = owner.reshape(-1)
    known = flat >= 0

    def spread(values: list[int], dtype: type) -> np.ndarray:
        return np.where(known, np.asarray(values, dtype)[flat], -1)

    clipped = np.clip(np.asarray(boxes, np.float32), 0, 1)[flat] * known[:, None]
    seen = [1.0 if clear else readable(item, window, scene.size) for item in scene.objects]
    return Cells(
        color=spread([_COLOUR[item.color] for item in scene.objects], int),
        shape=spread([_SHAPE[item.shape] for item in scene.objects], int),
        digit=spread([int(item.digit) for item in scene.objects], int),
        box=clipped,
        readable=np.asarray(seen, np.float32)[flat] * known,
        glyph=glyph.reshape(-1),
    )


def random_window(rng: random.Random, item: SceneObject, scene: Scene) -> Window:
    """Draw a window around an object: well framed (half of the time), too loose, cut, or anywhere."""
    kind = rng.random()
    if kind < 0.5:
        box = jitter(rng, item.box, rng.uniform(0.7, 2.0), 0.15)
    elif kind < 0.7:
        box = jitter(rng, item.box, rng.uniform(2.0, 4.5), 0.3)
    elif kind < 0.85:
        box = cut(rng, item)
    else:
        box = anywhere(rng)
    return crop_window(box, scene.size)


def jitter(rng: random.Random, box: Xyxy, scale: float, shift: float) -> Xyxy:
    """Return the box scaled about its center and moved by up to `shift` of its own sides; unit, inside 0..1."""
    wide, high = box[2] - box[0], box[3] - box[1]
    x = (box[0] + box[2]) / 2 + rng.uniform(-shift, shift) * wide
    y = (box[1] + box[3]) / 2 + rng.uniform(-shift, shift) * high
    wide, high = wide * scale * rng.uniform(0.85, 1.15), high * scale * rng.uniform(0.85, 1.15)
    return tidy((x - wide / 2, y - high / 2, x + wide / 2, y + high / 2))


def cut(rng: random.Random, item: SceneObject) -> Xyxy:
    """Draw a box whose edge runs through the digit, leaving out 25 to 100 % of it on one side."""
    left, top, right, bottom = jitter(rng, item.box, rng.uniform(0.7, 1.6), 0.1)
    wide, high = right - left, bottom - top
    missing = rng.uniform(0.25, 1.0)
    side = rng.randrange(4)
    glyph = item.glyph
    if side == 0:
        left = glyph[0] + missing * (glyph[2] - glyph[0])
        right = left + wide
    elif side == 1:
        right = glyph[2] - missing * (glyph[2] - glyph[0])
        left = right - wide
    elif side == 2:
        top = glyph[1] + missing * (glyph[3] - glyph[1])
        bottom = top + high
    else:
        bottom = glyph[3] - missing * (glyph[3] - glyph[1])
        top = bottom - high
    return tidy((left, top, right, bottom))


def anywhere(rng: random.Random) -> Xyxy:
    """Draw a box of any size and place; unit xyxy."""
    wide, high = rng.uniform(0.06, 0.6), rng.uniform(0.06, 0.6)
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
    return (left, top, left + wide, top + high)


def tidy(box: Xyxy) -> Xyxy:
    """Clip a box to 0..1 and keep at least 0.01 of width and height."""
    left, top = min(max(box[0], 0.0), 0.99), min(max(box[1], 0.0), 0.99)
    return (left, top, max(min(box[2], 1.0), left + 0.01), max(min(box[3], 1.0), top + 0.01))


def _in_view(box: Xyxy, window: Window, size: tuple[int, int]) -> Xyxy:
    """Convert a box of the picture to unit xyxy of the view; it may reach outside 0..1."""
    wide, high = window[2] - window[0], window[3] - window[1]
    return (
        (box[0] * size[0] - window[0]) / wide,
        (box[1] * size[1] - window[1]) / high,
        (box[2] * size[0] - window[0]) / wide,
        (box[3] * size[1] - window[1]) / high,
    )


def _overlap(low: float, high: float) -> float:
    return max(0.0, min(high, 1.0) - max(low, 0.0))


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _shares(low: float, high: float) -> np.ndarray:
    """Return the share of each of the GRID strips of 0..1 that lies between low and high."""
    edges = np.arange(GRID + 1) / GRID
    shares: np.ndarray = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * GRID
    return shares
