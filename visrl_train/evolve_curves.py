"""Show the report of `visrl evolve`: its rounds as curves (Fig. 4) and as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from visrl_data.evaluation.eval_report import ALL
from visrl_data.report.charts import Panel, Series, draw_svg
from visrl_data.report.formats import format_count, format_estimate, format_number, format_share, make_table

FORMAT_LOSS = 0.02
LOST_REPLIES = 5
"""Share of valid boxes, and number of replies, that a model may lose to an earlier one before a word is said."""

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


def table(report: dict[str, Any]) -> Table:
    """Lay out a row for each model, and the pairs that it made for the next round."""
    columns = ("rounds", "answer", "box", "IoU", "valid", "pairs", "yield", "WP-LN")
    rounds = make_table(f"Rounds of {report['stages']}, 95 % intervals", columns)
    rounds.add_row("no box", _estimate(report["baseline"]["figures"][ALL], "answer"))
    for k, entry in enumerate(report["models"]):
        figures, run = entry["figures"][ALL], entry["round"] or {}
        rounds.add_row(
            str(k),
            _estimate(figures, "answer"),
            _estimate(figures, "box_accuracy"),
            format_number(figures["mean_iou"], 2),
            format_share(figures["valid"]),
            format_count(run.get("pairs")),
            format_share(run.get("yield")),
            format_number((run.get("cells") or {}).get("WP-LN"), 1),
        )
    rounds.caption = "valid: replies with one valid box; WP-LN: win box right, lose box wrong, in %; see visrl inspect"
    rounds.caption_justify = "left"
    return rounds


def format_warning(report: dict[str, Any]) -> str | None:
    """Say what helps when the last model writes clearly fewer valid boxes than an earlier one; else None."""
    models = [entry["figures"][ALL] for entry in report["models"]]
    shares = [figures["valid"] for figures in models]
    best = max(range(len(shares)), key=shares.__getitem__)
    lost = shares[best] - shares[-1]
    if lost < FORMAT_LOSS or lost * models[-1]["questions"] < LOST_REPLIES:
        return None
    return (
        f"Valid boxes fell from {format_share(shares[best])} (rounds: {best}) to {format_share(shares[-1])}. A "
        "preference in RL2 can do that over rounds: docs/training.md, 'More than one round', shows RL2 without one. "
        f"Until then use the model of the best round, e.g. {report['models'][best]['model']}"
    )


def _estimate(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_interval"] or (None, None)
    return format_estimate(figures[name], low, high, 2)
