"""Show the report of `visrl evolve`: its rounds as curves (Fig. 4) and as a table."""

from __future__ import annotations

from typing import Any

from visrl_data.evaluation.eval_report import ALL
from visrl_data.report.charts import Panel, Series, draw_svg

Point = tuple[float, float, float]  # value, low, high


def points(report: dict[str, Any]) -> dict[str, list[Point | None]]:
    """Return title -> the value of each model with its 95 % interval; None where there is none."""
    lines: dict[str, list[Point | None]] = {"answer score": [], "box accuracy": [], "pairs per question": []}
    for entry in report["models"]:
        figures, run = entry["figures"][ALL], entry["round"]
        for title, name in (("answer score", "answer"), ("box accuracy", "box_accuracy")):
            value = figures[name]
            lines[title].append(None if value is None else (value, *figures[f"{name}_interval"]))
        share = run and run["yield"]
        lines["pairs per question"].append(None if share is None else (share, share, share))
    return lines


def curves(report: dict[str, Any]) -> str:
    """Draw answer score, box accuracy and yield over the rounds trained, as an SVG. Values are in [0, 1]."""
    panels = []
    for title, line in points(report).items():
        known = [(k, point) for k, point in enumerate(line) if point is not None]
        series = Series(
            title,
            [value for _, (value, _, _) in known],
            [k for k, _ in known],
            [(low, high) for _, (_, low, high) in known],
        )
        panels.append(Panel(title, "rounds of training", title, (series,), y_range=(0, 1)))
    return draw_svg(panels)


def table(report: dict[str, Any]) -> Any:
    """Return a rich table with a row for each model, and the pairs that it made for the next round."""
    from rich.table import Table

    shown = Table(
        "rounds",
        title=f"Rounds of {report['stages']}, 95 % intervals",
        caption="WP-LN: win box right, lose box wrong; see visrl inspect",
    )
    for name in ("answer", "box", "IoU", "pairs", "yield", "WP-LN"):
        shown.add_column(name, justify="right")
    shown.add_row("no box", _with_interval(report["baseline"]["figures"][ALL], "answer"))
    for k, entry in enumerate(report["models"]):
        figures, run = entry["figures"][ALL], entry["round"] or {}
        cells = run.get("cells") or {}
        shown.add_row(
            str(k),
            _with_interval(figures, "answer"),
            _with_interval(figures, "box_accuracy"),
            "" if figures["mean_iou"] is None else f"{figures['mean_iou']:.3f}",
            str(run.get("pairs", "")),
            f"{100 * run['yield']:.0f} %" if run.get("yield") is not None else "",
            f"{cells['WP-LN']:.0f} %" if cells.get("WP-LN") is not None else "",
        )
    return shown


def _with_interval(figures: dict[str, Any], name: str) -> str:
    if figures[name] is None:
        return ""
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:.2f} ({low:.2f}-{high:.2f})"
