"""Scenes: colored shapes apart from each other, each with one digit, and clutter behind them.

A scene holds up to 8 shapes whose (color, shape) pairs, and whose digits, are unique. Nothing is drawn here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from visrl_data.spotlight.glyphs import font_glyph, segment_box

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (205, 35, 40),
    "green": (30, 145, 60),
    "blue": (35, 75, 205),
    "yellow": (240, 205, 40),
    "purple": (135, 50, 160),
    "orange": (240, 130, 25),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
NEW_SHAPES = ("star", "hexagon")
"""Shapes of the transfer look only."""
DIGITS = tuple("0123456789")
SIZES = ((336, 336), (384, 288), (288, 384), (448, 252), (252, 448), (512, 384), (300, 400))
SIDE = (0.12, 0.20)
"""Smallest and largest side of a shape, as a fraction of the square root of the image's area."""
APART = 0.20
"""Least distance of two shapes' centers along one axis, as a fraction of that axis."""

Xyxy = tuple[float, float, float, float]
"""A box in fractions of the image, (0, 0) the top left corner of the first pixel."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A shape with its digit. `box` and `glyph` (the digit's ink) are unit xyxy of the image."""

    color: str
    shape: str
    digit: str
    box: Xyxy
    glyph: Xyxy


@dataclass(frozen=True, slots=True)
class Stroke:
    """A mark of clutter, behind the shapes: a line, unit (x1, y1, x2, y2); width in pixels."""

    ends: Xyxy
    width: int
    tint: Color


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be drawn. `size` is (width, height) in pixels; `tints` are RGB of each object.

    `stripes`: the second color of a striped background, in the transfer look alone.
    """

    size: tuple[int, int]
    background: Color
    objects: tuple[SceneObject, ...]
    tints: tuple[Color, ...]
    clutter: tuple[Stroke, ...] = ()
    stripes: Color | None = None


def make_scene(rng: random.Random, count: int, clutter: int | None = None, transfer: bool = False) -> Scene:
    """Place `count` objects (up to 8) with unique (color, shape) pairs and digits, apart from each other."""
    width, height = size = rng.choice(SIZES)
    shapes = SHAPES + NEW_SHAPES if transfer else SHAPES
    pairs = rng.sample([(color, shape) for color in COLORS for shape in shapes], count)
    digits = rng.sample(DIGITS, count)
    objects = tuple(
        _place(color, shape, digit, spot, size, transfer)
        for (color, shape), digit, spot in zip(pairs, digits, _draw_spots(rng, count, size), strict=True)
    )
    background = (rng.randint(205, 250), rng.randint(205, 250), rng.randint(205, 250))
    tints = tuple(_vary(COLORS[o.color], lambda c: min(255, max(0, c + rng.randint(-12, 12)))) for o in objects)
    strokes = [
        Stroke(
            ends=(rng.random(), rng.random(), rng.random(), rng.random()),
            width=rng.randint(1, 3),
            tint=(rng.randint(120, 200),) * 3,
        )
        for _ in range(rng.randint(0, 8) if clutter is None else clutter)
    ]
    stripes = _vary(background, lambda c: max(0, c - rng.randint(15, 35))) if transfer else None
    return Scene(size, background, objects, tints, tuple(strokes), stripes)


def _vary(color: Color, change: Callable[[int], int]) -> Color:
    red, green, blue = color
    return (change(red), change(green), change(blue))


def _draw_spots(rng: random.Random, count: int, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Draw (left, top, side) of `count` squares in pixels; start again when the last ones find no room."""
    unit = math.sqrt(size[0] * size[1])
    while True:
        spots: list[tuple[int, int, int]] = []
        for _ in range(40 * count):
            side = round(unit * rng.uniform(*SIDE))
            spot = (rng.randint(2, size[0] - side - 2), rng.randint(2, size[1] - side - 2), side)
            if all(_are_apart(spot, other, size) for other in spots):
                spots.append(spot)
            if len(spots) == count:
                return spots


def _are_apart(spot: tuple[int, int, int], other: tuple[int, int, int], size: tuple[int, int]) -> bool:
    """Return whether two (left, top, side) squares in pixels keep 2 pixels and APART from each other."""
    reach = (spot[2] + other[2]) / 2
    gaps = [abs((spot[k] + spot[2] / 2) - (other[k] + other[2] / 2)) for k in (0, 1)]
    return any(gap >= reach + 2 for gap in gaps) and any(
        gap >= APART * edge for gap, edge in zip(gaps, size, strict=True)
    )


def _place(
    color: str, shape: str, digit: str, spot: tuple[int, int, int], size: tuple[int, int], transfer: bool
) -> SceneObject:
    left, top, side = spot
    ink = segment_box(shape, side) if transfer else font_glyph(digit, shape, side)[2]
    return SceneObject(
        color=color,
        shape=shape,
        digit=digit,
        box=_to_unit((left, top, left + side, top + side), size),
        glyph=_to_unit((left + ink[0], top + ink[1], left + ink[2], top + ink[3]), size),
    )


def _to_unit(box: tuple[float, float, float, float], size: tuple[int, int]) -> Xyxy:
    width, height = size
    return (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
