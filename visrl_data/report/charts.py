"""Draw static charts as SVG or PNG: training curves, the rounds of evolve, the bars on a dataset card.

Drawn by matplotlib, imported only when a chart is drawn; a user's own matplotlibrc changes nothing, and the same
values give the same bytes under the same version.

The charts of report.html are not drawn here (page_figures.py): they follow the reader's light or dark colors and carry
tooltips, and the page's security policy forbids the inline styles that matplotlib writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

WIN, LOSE, INK = "#1a7f37", "#cf222e", "#24292f"
_COLORS = ("#1f5f99", "#d62728", "#2ca02c", "#9467bd")
_SIZE = (4.2, 2.6)  # inches: one panel
_MOST_LABELS = 11  # bar labels that fit side by side
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "visrl",  # ids of elements, else random
}


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or the bars of one color. intervals: (low, high) of each value; such values are also written out."""

    name: str
    values: Sequence[float]
    steps: Sequence[float] = ()
    intervals: Sequence[tuple[float, float]] = ()
    color: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. labels: of bars, one for each value; without them the series are lines over their steps."""

    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    labels: tuple[str, ...] = ()
    y_range: tuple[float, float] | None = None


def draw_svg(panels: Sequence[Panel]) -> str:
    """Return the panels side by side as the text of an SVG file."""
    return _draw(panels, "svg", {"Date": None}).decode()


def draw_png(panels: Sequence[Panel]) -> bytes:
    """Return the panels side by side as a PNG file."""
    return _draw(panels, "png", {"Software": None})


def _draw(panels: Sequence[Panel], form: str, metadata: dict[str, None]) -> bytes:
    import matplotlib.style
    from matplotlib.figure import Figure

    width, height = _SIZE
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure((width * max(1, len(panels)), height), dpi=100, layout="constrained")
        for i, panel in enumerate(panels, 1):
            axes = figure.add_subplot(1, len(panels), i, title=panel.title, xlabel=panel.x_title, ylabel=panel.y_title)
            (_draw_bars if panel.labels else _draw_lines)(axes, panel)
            if any(series.name not in ("", panel.y_title) for series in panel.series):
                axes.legend(frameon=False, fontsize=7)
        picture = BytesIO()
        figure.savefig(picture, format=form, metadata=metadata)
    return picture.getvalue()


def _draw_bars(axes: Axes, panel: Panel) -> None:
    places = range(len(panel.labels))
    width = 0.8 / len(panel.series)
    for k, series in enumerate(panel.series):
        left = [place - 0.4 + k * width for place in places]
        axes.bar(left, series.values, width, align="edge", color=series.color or INK, label=series.name)
    every = 1 if len(panel.labels) <= _MOST_LABELS else 2
    axes.set_xticks(places[::every], panel.labels[::every])
    axes.yaxis.set_major_locator(_whole_numbers())
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _draw_lines(axes: Axes, panel: Panel) -> None:
    for k, series in enumerate(panel.series):
        color = series.color or _COLORS[k % len(_COLORS)]
        # A line of a few points shows each; a single point would be invisible without.
        marker = "o" if len(series.values) < 10 else ""
        axes.plot(series.steps, series.values, marker=marker, markersize=4, color=color, label=series.name)
        if series.intervals:
            low, high = zip(*series.intervals, strict=True)
            axes.vlines(series.steps, low, high, color=color)
            for step, value, top in zip(series.steps, series.values, high, strict=True):
                axes.annotate(f"{value:.2f}", (step, top), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.grid(axis="y", color="#dddddd")
    axes.xaxis.set_major_locator(_whole_numbers())
    if panel.y_range:
        axes.set_ylim(panel.y_range)


def _whole_numbers() -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator("auto", integer=True)
