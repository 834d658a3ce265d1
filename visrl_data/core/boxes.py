"""Boxes: the spaces in which models write them, strict parsing, exact conversion, IoU.

Used by every stage that meets a box: actor.py parses replies, diversity.py picks lattice boxes, the
critics and the answer pass see crops cut by the crop rule, training and evaluation use the same code.

Three forms of one box, and no fourth:
  Box     unit xyxy (float64, x right, y down, fractions of width and height) of the ORIGINAL image.
  cells   four ints x1, y1, x2, y2 on the lattice of the actor's space: what can be written at all.
  text    what the model reads and writes; canonical text and cells determine each other.
text -> cells -> Box -> cells -> text is the identity on the part of the lattice that lies on the image.

Departures from the paper, which is silent here and whose public code learns boxes of the square-padded
image but cuts crops as if they were of the original: a box carries its space; boxes are quantized on
the lattice before cropping (crops.py).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visrl_data.core import box_formats
from visrl_data.core.box_formats import BoxFormat

Cells = tuple[int, int, int, int]
Size = tuple[int, int]

# Each space is a lattice and a form of text (box_formats.py); families.py says which models write which.
#   unit                 [0.123, 0.456, 0.789, 0.912]  fractions of the image
#   unit_padded_square   the same text; fractions of the image padded, centered, to a square (LLaVA-1.5)
#   per_mille            [123, 456, 789, 912]  thousandths of the image
#   per_mille_json       {"bbox_2d": [123, 456, 789, 912]}  the same cells (Qwen3-VL)
#   per_mille_yx_json    {"box_2d": [456, 123, 912, 789]}  the same cells, y first (Gemma 4)
#   per_mille_points     <|box_start|>(123,456),(789,912)<|box_end|>  the same cells (Qwen2-VL)
#   per_mille_nested     <box>[[123, 456, 789, 912]]</box>  the same cells (InternVL)
#   per_mille_marked     <|begin_of_box|>[[123,456,789,912]]<|end_of_box|>  the same cells (GLM-V)
#   per_mille_tagged     <box>123 456 789 912</box>  the same cells (MiniCPM-V)
#   resized_pixels       [12, 34, 56, 78]  pixels of the image as the model's processor resized it
#   resized_pixels_json  {"bbox_2d": [12, 34, 56, 78]}  the same cells (Qwen2.5-VL)
#   paligemma_loc        <loc0456><loc0123><loc0912><loc0789>  0-1023, y first
_SPACES = {
    "unit": ("thousandths", box_formats.DECIMALS),
    "unit_padded_square": ("padded", box_formats.DECIMALS),
    "per_mille": ("thousandths", box_formats.LIST),
    "per_mille_json": ("thousandths", box_formats.BBOX_2D),
    "per_mille_yx_json": ("thousandths", box_formats.BOX_2D),
    "per_mille_points": ("thousandths", box_formats.POINTS),
    "per_mille_nested": ("thousandths", box_formats.NESTED),
    "per_mille_marked": ("thousandths", box_formats.MARKED),
    "per_mille_tagged": ("thousandths", box_formats.TAGGED),
    "resized_pixels": ("pixels", box_formats.LIST),
    "resized_pixels_json": ("pixels", box_formats.BBOX_2D),
    "paligemma_loc": ("locs", box_formats.LOCS),
}
SPACES = tuple(_SPACES)


class ImageTooThin(ValueError):
    """The image's shorter side is less than one cell of the model's lattice, so no box can be written."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box with an area: 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1, in fractions of the ORIGINAL image.

    Raises ValueError on anything else; labels that may reach out of the image go through `pixel_box`.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, float(getattr(self, field.name)))
        if not (0 <= self.x1 < self.x2 <= 1 and 0 <= self.y1 < self.y2 <= 1):
            raise ValueError(f"not a unit xyxy box with an area: {self.xyxy}")

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)


def pixel_box(xyxy: Sequence[float], size: Size) -> Box | None:
    """Convert a label in pixels of the original image to a Box, clipped to it; None when no area of it is left."""
    clipped = [min(max(value / side, 0.0), 1.0) for value, side in zip(xyxy, (*size, *size), strict=True)]
    x1, y1, x2, y2 = clipped
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the IoU of two xyxy boxes of one space; cells give the same value as the unit boxes they stand for."""
    both = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    if not both:
        return 0.0
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return min(both / either, 1.0)


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU row by row of two (n, 4) arrays of xyxy boxes; agrees with `iou`."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.T, b.T
    width, height = np.minimum(ax2, bx2) - np.maximum(ax1, bx1), np.minimum(ay2, by2) - np.maximum(ay1, by1)
    both = np.maximum(width, 0) * np.maximum(height, 0)
    either = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both
    result: np.ndarray = np.minimum(both / either, 1.0)
    return result


def bounding_box(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around all of them."""
    x1, y1, x2, y2 = zip(*(box.xyxy for box in boxes), strict=True)
    return Box(min(x1), min(y1), max(x2), max(y2))


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a lattice. unit coordinate = (cell * scale - shift) / extent, in integers.

    top: the largest cell of the model's space (its smallest is 0).
    low, high: the cells that lie on the image, rounded inward, so that units stay in [0, 1].
    """

    top: int
    scale: int
    shift: int
    extent: int

    @property
    def low(self) -> int:
        return -(-self.shift // self.scale)

    @property
    def high(self) -> int:
        return (self.shift + self.extent) // self.scale

    def unit(self, cell: int) -> float:
        return (cell * self.scale - self.shift) / self.extent

    def cells(self, start: float, end: float) -> tuple[int, int]:
        """Return the nearest cells to two unit coordinates; one cell around their middle when both fall together."""
        exact = [(value * self.extent + self.shift) / self.scale for value in (start, end)]
        first, last = (min(max(round(value), self.low), self.high) for value in exact)
        if first < last:
            return first, last
        first = min(max(math.floor(sum(exact) / 2), self.low), self.high - 1)
        return first, first + 1


@dataclass(frozen=True, slots=True)
class Frame:
    """A space bound to one image: the lattice of boxes that a model can write about it. Made by `frame`."""

    space: str
    x: Axis
    y: Axis

    @property
    def bounds(self) -> Cells:
        """The cells x1, y1, x2, y2 of the largest lattice box on the image."""
        return (self.x.low, self.y.low, self.x.high, self.y.high)

    def parse(self, text: str) -> tuple[Cells | None, str]:
        """Read a model's reply: (cells, "ok"), or (None, reason). Never raises.

        Strict: exactly one box, anywhere in the reply, in the form of this space; lists are read wherever they
        stand, x or y first as the space has it (so {"bbox_2d": [...]} parses in every space of lists), and a list of
        any other length is none.
        The numbers must be finite, in the range of the MODEL's space, and in order; they are rounded to
        the lattice (any number of decimals is read) and the box is then cut to the image. Reasons:
        no_box, several_boxes, not_finite, out_of_range, reversed, and degenerate when no width or no
        height is left at the end.
        """
        boxes = self.format.read(text)
        if len(boxes) != 1:
            return None, "several_boxes" if boxes else "no_box"
        if not all(map(math.isfinite, boxes[0])):
            return None, "not_finite"
        written = [value * 1000 for value in boxes[0]] if self.format.number == "decimal" else boxes[0]
        axes = (self.x, self.y, self.x, self.y)
        if not all(0 <= value <= axis.top for value, axis in zip(written, axes, strict=True)):
            return None, "out_of_range"
        if written[0] > written[2] or written[1] > written[3]:
            return None, "reversed"
        x1, y1, x2, y2 = (
            min(max(round(value), axis.low), axis.high) for value, axis in zip(written, axes, strict=True)
        )
        return ((x1, y1, x2, y2), "ok") if x1 < x2 and y1 < y2 else (None, "degenerate")

    def text(self, cells: Cells) -> str:
        """Return the canonical text of a lattice box."""
        return self.format.write(cells)

    @property
    def format(self) -> BoxFormat:
        return _SPACES[self.space][1]

    @property
    def grammar(self) -> str:
        """A Lark grammar of the canonical texts whose numbers are in the range of the model's space."""
        return self.format.grammar((self.x.top, self.y.top))

    def to_unit(self, cells: Cells) -> Box:
        """Convert a lattice box on the image (as `parse` and `to_cells` return it) to unit xyxy of the original."""
        x1, y1, x2, y2 = cells
        return Box(self.x.unit(x1), self.y.unit(y1), self.x.unit(x2), self.y.unit(y2))

    def to_cells(self, box: Box) -> Cells:
        """Return the nearest lattice box on the image, at least one cell wide and high."""
        (x1, x2), (y1, y2) = self.x.cells(box.x1, box.x2), self.y.cells(box.y1, box.y2)
        return (x1, y1, x2, y2)


def make_frame(space: str, image_size: Size, resized_size: Size | None = None) -> Frame:
    """Bind a space to one image.

    image_size: (width, height) in pixels of the original image. resized_size: those of the image as the
    model's processor resized it; needed by the `resized_pixels` spaces, ignored by the others.
    Raises ImageTooThin when the lattice has no room for a box: only in `unit_padded_square`, for an
    image about 500 to 1000 times as long as it is wide, or more.
    """
    x, y = (
        _axis(space, side, max(image_size), seen) for side, seen in zip(image_size, resized_size or (0, 0), strict=True)
    )
    if x.high <= x.low or y.high <= y.low:
        raise ImageTooThin(f"an image of {image_size[0]}x{image_size[1]} pixels leaves no room for a box in {space}")
    return Frame(space, x, y)


def lattice_of(space: str) -> str:
    """Return the kind of a space's lattice: thousandths, padded, pixels or locs; "" for an unknown space."""
    return _SPACES[space][0] if space in _SPACES else ""


def needs_resized_size(space: str) -> bool:
    """Return whether a frame of this space needs to know the picture as the model's processor resized it."""
    return lattice_of(space) == "pixels"


def box_tokens(text: str) -> tuple[str, ...]:
    """Return the special tokens in the canonical text of a box; none in any other text."""
    for form in {form.template: form for _, form in _SPACES.values() if form.has_special_tokens}.values():
        boxes = form.read(text)
        is_whole = len(boxes) == 1 and all(map(float.is_integer, boxes[0]))  # neither is NaN nor an infinite number
        if is_whole and form.write([int(value) for value in boxes[0]]) == text:
            return tuple(re.findall(r"<[^<>]+>", text))
    return ()


def _axis(space: str, side: int, longer: int, seen: int) -> Axis:
    if space not in _SPACES:
        raise ValueError(f"unknown box space {space!r}; expected one of {', '.join(SPACES)}")
    lattice, _ = _SPACES[space]
    if lattice == "thousandths":
        return Axis(1000, 1, 0, 1000)
    if lattice == "padded":
        # The padding before the image is an integer, as LLaVA's processor and Visual-CoT's labels have it.
        return Axis(1000, longer, 1000 * ((longer - side) // 2), 1000 * side)
    if lattice == "locs":
        return Axis(1023, 1, 0, 1023)  # PaliGemma's labels are round(1023 * unit)
    if not seen:
        raise ValueError(f"{space} needs resized_size, the (width, height) after the model's processor")
    return Axis(seen, 1, 0, seen)
