"""Read the gold boxes of a row. Generation never sees them, so that a bad one costs its label and not the question.

A label is one region or a list of regions: a box [x1, y1, x2, y2] (or [x, y, width, height], COCO's format), or a
polygon, of which the bounding box is kept: [x1, y1, x2, y2, x3, y3, ...] or a list of points [x, y].

Problems: bad_box (the region is left out), reversed_box (its corners were exchanged, and are put right).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visrl_data.core.boxes import Box, Size, pixel_box
from visrl_data.core.config import GOLD_SPACES
from visrl_data.core.records import LabelProblem

_NOISE = 0.001  # of the image's side: how far a fraction may be outside, as rounding leaves it
_BEYOND = 1 / 8  # of the image's side: a box in pixels that reaches further is one of another scale
_FIT = "As x, y, width, height it fits: if the boxes are COCO's, --gold-format xywh"


class _BadBox(ValueError):
    """Raised for a region that is no box; never leaves this module."""


def read_gold(value: Any, space: Any, form: str, size: Size) -> tuple[tuple[Box, ...], tuple[LabelProblem, ...]]:
    """Return the labels of a row as unit boxes, and what was wrong with them.

    value: a region, a list of regions, or None. space: "unit", fractions of the original image of `size` (width,
    height), or "pixels" of it, of which a little beyond the image is cut off. form: "xyxy" or "xywh", of boxes.
    """
    if value is None:
        return (), ()
    if space not in GOLD_SPACES:
        return (), (LabelProblem("bad_box", f"box_space {space!r}: expected one of {', '.join(GOLD_SPACES)}"[:200]),)
    if not isinstance(value, (list, tuple)):
        return (), (LabelProblem("bad_box", f"expected a list of [x1, y1, x2, y2], got {value!r}"[:200]),)
    boxes, problems = [], []
    for region in [value] if _is_flat(value) or _is_outline(value) else value:
        try:
            corners = _corners(region, form)
            if corners[0] > corners[2] or corners[1] > corners[3]:
                corners = _put_right(corners)
                problems.append(LabelProblem("reversed_box", f"{region!r}{_hint(region, space, form, size)}"[:200]))
            boxes.append(_box(corners, space, size))
        except _BadBox as error:
            problems.append(LabelProblem("bad_box", f"{error}{_hint(region, space, form, size)}"[:300]))
    return tuple(boxes), tuple(problems)


def _is_flat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_number, value))


def _is_outline(value: Any) -> bool:
    """Return whether it is a polygon as a list of points."""
    return isinstance(value, (list, tuple)) and len(value) > 2 and all(_is_flat(p) and len(p) == 2 for p in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12  # not NaN, inf


def _corners(region: Any, form: str) -> Sequence[float]:
    """Return x1, y1, x2, y2 of a box, or of the bounding box of a polygon."""
    numbers = [number for point in region for number in point] if _is_outline(region) else region
    if _is_flat(numbers) and len(numbers) == 4:
        x, y, a, b = numbers
        if form == "xywh" and min(a, b) < 0:
            raise _BadBox(f"a negative width or height: {region!r}")
        return [x, y, x + a, y + b] if form == "xywh" else numbers
    if _is_flat(numbers) and len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[::2], numbers[1::2]
        return [min(xs), min(ys), max(xs), max(ys)]
    raise _BadBox(f"expected four finite numbers, or the points of a polygon, got {region!r}"[:200])


def _put_right(corners: Sequence[float]) -> Sequence[float]:
    x1, y1, x2, y2 = corners
    return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]


def _box(corners: Sequence[float], space: str, size: Size) -> Box:
    if space == "unit":
        return _unit_box(corners)
    beyond = max(-min(corners[0] / size[0], corners[1] / size[1]), corners[2] / size[0] - 1, corners[3] / size[1] - 1)
    if beyond > _BEYOND:
        raise _BadBox(f"{corners!r} is far outside of the {size[0]}x{size[1]} image: of another scale, it seems"[:160])
    if min(corners[2] - corners[0], corners[3] - corners[1]) < 1:
        hint = " (fractions are --gold-space unit)" if max(corners) <= 1 else ""
        raise _BadBox(f"smaller than a pixel: {corners!r}{hint}")
    box = pixel_box(corners, size)
    if box is None:
        raise _BadBox(f"outside of the {size[0]}x{size[1]} image: {corners!r}")
    return box


def _unit_box(corners: Sequence[float]) -> Box:
    if min(corners) < -_NOISE or max(corners) > 1 + _NOISE:
        raise _BadBox(f"not within 0 and 1: {corners!r} (pixels are --gold-space pixels)")
    try:
        return Box(*(min(max(number, 0.0), 1.0) for number in corners))
    except ValueError as error:
        raise _BadBox(f"no area: {corners!r}") from error


def _hint(region: Any, space: str, form: str, size: Size) -> str:
    """Say that a box fits as COCO's, where it does."""
    if form != "xyxy" or not _is_flat(region) or len(region) != 4:
        return ""
    try:
        _box(_corners(region, "xywh"), space, size)
    except _BadBox:
        return ""
    return f". {_FIT}"
