"""The geometry of the page's histograms and maps; page_charts.html.j2 draws it.

Between the report and the page. Counts come from the report wherever it has them; what it lacks (where
boxes lie, how scores and IoUs spread over the labels) is counted here from the same tables.
A chart is WIDTH x HEIGHT units of its SVG, y down.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.gold_regions import POSITIVE_IOU, gold_ious
from visrl_data.report.accounting import box_array, question_rows
from visrl_data.report.measures import histogram, iou_histogram
from visrl_data.report.run_statistics import FINEST_BIN

WIDTH, HEIGHT = 340, 176
_LEFT, _RIGHT, _TOP, _BASE = 8, 332, 30, 150
_MIDDLE, _HALF = 86, 56  # of a mirrored chart
_ASIDE = 56  # room on the right for what has no place on the axis
PAIRED = ("win", "lose")
GRID = 20  # cells on a side of a heat map
_PARTS = 64  # a cell's side in a heat map's integers
_ROWS = 100_000  # boxes counted at a time


@dataclass(frozen=True, slots=True)
class Bar:
    """kind is a class of page.css; title says what the bar stands for."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A histogram. ticks: (x, label); marks: (x, label, text-anchor); names: of what is up and what is down."""

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str, str], ...] = ()
    names: tuple[str, ...] = ()
    peak: str = ""

    @property
    def base(self) -> int:
        return _MIDDLE if self.names else _BASE


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Where boxes lie. cells: (column, row, opacity) of those that any box covers; peak: the largest share of
    the boxes over one cell.
    """

    title: str
    kind: str
    boxes: int
    peak: float
    cells: tuple[tuple[int, int, float], ...]


def score_plot(title: str, critic: dict[str, Any], win: float, lose: float) -> Plot:
    """A critic's scores, with the regions of W and L marked and what could not be read apart."""
    counts, unparsed = list(critic["histogram"].values()), critic["unparsed"]
    steps = [float(step) for step in critic["histogram"]]
    most = max([*counts, unparsed, 1])
    right = _RIGHT - _ASIDE
    wide = (right - _LEFT) / len(counts)
    kinds = ["win" if step >= win else "lose" if step <= lose else "plain" for step in steps]
    bars = [
        _bar(_LEFT + i * wide, wide, n / most, kind, f"score {step:g}: {n:,}")
        for i, (step, n, kind) in enumerate(zip(steps, counts, kinds, strict=True))
    ]
    bars.append(_bar(right + 20, 24, unparsed / most, "unread", f"unparsed: {unparsed:,}"))
    low, high = bisect.bisect_right(steps, lose), bisect.bisect_left(steps, win)
    marks = ((_LEFT + low * wide, f"L \u2264 {lose:g}", "end"), (_LEFT + high * wide, f"W \u2265 {win:g}", "start"))
    ticks = (*_score_ticks(steps, _LEFT, wide), (right + 32, "unparsed"))
    return Plot(title, tuple(bars), ticks, marks, (), f"{most:,}")


@dataclass(frozen=True, slots=True)
class Half:
    """One side of a mirrored histogram; kind is a class of page.css."""

    name: str
    kind: str
    counts: dict[str, int]


def mirror_plot(title: str, up: Half, down: Half, edges: bool) -> Plot:
    """Two histograms over the same bins, each as shares of its own kind: the first up, the second down.

    edges: the keys are lower edges of bins, not their centres.
    """
    shares = [[_share(n, sum(half.counts.values())) for n in half.counts.values()] for half in (up, down)]
    most = max([*shares[0], *shares[1]]) or 1
    steps = [float(step) for step in up.counts]
    wide = (_RIGHT - _LEFT) / len(steps)
    bars = []
    for half, heights in zip((up, down), shares, strict=True):
        for i, (n, height) in enumerate(zip(half.counts.values(), heights, strict=True)):
            tall = max(_HALF * height / most, 1.0 if n else 0.0)
            top = _MIDDLE - tall if half is up else _MIDDLE
            bars.append(_placed(_LEFT + i * wide, top, wide, tall, half.kind, f"{steps[i]:g}, {half.name}: {n:,}"))
    ticks = _edge_ticks(_LEFT, wide * len(steps)) if edges else _score_ticks(steps, _LEFT, wide)
    names = tuple(f"{half.name}: {sum(half.counts.values()):,}" for half in (up, down))
    return Plot(title, tuple(bars), ticks, (), names, f"{100 * most:.0f} % of its kind")


def iou_plot(title: str, found: dict[str, int]) -> Plot:
    """Counts in bins of IoU."""
    most, wide = max([*found.values(), 1]), (_RIGHT - _LEFT) / len(found)
    bars = [
        _bar(_LEFT + i * wide, wide, n / most, "plain", f"IoU from {edge}: {n:,}")
        for i, (edge, n) in enumerate(found.items())
    ]
    return Plot(title, tuple(bars), _edge_ticks(_LEFT, wide * len(found)), (), (), f"{most:,}")


def _bar(x: float, wide: float, share: float, kind: str, title: str) -> Bar:
    tall = max((_BASE - _TOP) * share, 1.0 if share else 0.0)
    return _placed(x, _BASE - tall, wide, tall, kind, title)


def _placed(x: float, y: float, wide: float, tall: float, kind: str, title: str) -> Bar:
    """With a gap of a tenth between bars."""
    return Bar(round(x + wide * 0.05, 2), round(y, 2), round(wide * 0.9, 2), round(tall, 2), kind, title)


def _score_ticks(steps: list[float], left: float, wide: float) -> tuple[tuple[float, str], ...]:
    """A label under each bin when they are few, else under the fifths."""
    named = [(i, step) for i, step in enumerate(steps) if len(steps) <= 6 or abs(step * 5 - round(step * 5)) < 1e-6]
    return tuple((round(left + (i + 0.5) * wide, 2), f"{step:g}") for i, step in named)


def _edge_ticks(left: float, whole: float) -> tuple[tuple[float, str], ...]:
    return tuple((round(left + whole * i / 5, 2), f"{i / 5:g}") for i in range(6))


def label_plots(questions: pa.Table, candidates: pa.Table, pairs: pa.Table, report: dict[str, Any]) -> dict[str, Plot]:
    """Scores and IoUs against the labels, for what has labels; empty when nothing has."""
    if report["audit"]["pairs"] is None:
        return {}
    gold, rule = questions["gold_boxes"], report["settings"]["gold_rule"]
    rows = question_rows(pairs["question_id"], questions)
    sides = [gold_ious(box_array(pairs[f"{side}_box"]), rows, gold, rule) for side in ("win", "lose")]
    win, lose = (iou_histogram(iou[~np.isnan(iou)]) for iou in sides)
    halves = Half("win, up", "win", win), Half("lose, down", "lose", lose)
    plots = {"pairs": mirror_plot("IoU with the label", *halves, edges=True)}
    critic = report["critics"]["box"]
    if critic is not None:
        iou = gold_ious(box_array(candidates["box"]), question_rows(candidates["question_id"], questions), gold, rule)
        score, step = candidates["box_score"].to_numpy(), max(report["settings"]["score_step"], FINEST_BIN)
        positive, negative = (histogram(score[part], step) for part in (iou > POSITIVE_IOU, iou <= POSITIVE_IOU))
        up = Half(f"on the label (IoU > {POSITIVE_IOU:g}), up", "up", positive)
        plots["critic"] = mirror_plot("Box score and label", up, Half("off it, down", "down", negative), edges=False)
    return plots


def heat_maps(questions: pa.Table, candidates: pa.Table, pairs: pa.Table) -> list[HeatMap]:
    """Actor against controller and labels on one scale, win against lose on another; only those that exist."""
    boxes, origin = box_array(candidates["box"]), candidates["box_origin"]
    labels = pc.list_flatten(questions["gold_boxes"])
    kinds = [
        ("Actor's boxes", "plain", boxes[pc.equal(origin, "actor").to_numpy()]),
        ("Controller's boxes", "plain", boxes[pc.equal(origin, "controller").to_numpy()]),
        ("Win boxes", "win", box_array(pairs["win_box"])),
        ("Lose boxes", "lose", box_array(pairs["lose_box"])),
        ("Labels", "gold", box_array(labels)),
    ]
    found = [(title, kind, len(some), coverage(some)) for title, kind, some in kinds if len(some)]
    scales = {
        paired: max((float(share.max()) for _, kind, _, share in found if (kind in PAIRED) == paired), default=0.0)
        for paired in (True, False)
    }
    return [
        HeatMap(title, kind, number, float(share.max()), _cells(share / (scales[kind in PAIRED] or 1.0)))
        for title, kind, number, share in found
    ]


def coverage(boxes: np.ndarray) -> np.ndarray:
    """For each cell [row, column] of the unit square, the mean share of it that a box covers.

    Sums of integers in float64, so exact in any order of the additions.
    """
    total = np.zeros((GRID, GRID))
    for start in range(0, len(boxes), _ROWS):
        across, down = (_overlap(boxes[start : start + _ROWS, axis::2]) for axis in (0, 1))
        total += down.T @ across
    return total / (_PARTS**2 * max(len(boxes), 1))


def _overlap(spans: np.ndarray) -> np.ndarray:
    """(n, 2) spans in [0, 1] -> (n, GRID): how many parts of each cell a span covers."""
    ends = np.round(spans * GRID * _PARTS)
    cells = np.arange(GRID) * _PARTS
    parts: np.ndarray = np.clip(np.minimum(ends[:, 1:], cells + _PARTS) - np.maximum(ends[:, :1], cells), 0, _PARTS)
    return parts


def _cells(levels: np.ndarray) -> tuple[tuple[int, int, float], ...]:
    shown = np.round(levels, 2)
    return tuple((int(x), int(y), float(shown[y, x])) for y, x in zip(*np.nonzero(shown), strict=True))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
