"""The rounds of `visrl evolve` as a picture (Fig. 4) and as a table; both only show report.json."""

from __future__ import annotations

from typing import Any

from visrl_data.evaluation.scores import ALL

_WIDTH, _HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BASE = 48, 320, 40, 190
_BLUE, _GREY = "#1f5f99", "#777777"

Point = tuple[float, float, float]  # value, low, high


def points(report: dict[str, Any]) -> dict[str, list[Point | None]]:
    """Title -> the value of each model with its 95 % interval; None where there is none."""
    found: dict[str, list[Point | None]] = {"answer score": [], "box accuracy": [], "pairs a question": []}
    for entry in report["models"]:
        figures, made = entry["figures"][ALL], entry["round"]
        for title, name in (("answer score", "answer"), ("box accuracy", "box_accuracy")):
            value = figures[name]
            found[title].append(None if value is None else (value, *figures[f"{name}_interval"]))
        share = made and made["yield"]
        found["pairs a question"].append(None if share is None else (share, share, share))
    return found


def curves(report: dict[str, Any]) -> str:
    """An SVG with a chart each for answer score, box accuracy and yield, over the rounds trained. Axes: 0 to 1."""
    charts = points(report)
    drawn = [_chart(title, line, i * _WIDTH) for i, (title, line) in enumerate(charts.items())]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH * len(charts)}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        + "".join(drawn)
        + "</svg>\n"
    )


def _chart(title: str, line: list[Point | None], left: int) -> str:
    step = (_RIGHT - _LEFT - 30) / max(len(line) - 1, 1)

    def x(k: int) -> float:
        return round(left + _LEFT + 15 + k * step, 1)

    def y(value: float) -> float:
        return round(_BASE - value * (_BASE - _TOP), 1)

    parts = [f'<text x="{left + _LEFT}" y="22" font-weight="bold">{title}</text>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line x1="{left + _LEFT}" x2="{left + _RIGHT}" y1="{y(tick)}" y2="{y(tick)}" stroke="#dddddd"/>'
            f'<text x="{left + _LEFT - 6}" y="{y(tick) + 4}" text-anchor="end" fill="{_GREY}">{tick:g}</text>'
        )
    known = [(k, point) for k, point in enumerate(line) if point is not None]
    path = " ".join(f"{x(k)},{y(point[0])}" for k, point in known)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_BLUE}" stroke-width="2"/>')
    for k, (value, low, high) in known:
        above = y(high) - 6
        parts.append(
            f'<line x1="{x(k)}" x2="{x(k)}" y1="{y(low)}" y2="{y(high)}" stroke="{_BLUE}"/>'
            f'<circle cx="{x(k)}" cy="{y(value)}" r="3.5" fill="{_BLUE}"/>'
            f'<text x="{x(k)}" y="{above}" text-anchor="middle">{value:.2f}</text>'
        )
    parts += [f'<text x="{x(k)}" y="{_BASE + 16}" text-anchor="middle">{k}</text>' for k in range(len(line))]
    parts.append(
        f'<text x="{left + _RIGHT}" y="{_BASE + 32}" text-anchor="end" fill="{_GREY}">rounds of training</text>'
    )
    return "".join(parts)


def table(report: dict[str, Any]) -> Any:
    """A rich table: a row for each model, and the pairs that it made for the next."""
    from rich.table import Table

    shown = Table("rounds", title=f"Rounds of {report['stages']}, 95 % intervals", caption="WP-LN: see visrl inspect")
    for name in ("answer", "box", "IoU", "pairs", "yield", "WP-LN"):
        shown.add_column(name, justify="right")
    shown.add_row("no box", _with_interval(report["baseline"]["figures"][ALL], "answer"))
    for k, entry in enumerate(report["models"]):
        figures, made = entry["figures"][ALL], entry["round"] or {}
        cells = made.get("cells") or {}
        shown.add_row(
            str(k),
            _with_interval(figures, "answer"),
            _with_interval(figures, "box_accuracy"),
            "" if figures["mean_iou"] is None else f"{figures['mean_iou']:.3f}",
            str(made.get("pairs", "")),
            f"{100 * made['yield']:.0f} %" if made.get("yield") is not None else "",
            f"{cells['WP-LN']:.0f} %" if cells.get("WP-LN") is not None else "",
        )
    return shown


def _with_interval(figures: dict[str, Any], name: str) -> str:
    if figures[name] is None:
        return ""
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:.2f} ({low:.2f}-{high:.2f})"
