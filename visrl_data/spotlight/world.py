"""The drawn world: scenes of coloured shapes, each with one digit that is too small to read from afar.

First module of Spotlight: questions for the pipeline, training and measuring all come from here.
A scene holds 3 to 6 shapes whose (colour, shape) pairs are unique; a question names one of them and
the answer is its digit. `example` is a pure function of (split, index): nothing is stored on disk.

Boxes are unit xyxy of the image: x to the right, y down, (0, 0) the top left corner of the first
pixel, (1, 1) the bottom right corner of the last one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "green": (30, 145, 60),
    "blue": (35, 75, 205),
    "yellow": (240, 205, 40),
    "purple": (135, 50, 160),
    "orange": (240, 130, 25),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
DIGITS = tuple("0123456789")
SIZES = ((336, 336), (384, 288), (288, 384))
SIDE = (0.12, 0.20)
"""Smallest and largest side of a shape, as a fraction of UNIT pixels."""
UNIT = 336
GLYPH = 0.30
"""Height of a digit as a fraction of its shape's side: 3.6 to 6 % of the image."""
APART = 0.20
"""Least distance of two shapes' centres along one axis, as a fraction of that axis."""
TEMPLATES = (
    "what number is on the {colour} {shape}?",
    "which digit is on the {colour} {shape}?",
    "what is the number on the {colour} {shape}?",
    "read the number on the {colour} {shape}.",
)
RANGE = 10**9
"""Questions per split: the seeds of split number k are k * RANGE .. (k + 1) * RANGE - 1."""
SPLITS = ("pretrain", "sft", "train", "val", "test")

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A shape with its digit. `box` and `glyph` (the digit's ink) are unit xyxy of the image."""

    colour: str
    shape: str
    digit: str
    box: Box
    glyph: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be drawn. `size` is (width, height) in pixels; `tints` are RGB of each object."""

    size: tuple[int, int]
    background: tuple[int, int, int]
    objects: tuple[SceneObject, ...]
    tints: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one picture. `gold_box` is unit xyxy of the image: the named shape's box."""

    id: str
    question: str
    answer: str
    image: Image.Image
    gold_box: Box
    objects: tuple[SceneObject, ...]


def example(split: str, index: int) -> Example:
    """Question `index` of a split; the same arguments always give the same question and pixels."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if not 0 <= index < RANGE:
        raise ValueError(f"index {index} of split {split!r} is outside 0..{RANGE - 1}")
    rng = random.Random(f"spotlight/{SPLITS.index(split) * RANGE + index}")
    scene = make_scene(rng, rng.randint(3, 6))
    target = rng.choice(scene.objects)
    return Example(
        id=f"spotlight-{split}-{index}",
        question=attribute_question(rng, target),
        answer=target.digit,
        image=draw(scene),
        gold_box=target.box,
        objects=scene.objects,
    )


def attribute_question(rng: random.Random, target: SceneObject) -> str:
    """A question that names its object by colour and shape."""
    return rng.choice(TEMPLATES).format(colour=target.colour, shape=target.shape)


def make_scene(rng: random.Random, count: int) -> Scene:
    """Place `count` objects (up to 6) with unique (colour, shape) pairs, apart from each other."""
    width, height = size = rng.choice(SIZES)
    pairs = rng.sample([(colour, shape) for colour in COLOURS for shape in SHAPES], count)
    spots: list[tuple[int, int, int]] = []
    while len(spots) < count:
        side = round(UNIT * rng.uniform(*SIDE))
        spot = (rng.randint(2, width - side - 2), rng.randint(2, height - side - 2), side)
        if all(_apart(spot, other, size) for other in spots):
            spots.append(spot)
    objects = tuple(
        _place(colour, shape, rng.choice(DIGITS), spot, size)
        for (colour, shape), spot in zip(pairs, spots, strict=True)
    )
    background = tuple(rng.randint(205, 250) for _ in range(3))
    tints = tuple(tuple(min(255, max(0, c + rng.randint(-12, 12))) for c in COLOURS[o.colour]) for o in objects)
    return Scene(size=size, background=background, objects=objects, tints=tints)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB."""
    width, height = scene.size
    image = Image.new("RGB", scene.size, scene.background)
    pen = ImageDraw.Draw(image)
    for item, tint in zip(scene.objects, scene.tints, strict=True):
        left, top = round(item.box[0] * width), round(item.box[1] * height)
        side = round(item.box[2] * width) - left
        _OUTLINES[item.shape](pen, left, top, side, tint)
        ink = (0, 0, 0) if item.colour in ("yellow", "orange") else (255, 255, 255)
        font, at, _ = _glyph(item.digit, item.shape, side)
        pen.text((left + at[0], top + at[1]), item.digit, fill=ink, font=font, stroke_width=_stroke(side))
    return image


def _apart(spot: tuple[int, int, int], other: tuple[int, int, int], size: tuple[int, int]) -> bool:
    """True if two (left, top, side) squares in pixels keep 2 pixels and APART from each other."""
    reach = (spot[2] + other[2]) / 2
    gaps = [abs((spot[k] + spot[2] / 2) - (other[k] + other[2] / 2)) for k in (0, 1)]
    return any(gap >= reach + 2 for gap in gaps) and any(
        gap >= APART * edge for gap, edge in zip(gaps, size, strict=True)
    )


def _place(colour: str, shape: str, digit: str, spot: tuple[int, int, int], size: tuple[int, int]) -> SceneObject:
    left, top, side = spot
    _, _, ink = _glyph(digit, shape, side)
    return SceneObject(
        colour=colour,
        shape=shape,
        digit=digit,
        box=_unit((left, top, left + side, top + side), size),
        glyph=_unit((left + ink[0], top + ink[1], left + ink[2], top + ink[3]), size),
    )


def _unit(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    width, height = size
    return (box[0] / width, box[1] / height, box[2] / width, box[3] / height)


def _stroke(side: int) -> int:
    """Stroke added around a digit, in pixels: makes the thin default face bold."""
    return 1 if side >= 40 else 0


@cache
def _glyph(digit: str, shape: str, side: int) -> tuple[ImageFont.FreeTypeFont, tuple[int, int], tuple[int, ...]]:
    """The font for a digit in a shape of `side` pixels, where to draw it, and its ink box, in pixels
    from the shape's top left corner. The font is the one that ships inside Pillow.
    """
    target = GLYPH * side
    font = ImageFont.load_default(target / 0.72)
    ink = font.getbbox(digit, stroke_width=_stroke(side))
    middle = (0.5 * side, (0.64 if shape == "triangle" else 0.5) * side)
    at = (round(middle[0] - (ink[0] + ink[2]) / 2), round(middle[1] - (ink[1] + ink[3]) / 2))
    return font, at, (ink[0] + at[0], ink[1] + at[1], ink[2] + at[0], ink[3] + at[1])


def _circle(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: tuple[int, int, int]) -> None:
    pen.ellipse((left, top, left + side - 1, top + side - 1), fill=tint)


def _square(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: tuple[int, int, int]) -> None:
    pen.rectangle((left, top, left + side - 1, top + side - 1), fill=tint)


def _cross(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: tuple[int, int, int]) -> None:
    edge = side - 1
    inset = round(0.27 * side)
    pen.rectangle((left + inset, top, left + edge - inset, top + edge), fill=tint)
    pen.rectangle((left, top + inset, left + edge, top + edge - inset), fill=tint)


def _triangle(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: tuple[int, int, int]) -> None:
    edge = side - 1
    pen.polygon([(left + edge / 2, top), (left + edge, top + edge), (left, top + edge)], fill=tint)


def _diamond(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: tuple[int, int, int]) -> None:
    edge, half = side - 1, (side - 1) / 2
    pen.polygon(
        [(left + half, top), (left + edge, top + half), (left + half, top + edge), (left, top + half)], fill=tint
    )


_OUTLINES: dict[str, Callable[..., None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
}
