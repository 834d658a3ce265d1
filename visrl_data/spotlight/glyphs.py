"""Where a digit stands in its shape, and how its strokes are drawn: the font inside Pillow, or seven segments.

Used by scenes.py, which stores each digit's ink box, and by drawing.py. All sizes are in pixels.
"""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GLYPH = 0.30
"""Height of a digit as a fraction of its shape's side: 3.6 to 6 % of the root of the image's area."""


@cache
def font_glyph(digit: str, shape: str, side: int) -> tuple[Font, tuple[int, int], tuple[float, float, float, float]]:
    """Return the font for a digit in a shape of `side` pixels, where to draw it, and its ink box, in pixels from the
    shape's top left corner. The font is the one that ships inside Pillow.
    """
    target = GLYPH * side
    font = ImageFont.load_default(target / 0.72)
    ink = font.getbbox(digit, stroke_width=stroke_width(side))
    middle = _middle(shape, side)
    at = (round(middle[0] - (ink[0] + ink[2]) / 2), round(middle[1] - (ink[1] + ink[3]) / 2))
    return font, at, (ink[0] + at[0], ink[1] + at[1], ink[2] + at[0], ink[3] + at[1])


def stroke_width(side: int) -> int:
    """Return the stroke added around a digit, in pixels: it makes the thin default face bold."""
    return 1 if side >= 40 else 0


def segment_box(shape: str, side: int) -> tuple[int, int, int, int]:
    """Return the ink box of a seven-segment digit, in pixels from its shape's top left corner."""
    middle, high = _middle(shape, side), GLYPH * side
    wide = 0.6 * high
    left, top = round(middle[0] - wide / 2), round(middle[1] - high / 2)
    return left, top, round(middle[0] + wide / 2), round(middle[1] + high / 2)


def _middle(shape: str, side: int) -> tuple[float, float]:
    """Return the middle of a digit, in pixels from its shape's top left corner."""
    return 0.5 * side, (0.64 if shape == "triangle" else 0.5) * side
