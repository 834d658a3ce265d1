"""The pixels of a scene: shapes with their digits, clutter and stripes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from visrl_data.spotlight.glyphs import font_glyph, stroke_width
from visrl_data.spotlight.scenes import Color, Scene, SceneObject

_LIT = {"0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc"} | {
    "8": "abcdefg",
    "9": "abcdfg",
}
_ENDS = {"a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2), "e": (0, 1, 0, 2)} | {
    "f": (0, 0, 0, 1),
    "g": (0, 1, 1, 1),
}
"""The seven segments of a digit, as corners of a box of 1 x 2."""


def draw(scene: Scene) -> Image.Image:
    """Draw a scene, RGB."""
    width, height = scene.size
    image = Image.new("RGB", scene.size, scene.background)
    pen = ImageDraw.Draw(image)
    if scene.stripes is not None:
        for left in range(-height, width, 24):
            pen.line((left, height, left + height, 0), fill=scene.stripes, width=8)
    for stroke in scene.clutter:
        ends = [share * edge for share, edge in zip(stroke.ends, (width, height) * 2, strict=True)]
        pen.line(ends, fill=stroke.tint, width=stroke.width)
    for item, tint in zip(scene.objects, scene.tints, strict=True):
        left, top = round(item.box[0] * width), round(item.box[1] * height)
        side = round(item.box[2] * width) - left
        _SHAPE_DRAWERS[item.shape](pen, left, top, side, tint)
        ink = (0, 0, 0) if item.color in ("yellow", "orange") else (255, 255, 255)
        if scene.stripes is not None:
            _draw_segments(pen, item, scene.size, ink)
            continue
        font, at, _ = font_glyph(item.digit, item.shape, side)
        pen.text((left + at[0], top + at[1]), item.digit, fill=ink, font=font, stroke_width=stroke_width(side))
    return image


def _draw_segments(pen: ImageDraw.ImageDraw, item: SceneObject, size: tuple[int, int], ink: Color) -> None:
    left, top, right, bottom = (round(share * edge) for share, edge in zip(item.glyph, size * 2, strict=True))
    xs, ys = (left, right - 2), (top, (top + bottom) // 2 - 1, bottom - 2)
    for name in _LIT[item.digit]:
        x1, y1, x2, y2 = _ENDS[name]
        pen.rectangle((xs[x1], ys[y1], xs[x2] + 1, ys[y2] + 1), fill=ink)


def _draw_circle(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Color) -> None:
    pen.ellipse((left, top, left + side - 1, top + side - 1), fill=tint)


def _draw_square(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Color) -> None:
    pen.rectangle((left, top, left + side - 1, top + side - 1), fill=tint)


def _draw_cross(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Color) -> None:
    edge = side - 1
    inset = round(0.27 * side)
    pen.rectangle((left + inset, top, left + edge - inset, top + edge), fill=tint)
    pen.rectangle((left, top + inset, left + edge, top + edge - inset), fill=tint)


def _polygon_drawer(corners: Sequence[tuple[float, float]]) -> Callable[..., None]:
    """Return a function that draws a shape by its corners, in fractions of the side."""

    def draw_polygon(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Color) -> None:
        edge = side - 1
        pen.polygon([(left + edge * x, top + edge * y) for x, y in corners], fill=tint)

    return draw_polygon


_STAR = [
    (0.5 + reach * math.sin(k * math.pi / 5) / 1.902, (1 - reach * math.cos(k * math.pi / 5)) / 1.809)
    for k, reach in enumerate((1.0, 0.6) * 5)
]
_SHAPE_DRAWERS: dict[str, Callable[..., None]] = {
    "circle": _draw_circle,
    "square": _draw_square,
    "triangle": _polygon_drawer([(0.5, 0), (1, 1), (0, 1)]),
    "diamond": _polygon_drawer([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),
    "cross": _draw_cross,
    "star": _polygon_drawer(_STAR),
    "hexagon": _polygon_drawer([(0.25, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0.25, 1), (0, 0.5)]),
}
