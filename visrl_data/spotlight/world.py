"""The drawn world: scenes of coloured shapes, each with one digit that is too small to read from afar.

First module of Spotlight: questions for the pipeline, training and measuring all come from here.
A scene holds 3 to 6 shapes whose (colour, shape) pairs, and whose digits, are unique; a question names
one of them and the answer is its digit. Three levels of naming:

    attribute    the red circle
    relation     the shape left of the blue cross: the nearest of those more to the left than up or down
    superlative  the largest shape, the leftmost shape, ...

`example` is a pure function of (split, index, options): nothing is stored on disk. The split "transfer"
has another look (other strokes of digits, other shapes beside the known ones, other backgrounds), which no
training of Spotlight sees.

Boxes are unit xyxy of the image: x to the right, y down, (0, 0) the top left corner of the first
pixel, (1, 1) the bottom right corner of the last one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
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
GLYPH = 0.30
"""Height of a digit as a fraction of its shape's side: 3.6 to 6 % of that root."""
APART = 0.20
"""Least distance of two shapes' centres along one axis, as a fraction of that axis."""
MOST = 7
"""Most distractors: shapes beside the one that is asked for."""

LEVELS = ("attribute", "relation", "superlative")
SHARES = (0.5, 0.25, 0.25)
"""Shares of the levels in every split."""
TEMPLATES = (
    "what number is on the {thing}?",
    "which digit is on the {thing}?",
    "what is the number on the {thing}?",
    "read the number on the {thing}.",
)
RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
NEARER = 1.25
"""In a relation, the second nearest shape is at least this many times as far as the nearest."""
SUPERLATIVES = ("largest", "smallest", "leftmost", "rightmost", "highest", "lowest")
CLEARLY = 0.04
"""A superlative leads by this share of the image's side; a largest or smallest one by 12 % of its own."""
RANGE = 10**9
"""Questions per split: the seeds of split number k are k * RANGE .. (k + 1) * RANGE - 1."""
SPLITS = ("pretrain", "sft", "train", "val", "test", "transfer")

Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A shape with its digit. `box` and `glyph` (the digit's ink) are unit xyxy of the image."""

    colour: str
    shape: str
    digit: str
    box: Box
    glyph: Box


@dataclass(frozen=True, slots=True)
class Stroke:
    """A mark of clutter, behind the shapes: a line, unit (x1, y1, x2, y2); width in pixels."""

    ends: Box
    width: int
    tint: Colour


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be drawn. `size` is (width, height) in pixels; `tints` are RGB of each object.

    `stripes`: the second colour of a striped background, in the transfer look alone.
    """

    size: tuple[int, int]
    background: Colour
    objects: tuple[SceneObject, ...]
    tints: tuple[Colour, ...]
    clutter: tuple[Stroke, ...] = ()
    stripes: Colour | None = None


@dataclass(frozen=True, slots=True)
class Thing:
    """Words that name exactly one object of a scene.

    eye_catching: the object that a hasty look takes instead: the largest of those that fit a part of the
    words, or the one that a relation mentions. It may be the right one.
    """

    level: str
    words: str
    target: SceneObject
    eye_catching: SceneObject


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one picture. `gold_box` is unit xyxy of the image: the named shape's box."""

    id: str
    level: str
    question: str
    answer: str
    image: Image.Image
    gold_box: Box
    objects: tuple[SceneObject, ...]


def example(
    split: str, index: int, level: str | None = None, distractors: int | None = None, clutter: int | None = None
) -> Example:
    """Question `index` of a split; the same arguments always give the same question and pixels.

    level: of the question; None draws one. distractors: other shapes, 2 to 5 if None. clutter: strokes
    behind the shapes, 0 to 8 if None. Raises ValueError for what there is not.
    """
    _check("split", split, SPLITS)
    if level is not None:
        _check("level", level, LEVELS)
    if not 0 <= index < RANGE:
        raise ValueError(f"index {index} of split {split!r} is outside 0..{RANGE - 1}")
    if distractors is not None and not 1 <= distractors <= MOST:
        raise ValueError(f"{distractors} distractors: expected 1 to {MOST}")
    if clutter is not None and not 0 <= clutter <= 1000:
        raise ValueError(f"{clutter} strokes of clutter: expected 0 to 1000")
    seed = f"spotlight/{SPLITS.index(split) * RANGE + index}"
    rng = random.Random(seed)
    level = level or rng.choices(LEVELS, SHARES)[0]
    count = rng.randint(3, 6) if distractors is None else distractors + 1
    for attempt in itertools.count():  # not every scene has a clear relation
        scene = make_scene(random.Random(f"{seed}/{attempt}"), count, clutter, transfer=split == "transfer")
        if any(thing.level == level for thing in things_of(scene)):
            break
    thing = choose_thing(rng, scene, level=level)
    return Example(
        id=f"spotlight-{split}-{index}",
        level=level,
        question=question_of(rng, thing),
        answer=thing.target.digit,
        image=draw(scene),
        gold_box=thing.target.box,
        objects=scene.objects,
    )


def things_of(scene: Scene) -> list[Thing]:
    """Every way to name an object of a scene without doubt."""
    things = []
    for item in scene.objects:
        alike = [other for other in scene.objects if other.colour == item.colour or other.shape == item.shape]
        things.append(Thing("attribute", f"{item.colour} {item.shape}", item, max(alike, key=_area)))
        for words, direction in RELATIONS.items():
            nearest = _neighbour(item, direction, scene)
            if nearest is not None:
                things.append(Thing("relation", f"shape {words} the {item.colour} {item.shape}", nearest, item))
    largest = max(scene.objects, key=_area)
    for words in SUPERLATIVES:
        foremost = _foremost(words, scene)
        if foremost is not None:
            things.append(Thing("superlative", f"{words} shape", foremost, largest))
    return things


def choose_thing(
    rng: random.Random, scene: Scene, target: SceneObject | None = None, level: str | None = None
) -> Thing:
    """A random thing of a scene: of this object or of any, and of this level, if it has one there, or of any."""
    things = [thing for thing in things_of(scene) if target is None or thing.target is target]
    level = level or rng.choices(LEVELS, SHARES)[0]
    return rng.choice([thing for thing in things if thing.level == level] or things)


def question_of(rng: random.Random, thing: Thing) -> str:
    """A question about a thing, in one of the wordings."""
    return rng.choice(TEMPLATES).format(thing=thing.words)


def make_scene(rng: random.Random, count: int, clutter: int | None = None, transfer: bool = False) -> Scene:
    """Place `count` objects (up to 8) with unique (colour, shape) pairs and digits, apart from each other."""
    width, height = size = rng.choice(SIZES)
    shapes = SHAPES + NEW_SHAPES if transfer else SHAPES
    pairs = rng.sample([(colour, shape) for colour in COLOURS for shape in shapes], count)
    objects = tuple(
        _place(colour, shape, digit, spot, size, transfer)
        for (colour, shape), digit, spot in zip(pairs, rng.sample(DIGITS, count), _spots(rng, count, size), strict=True)
    )
    background = (rng.randint(205, 250), rng.randint(205, 250), rng.randint(205, 250))
    tints = tuple(_varied(COLOURS[o.colour], lambda c: min(255, max(0, c + rng.randint(-12, 12)))) for o in objects)
    strokes = [
        Stroke(
            ends=(rng.random(), rng.random(), rng.random(), rng.random()),
            width=rng.randint(1, 3),
            tint=(rng.randint(120, 200),) * 3,
        )
        for _ in range(rng.randint(0, 8) if clutter is None else clutter)
    ]
    stripes = _varied(background, lambda c: max(0, c - rng.randint(15, 35))) if transfer else None
    return Scene(size, background, objects, tints, tuple(strokes), stripes)


def _varied(colour: Colour, change: Callable[[int], int]) -> Colour:
    red, green, blue = colour
    return (change(red), change(green), change(blue))


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB."""
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
        _OUTLINES[item.shape](pen, left, top, side, tint)
        ink = (0, 0, 0) if item.colour in ("yellow", "orange") else (255, 255, 255)
        if scene.stripes is not None:
            _segments(pen, item, scene.size, ink)
            continue
        font, at, _ = _glyph(item.digit, item.shape, side)
        pen.text((left + at[0], top + at[1]), item.digit, fill=ink, font=font, stroke_width=_stroke(side))
    return image


def _check(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ValueError(f"unknown {what} {given!r}; expected one of {', '.join(known)}")


def _area(item: SceneObject) -> float:
    return (item.box[2] - item.box[0]) * (item.box[3] - item.box[1])


def _centre(item: SceneObject, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels."""
    return (item.box[0] + item.box[2]) / 2 * size[0], (item.box[1] + item.box[3]) / 2 * size[1]


def _neighbour(anchor: SceneObject, direction: tuple[int, int], scene: Scene) -> SceneObject | None:
    """The nearest object more in this direction than aside, or None if there is none or it is not clear."""
    x, y = _centre(anchor, scene.size)
    found = []
    for item in scene.objects:
        across, down = (a - b for a, b in zip(_centre(item, scene.size), (x, y), strict=True))
        along, aside = (across * direction[0], abs(down)) if direction[0] else (down * direction[1], abs(across))
        if item is not anchor and along > aside:
            found.append((math.hypot(across, down), item))
    found.sort(key=lambda pair: pair[0])
    if not found or (len(found) > 1 and found[1][0] < NEARER * found[0][0]):
        return None
    return found[0][1]


def _foremost(words: str, scene: Scene) -> SceneObject | None:
    """The object that a superlative names, or None if it does not lead clearly."""
    sign = 1 if words in ("largest", "rightmost", "lowest") else -1

    def value(item: SceneObject) -> float:
        if words in ("largest", "smallest"):
            return math.log(_area(item)) / 2 / math.log(1.12) * CLEARLY
        axis = 0 if words in ("leftmost", "rightmost") else 1
        return (item.box[axis] + item.box[axis + 2]) / 2

    if len(scene.objects) == 1:
        return None
    first, second = sorted(scene.objects, key=lambda item: sign * value(item), reverse=True)[:2]
    return first if abs(value(first) - value(second)) >= CLEARLY else None


def _spots(rng: random.Random, count: int, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(left, top, side) of `count` squares in pixels; begins anew when the last ones find no room."""
    unit = math.sqrt(size[0] * size[1])
    while True:
        spots: list[tuple[int, int, int]] = []
        for _ in range(40 * count):
            side = round(unit * rng.uniform(*SIDE))
            spot = (rng.randint(2, size[0] - side - 2), rng.randint(2, size[1] - side - 2), side)
            if all(_apart(spot, other, size) for other in spots):
                spots.append(spot)
            if len(spots) == count:
                return spots


def _apart(spot: tuple[int, int, int], other: tuple[int, int, int], size: tuple[int, int]) -> bool:
    """True if two (left, top, side) squares in pixels keep 2 pixels and APART from each other."""
    reach = (spot[2] + other[2]) / 2
    gaps = [abs((spot[k] + spot[2] / 2) - (other[k] + other[2] / 2)) for k in (0, 1)]
    return any(gap >= reach + 2 for gap in gaps) and any(
        gap >= APART * edge for gap, edge in zip(gaps, size, strict=True)
    )


def _place(
    colour: str, shape: str, digit: str, spot: tuple[int, int, int], size: tuple[int, int], transfer: bool
) -> SceneObject:
    left, top, side = spot
    ink = _segment_box(shape, side) if transfer else _glyph(digit, shape, side)[2]
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


def _middle(shape: str, side: int) -> tuple[float, float]:
    """Where a digit's middle is, in pixels from its shape's top left corner."""
    return 0.5 * side, (0.64 if shape == "triangle" else 0.5) * side


def _stroke(side: int) -> int:
    """Stroke added around a digit, in pixels: makes the thin default face bold."""
    return 1 if side >= 40 else 0


@cache
def _glyph(digit: str, shape: str, side: int) -> tuple[Font, tuple[int, int], tuple[float, float, float, float]]:
    """The font for a digit in a shape of `side` pixels, where to draw it, and its ink box, in pixels
    from the shape's top left corner. The font is the one that ships inside Pillow.
    """
    target = GLYPH * side
    font = ImageFont.load_default(target / 0.72)
    ink = font.getbbox(digit, stroke_width=_stroke(side))
    middle = _middle(shape, side)
    at = (round(middle[0] - (ink[0] + ink[2]) / 2), round(middle[1] - (ink[1] + ink[3]) / 2))
    return font, at, (ink[0] + at[0], ink[1] + at[1], ink[2] + at[0], ink[3] + at[1])


_LIT = {"0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc"} | {
    "8": "abcdefg",
    "9": "abcdfg",
}
_ENDS = {"a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2), "e": (0, 1, 0, 2)} | {
    "f": (0, 0, 0, 1),
    "g": (0, 1, 1, 1),
}
"""The seven segments of a digit, as corners of a box of 1 x 2."""


def _segment_box(shape: str, side: int) -> tuple[int, int, int, int]:
    """Ink box of a seven-segment digit, in pixels from its shape's top left corner."""
    middle, high = _middle(shape, side), GLYPH * side
    wide = 0.6 * high
    left, top = round(middle[0] - wide / 2), round(middle[1] - high / 2)
    return left, top, round(middle[0] + wide / 2), round(middle[1] + high / 2)


def _segments(pen: ImageDraw.ImageDraw, item: SceneObject, size: tuple[int, int], ink: Colour) -> None:
    left, top, right, bottom = (round(share * edge) for share, edge in zip(item.glyph, size * 2, strict=True))
    xs, ys = (left, right - 2), (top, (top + bottom) // 2 - 1, bottom - 2)
    for name in _LIT[item.digit]:
        x1, y1, x2, y2 = _ENDS[name]
        pen.rectangle((xs[x1], ys[y1], xs[x2] + 1, ys[y2] + 1), fill=ink)


def _circle(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Colour) -> None:
    pen.ellipse((left, top, left + side - 1, top + side - 1), fill=tint)


def _square(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Colour) -> None:
    pen.rectangle((left, top, left + side - 1, top + side - 1), fill=tint)


def _cross(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Colour) -> None:
    edge = side - 1
    inset = round(0.27 * side)
    pen.rectangle((left + inset, top, left + edge - inset, top + edge), fill=tint)
    pen.rectangle((left, top + inset, left + edge, top + edge - inset), fill=tint)


def _polygon(corners: Sequence[tuple[float, float]]) -> Callable[..., None]:
    """An outline from its corners, in fractions of the side."""

    def outline(pen: ImageDraw.ImageDraw, left: int, top: int, side: int, tint: Colour) -> None:
        edge = side - 1
        pen.polygon([(left + edge * x, top + edge * y) for x, y in corners], fill=tint)

    return outline


_STAR = [
    (0.5 + reach * math.sin(k * math.pi / 5) / 1.902, (1 - reach * math.cos(k * math.pi / 5)) / 1.809)
    for k, reach in enumerate((1.0, 0.6) * 5)
]
_OUTLINES: dict[str, Callable[..., None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon([(0.5, 0), (1, 1), (0, 1)]),
    "diamond": _polygon([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),
    "cross": _cross,
    "star": _polygon(_STAR),
    "hexagon": _polygon([(0.25, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0.25, 1), (0, 0.5)]),
}
