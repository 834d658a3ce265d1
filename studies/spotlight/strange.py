"""Pictures and questions that are not of the drawn world, so that the model keeps its formats on them.

Used by lessons.py for a small share of the lessons. There is nothing to learn about the answers here:
the box is a plausible one around the middle, scores say that nothing can be read.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFilter

from studies.spotlight.answers import stray_text
from studies.spotlight.phrases import FREQUENT_WORDS
from visrl_data.spotlight.scenes import Xyxy


def strange_picture(rng: random.Random) -> Image.Image:
    """Draw noise, blotches, or lines and blocks, RGB, of a random size."""
    width, height = rng.randint(60, 240), rng.randint(60, 240)
    kind = rng.randrange(4)
    if kind == 0:
        grain = rng.choice((1, 2, 6))
        small = (max(2, width // grain), max(2, height // grain))
        return Image.frombytes("RGB", small, rng.randbytes(3 * small[0] * small[1])).resize((width, height))
    if kind == 1:
        cells = rng.randint(2, 8)
        return Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells * cells)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
    picture = Image.new("RGB", (width, height), _color(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(3, 40)):
        ends = [rng.randint(0, width), rng.randint(0, height), rng.randint(0, width), rng.randint(0, height)]
        if kind == 2:
            pen.line(ends, fill=_color(rng), width=rng.randint(1, 12))
        else:
            pen.rectangle((min(ends[0::2]), min(ends[1::2]), max(ends[0::2]), max(ends[1::2])), fill=_color(rng))
    return picture.filter(ImageFilter.GaussianBlur(rng.choice((0, 1, 3))))


def strange_question(rng: random.Random) -> str:
    """Make up a question in everyday words, or text of any kind and up to 400 characters."""
    kind = rng.random()
    if kind < 0.6:
        return " ".join(rng.choice(FREQUENT_WORDS) for _ in range(rng.randint(2, 14))) + rng.choice(("?", "", "."))
    return " ".join(stray_text(rng, 12) for _ in range(rng.randint(1, 8 if kind < 0.9 else 40)))


def plausible_box(rng: random.Random) -> Xyxy:
    """Draw a box around the middle of the picture; unit xyxy."""
    return (rng.uniform(0.15, 0.4), rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.85), rng.uniform(0.6, 0.85))


def _color(rng: random.Random) -> tuple[int, int, int]:
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))
