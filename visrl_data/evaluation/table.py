"""An evaluation's report as one table for a terminal; the cells are report.json's."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from visrl_data.evaluation.scores import ALL


def render(report: dict[str, Any]) -> Group:
    """The macro mean, then each group where there are several; baselines on top."""
    groups = [ALL, *report["groups"]] if len(report["groups"]) > 1 else [ALL]
    table = Table("model", title="Answer score and box accuracy, 95 % intervals of model minus first")
    for name in ("answer", "minus first", "box", "minus first", "IoU", "valid", "not read"):
        table.add_column(name, justify="right")
    for group in groups:
        first = report["models"][0]["figures"][group]
        name = report["groups"][0] if len(groups) == 1 else "all, mean over the sources" if group == ALL else group
        table.add_section()
        table.add_row(f"[bold]{_plain(name)}[/bold], {first['questions']} questions, {first['score']}")
        for model in sorted(report["models"], key=lambda model: model["steps"]):
            table.add_row(_plain(model["name"]), *_cells(model["figures"][group]))
    notes = [f"{n} rows were dropped by their source: {reason}." for reason, n in report["dropped"].items()]
    return Group(table, *notes)


def _cells(figures: dict[str, Any]) -> list[str]:
    lost = sum(figures["unparsed"].values())
    return [
        _number(figures["answer"]),
        _difference(figures["answer_difference"]),
        _number(figures["box_accuracy"]),
        _difference(figures["box_accuracy_difference"]),
        _number(figures["mean_iou"]),
        "" if figures["valid"] is None else f"{100 * figures['valid']:.1f} %",
        f"{lost}" + (f" + {figures['unread_verdicts']} verdicts" if figures["unread_verdicts"] else ""),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _difference(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
