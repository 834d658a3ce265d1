"""The diversity controller (Eq. 3): keep or replace the second box of an attempt.

Between the focus pass, which samples two boxes an attempt from the actor, and the answer pass. The
second box b2 is kept if IoU(b1, b2) <= tau. Otherwise, or when b2 could not be parsed, it is replaced by
a uniformly random member of
    S = boxes on the actor's lattice, inside the image, without overlap with b1 (edges may touch),
        |area - area(b1)| <= delta * area(b1), aspect within a factor 2 of b1's.

S is never searched by trial: its members are counted exactly, in integers, and one index into them is
drawn. For a width w, which excluded boxes block a position depends only on the slabs (between two edges of
excluded boxes) that the left and the right edge fall in; for one set of blocking boxes, the free heights are
counted by the gaps between them. So the count of S is a sum over a few sets, vectorized over all widths
and heights, and the index is unranked into a width, a height, a column and a row.

Departures from the paper: S is bounded in aspect and lies on the lattice, so that neither shape nor digits
tell the controller's boxes from the actor's; the scope may be the question, where S keeps clear of
all its earlier boxes; an attempt is never lost, since S is relaxed, and that is recorded (`_plans`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from visrl_data.core.boxes import Cells, Frame, iou
from visrl_data.core.seeds import generator

Gap = tuple[int, int]  # rows that no excluded box covers: the first, and the one behind the last
ASPECT_FACTOR = 2
DELTA_STEP = 0.1
_AREA_SNAP = 1e-9  # of the first box's area: float noise that must not move the bounds of an area


@dataclass(frozen=True, slots=True)
class SecondBox:
    """An attempt's second box. origin: "actor" (b2 kept) or "controller".

    relaxed: "" or what S had to give up, joined by "+": "aspect", "area", "overlap".
    """

    cells: Cells
    origin: str
    relaxed: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """One reading of S. excluded_boxes: boxes to keep clear of; least, most: bounds of the area in cells."""

    excluded_boxes: tuple[Cells, ...]
    least: int
    most: int
    keep_aspect: bool
    relaxed: str


def choose_second_box(
    first: Cells,
    second: Cells | None,
    others: Sequence[Cells],
    frame: Frame,
    tau: float,
    delta: float,
    seed: int,
) -> SecondBox:
    """Keep or replace the second box of an attempt. All boxes are cells on `frame`, on the image.

    first: b1, the first valid box of the attempt. second: b2, or None when it was not valid.
    others: the question's boxes of earlier attempts in scope "question", () in scope "attempt"; they
    count as b1 does in the test against tau and in the disjointness, but not in area and aspect.
    tau: the largest IoU of a kept b2. delta: the tolerance on the area, a fraction of b1's.
    seed: used up only when b2 is replaced; the same arguments give the same box everywhere.
    """
    if second is not None and all(iou(box, second) <= tau for box in (first, *others)):
        return SecondBox(second, "actor")
    for plan in _plans(first, tuple(others), tau, delta):
        cells = _uniform_member(plan, first, frame, seed)
        if cells is not None:
            return SecondBox(cells, "controller", plan.relaxed)
    raise AssertionError("the last plan of _plans has a member on every frame")


def _plans(first: Cells, others: tuple[Cells, ...], tau: float, delta: float) -> Iterator[_Plan]:
    """Yield S, then what replaces it when it is empty. The first with a member is used.

    1. S as defined.                                                    ""
    2. Any aspect.                                                      "aspect"
    3. And delta grown by 0.1 up to 1, where boxes of one cell count,   "aspect+area"
       so this fails only when the excluded boxes leave no cell free.
    4. Scope "question" only: 1 to 3, clear of b1 alone.                "overlap", "aspect+overlap", ...
    5. b1 is the whole image: a box whose IoU with it is at most tau    "aspect+area+overlap"
       and at least (1 - delta) * tau; if there is none, at most tau;
       one cell if tau is too small even for that.
    """
    area = _area(first)
    scopes = [((first, *others), ""), *([((first,), "overlap")] if others else [])]
    for excluded_boxes, suffix in scopes:
        for keep_aspect, grown, names in _tolerances(delta):
            relaxed = "+".join(name for name in (*names, suffix) if name)
            yield _Plan(excluded_boxes, *_area_bounds(area, 1 - grown, 1 + grown), keep_aspect, relaxed)
    for low in ((1 - delta) * tau, 0.0):
        least, most = _area_bounds(area, low, tau)
        yield _Plan((), least, max(most, 1), False, "aspect+area+overlap")


def _tolerances(delta: float) -> Iterator[tuple[bool, float, tuple[str, ...]]]:
    yield True, delta, ()
    yield False, delta, ("aspect",)
    for step in range(1, math.ceil((1 - delta) / DELTA_STEP - 1e-9) + 1):
        yield False, min(delta + step * DELTA_STEP, 1.0), ("aspect", "area")


def _area(box: Cells) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _area_bounds(area: int, low: float, high: float) -> tuple[int, int]:
    """Return the least and the largest integer in [low * area, high * area], at least 1."""
    return max(math.ceil((low - _AREA_SNAP) * area), 1), math.floor((high + _AREA_SNAP) * area)


def _uniform_member(plan: _Plan, first: Cells, frame: Frame, seed: int) -> Cells | None:
    """Draw uniformly from the boxes that a plan allows; None when there are none."""
    x_low, y_low, x_high, y_high = frame.bounds
    widths = np.arange(1, x_high - x_low + 1, dtype=np.int64)
    shortest, tallest = _height_range(widths, y_high - y_low, plan, first)
    widths, shortest, tallest = (a[shortest <= tallest] for a in (widths, shortest, tallest))
    # S is counted by the free rows of a column, the gaps between the excluded boxes that block it: the count of a size
    # is (columns with these gaps) x (rows inside them), summed over all that occur.
    columns = _count_columns(widths, plan, frame)  # {gaps: (W,) number of columns}
    rows = {gaps: _count_rows(gaps, y_high - y_low) for gaps in columns}  # {gaps: (H + 1,)}
    per_width = np.zeros(len(widths), np.int64)
    for gaps, count in columns.items():
        upto = np.concatenate([[0], np.cumsum(rows[gaps])])  # upto[h] = rows of all heights below h
        per_width += count * (upto[tallest + 1] - upto[shortest])
    total = int(per_width.sum())
    if total == 0:
        return None
    # One draw decides: the index of a member is unranked into its width, then its height, then its position.
    rank = int(generator(seed).integers(total))
    at, rank = _unrank(rank, per_width)
    allowed = slice(shortest[at], tallest[at] + 1)
    per_height = sum(count[at] * rows[gaps][allowed] for gaps, count in columns.items())
    above, rank = _unrank(rank, per_height)
    width, height = int(widths[at]), int(shortest[at]) + above
    return _free_position(width, height, rank, plan.excluded_boxes, frame)


def _unrank(rank: int, counts: np.ndarray) -> tuple[int, int]:
    """Return which bin the rank falls in, and the rank inside it."""
    ends = np.cumsum(counts)
    at = int(np.searchsorted(ends, rank, side="right"))
    return at, rank - int(ends[at] - counts[at])


def _height_range(widths: np.ndarray, limit: int, plan: _Plan, first: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return the shortest and tallest height allowed for each width, by area and aspect, in 1..limit."""
    shortest = -(-plan.least // widths)
    tallest = np.minimum(plan.most // widths, limit)
    if plan.keep_aspect:
        width, height = first[2] - first[0], first[3] - first[1]
        shortest = np.maximum(shortest, -(-widths * height // (ASPECT_FACTOR * width)))
        tallest = np.minimum(tallest, ASPECT_FACTOR * widths * height // width)
    return shortest, tallest


def _count_columns(widths: np.ndarray, plan: _Plan, frame: Frame) -> dict[tuple[Gap, ...], np.ndarray]:
    """Count, by the rows that the excluded boxes leave free, the left edges at which a box of each width can lie.

    Gaps that are lower than any box of the width, by its area, are left out, and so are columns without any gap.
    """
    low, y_low, high, y_high = frame.bounds
    boxes = plan.excluded_boxes
    edges = sorted({low, high, *(box[0] for box in boxes), *(box[2] for box in boxes)})
    slabs = list(zip(edges, edges[1:], strict=False))
    by_top = sorted(boxes, key=lambda box: box[1])
    columns: dict[tuple[Gap, ...], np.ndarray] = {}
    for i, (left, left_end) in enumerate(slabs if len(widths) else []):
        to_the_right = [box for box in by_top if box[2] > left]
        for right, right_end in slabs[i:]:
            # left <= x < left_end and right < x + width <= right_end
            if right + 2 - left_end > widths[-1]:
                break
            lowest = -(-plan.least // (right_end - left))
            blocking = (box for box in to_the_right if box[0] < right_end)
            gaps = tuple(gap for gap in _gaps(blocking, y_low, y_high) if gap[1] - gap[0] >= lowest)
            if not gaps:
                continue
            most = np.minimum(left_end - 1, right_end - widths)
            count = np.maximum(most - np.maximum(left, right + 1 - widths) + 1, 0)
            if count.any():
                columns[gaps] = columns.get(gaps, 0) + count
    return columns


def _count_rows(gaps: Sequence[Gap], tallest: int) -> np.ndarray:
    """Count for each height from 0 to `tallest` the top edges that put a box of it inside a gap."""
    sizes = np.bincount([end - start for start, end in gaps], minlength=tallest + 1)
    at_least = np.cumsum(sizes[::-1])[::-1]  # gaps of this height or more
    return np.cumsum(at_least[::-1])[::-1]


def _gaps(blocking: Iterable[Cells], low: int, high: int) -> Iterator[Gap]:
    """Yield the stretches of rows that no blocking box covers. blocking: ordered by top edge."""
    start = low
    for _, top, _, bottom in blocking:
        if top > start:
            yield start, top
        start = max(start, bottom)
    if high > start:
        yield start, high


def _free_position(width: int, height: int, rank: int, excluded_boxes: Sequence[Cells], frame: Frame) -> Cells:
    """Return the rank-th free placement of a box of one size, column by column."""
    x_low, y_low, x_high, y_high = frame.bounds
    x = np.arange(x_low, x_high - width + 1)
    meets = np.array([(x < box[2]) & (x + width > box[0]) for box in excluded_boxes], bool)
    meets = meets.reshape(len(excluded_boxes), len(x))
    changes = (meets[:, 1:] != meets[:, :-1]).any(axis=0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])  # of the runs of columns with the same blocking boxes
    by_top = sorted(range(len(excluded_boxes)), key=lambda k: excluded_boxes[k][1])
    gaps = [list(_gaps((excluded_boxes[k] for k in by_top if meets[k, start]), y_low, y_high)) for start in starts]
    free = np.array([sum(max(bottom - top - height + 1, 0) for top, bottom in run) for run in gaps])
    at, rank = _unrank(rank, free * np.diff(starts, append=len(x)))
    column, rank = divmod(rank, int(free[at]))
    for start, end in gaps[at]:
        tops = max(end - start - height + 1, 0)
        if rank < tops:
            break
        rank -= tops
    left, top = int(x[starts[at]]) + column, start + rank
    return (left, top, left + width, top + height)
