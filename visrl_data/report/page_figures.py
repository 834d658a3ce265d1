"""Lay out the histograms and heat maps of report.html; page_charts.html.j2 draws them.

Between the report and the page. Counts come from the report wherever it has them; what it lacks (where boxes lie,
how scores and IoUs spread over the labels) is counted here from the same tables. The charts are part of the page
(see charts.py for static ones). Units are those of the chart's SVG, y down.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.gold_regions import POSITIVE_IOU, gold_ious
from visrl_data.report.accounting import box_array, question_rows
from visrl_data.report.measures import histogram, iou_histogram
from visrl_data.report.run_statistics import score_bin
from visrl_data.runs.run_report import CRITICS, Counts, CriticStatistics, RunReport

# Of a chart: its size, and where its axes are.
FRAME = {"width": 340, "height": 186, "left": 22, "right": 332, "top": 30, "base": 150, "middle": 86}
_LEFT, _TOP, _BASE, _MIDDLE = FRAME["left"], FRAME["top"], FRAME["base"], FRAME["middle"]
_SPAN = FRAME["right"] - _LEFT
_ASIDE = 56  # room on the right for the unparsed, which have no place on the axis
_PAIRED = ("win", "lose")
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
    """A histogram. peak: the height of the top line; ticks: (x, label); marks: (x, label, text-anchor).

    names: of the two histograms of a mirrored one, above and below the axis.
    """

    title: str
    x_title: str
    y_title: str
    peak: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str, str], ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Where boxes lie. cells: (column, row, opacity); peak: the largest share of the boxes over one cell."""

    title: str
    kind: str
    boxes: int
    peak: float
    cells: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True)
class MirrorSide:
    """One side of a mirrored histogram; kind is a class of page.css."""

    name: str
    kind: str
    counts: Counts


def report_plots(report: RunReport) -> dict[str, Plot]:
    """Return the plots whose counts are in the report."""
    settings, apart = report["settings"], report["boxes"]["iou_win_lose"]["histogram"]
    tau = {"box": (settings["box_win"], settings["box_lose"])}
    tau["response"] = settings["response_win"], settings["response_lose"]
    critics = {name: report["critics"][name] for name in CRITICS}
    plots = {f"{name}_score": _score_plot(name, critic, *tau[name]) for name, critic in critics.items() if critic}
    most, width = max([*apart.values(), 1]), _SPAN / len(apart)
    bars = [
        _bar(_LEFT + i * width, width, n / most, "plain", f"IoU from {edge}: {n:,}")
        for i, (edge, n) in enumerate(apart.items())
    ]
    return plots | {"apart": Plot("IoU of win and lose", "IoU", "pairs", f"{most:,}", tuple(bars), _edge_ticks())}


def _score_plot(name: str, critic: CriticStatistics, win: float, lose: float) -> Plot:
    """Lay out a critic's scores, with the regions of W and L marked and the unparsed ones aside."""
    counts, unparsed = list(critic["histogram"].values()), critic["unparsed"]
    steps = [float(step) for step in critic["histogram"]]
    most, right = max([*counts, unparsed, 1]), _LEFT + _SPAN - _ASIDE
    width = (right - _LEFT) / len(counts)
    kinds = ["win" if step >= win else "lose" if step <= lose else "plain" for step in steps]
    bars = [
        _bar(_LEFT + i * width, width, n / most, kind, f"score {step:g}: {n:,}")
        for i, (step, n, kind) in enumerate(zip(steps, counts, kinds, strict=True))
    ]
    bars.append(_bar(right + 20, 24, unparsed / most, "unread", f"unparsed: {unparsed:,}"))
    low, high = bisect.bisect_right(steps, lose), bisect.bisect_left(steps, win)
    marks = (_LEFT + low * width, f"L \u2264 {lose:g}", "end"), (_LEFT + high * width, f"W \u2265 {win:g}", "start")
    ticks = (*_score_ticks(steps, width), (right + 32, "unparsed"))
    return Plot(f"{name.capitalize()} score", "score", "candidates", f"{most:,}", tuple(bars), ticks, marks)


def _mirror_plot(
    title: str, x_title: str, up: MirrorSide, down: MirrorSide, ticks: Iterable[tuple[float, str]]
) -> Plot:
    """Lay out two histograms over the same bins, each as shares of its own boxes: the first up, the second down."""
    shares = [[n / (sum(side.counts.values()) or 1) for n in side.counts.values()] for side in (up, down)]
    most, width = max([*shares[0], *shares[1]]) or 1, _SPAN / len(up.counts)
    bars = []
    for side, heights in zip((up, down), shares, strict=True):
        for i, ((step, n), share) in enumerate(zip(side.counts.items(), heights, strict=True)):
            height = max((_MIDDLE - _TOP) * share / most, 1.0 if n else 0.0)
            top = _MIDDLE - height if side is up else _MIDDLE
            bars.append(_place(_LEFT + i * width, top, width, height, side.kind, f"{step}, {side.name}: {n:,}"))
    names = tuple(f"{side.name}: {sum(side.counts.values()):,}" for side in (up, down))
    return Plot(title, x_title, "share of boxes", f"{100 * most:.0f} %", tuple(bars), tuple(ticks), (), names)


def _bar(x: float, width: float, share: float, kind: str, title: str) -> Bar:
    height = max((_BASE - _TOP) * share, 1.0 if share else 0.0)
    return _place(x, _BASE - height, width, height, kind, title)


def _place(x: float, y: float, width: float, height: float, kind: str, title: str) -> Bar:
    """Return a bar that leaves a gap of a tenth to the next."""
    return Bar(round(x + width * 0.05, 2), round(y, 2), round(width * 0.9, 2), round(height, 2), kind, title)


def _score_ticks(steps: list[float], width: float) -> tuple[tuple[float, str], ...]:
    """Return a label under each bin when they are few, else under the fifths."""
    labeled = [(i, step) for i, step in enumerate(steps) if len(steps) <= 6 or abs(step * 5 - round(step * 5)) < 1e-6]
    return tuple((round(_LEFT + (i + 0.5) * width, 2), f"{step:g}") for i, step in labeled)


def _edge_ticks() -> tuple[tuple[float, str], ...]:
    return tuple((round(_LEFT + _SPAN * i / 5, 2), f"{i / 5:g}") for i in range(6))


def label_plots(questions: pa.Table, candidates: pa.Table, pairs: pa.Table, report: RunReport) -> dict[str, Plot]:
    """Return scores and IoUs against the labels, for what has labels; nothing when nothing has."""
    if report["audit"]["pairs"] is None:
        return {}
    gold, rule = questions["gold_boxes"], report["settings"]["gold_rule"]
    rows = question_rows(pairs["question_id"], questions)
    sides = [gold_ious(box_array(pairs[f"{side}_box"]), rows, gold, rule) for side in ("win", "lose")]
    win, lose = (_trim(iou_histogram(iou[~np.isnan(iou)])) for iou in sides)
    up, down = MirrorSide("win, up", "win", win), MirrorSide("lose, down", "lose", lose)
    plots = {"pairs": _mirror_plot("IoU with the label", "IoU", up, down, _edge_ticks())}
    if report["critics"]["box"] is not None:
        iou = gold_ious(box_array(candidates["box"]), question_rows(candidates["question_id"], questions), gold, rule)
        score, step = candidates["box_score"].to_numpy(), score_bin(report["settings"]["score_step"])
        on, off = (_trim(histogram(score[part], step)) for part in (iou > POSITIVE_IOU, iou <= POSITIVE_IOU))
        up = MirrorSide(f"on the label (IoU > {POSITIVE_IOU:g}), up", "up", on)
        ticks = _score_ticks([float(step) for step in on], _SPAN / len(on))
        plots["critic"] = _mirror_plot(
            "Box score and label", "score", up, MirrorSide("off it, down", "down", off), ticks
        )
    return plots


def _trim(counts: Counts) -> Counts:
    """Write the bins as short as can be: 0.0 as 0."""
    return {f"{float(step):g}": n for step, n in counts.items()}


def heat_maps(questions: pa.Table, candidates: pa.Table, pairs: pa.Table) -> list[HeatMap]:
    """Return the maps that have boxes: actor, controller and labels on one scale, win and lose on another."""
    boxes, origin = box_array(candidates["box"]), candidates["box_origin"]
    kinds = [
        ("Actor's boxes", "plain", boxes[pc.equal(origin, "actor").to_numpy()]),
        ("Controller's boxes", "plain", boxes[pc.equal(origin, "controller").to_numpy()]),
        ("Win boxes", "win", box_array(pairs["win_box"])),
        ("Lose boxes", "lose", box_array(pairs["lose_box"])),
        ("Labels", "gold", box_array(pc.list_flatten(questions["gold_boxes"]))),
    ]
    maps = [(title, kind, len(some), coverage(some)) for title, kind, some in kinds if len(some)]
    scales = {
        paired: max((float(share.max()) for _, kind, _, share in maps if (kind in _PAIRED) == paired), default=0.0)
        for paired in (True, False)
    }
    return [
        HeatMap(title, kind, number, float(share.max()), _cells(share / (scales[kind in _PAIRED] or 1.0)))
        for title, kind, number, share in maps
    ]


def coverage(boxes: np.ndarray) -> np.ndarray:
    """Return for each cell [row, column] of the unit square the mean share of it that a box covers.

    Sums of integers in float64, so exact in any order of the additions.
    """
    total = np.zeros((GRID, GRID))
    for start in range(0, len(boxes), _ROWS):
        across, down = (_overlap(boxes[start : start + _ROWS, axis::2]) for axis in (0, 1))
        total += down.T @ across
    return total / (_PARTS**2 * max(len(boxes), 1))


def _overlap(spans: np.ndarray) -> np.ndarray:
    """Return for (n, 2) spans in [0, 1] how many parts of each cell they cover: (n, GRID)."""
    ends = np.round(spans * GRID * _PARTS)
    cells = np.arange(GRID) * _PARTS
    parts: np.ndarray = np.clip(np.minimum(ends[:, 1:], cells + _PARTS) - np.maximum(ends[:, :1], cells), 0, _PARTS)
    return parts


def _cells(levels: np.ndarray) -> tuple[tuple[int, int, float], ...]:
    shown = np.round(levels, 2)
    return tuple((int(x), int(y), float(shown[y, x])) for y, x in zip(*np.nonzero(shown), strict=True))
