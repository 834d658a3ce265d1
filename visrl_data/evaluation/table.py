"""An evaluation's report for a terminal, in 80 columns: a table of answers and one of boxes; cells of report.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from visrl_data.evaluation.scores import ALL

Cells = Callable[[dict[str, Any]], Sequence[str]]  # figures of a model on a source -> a row's cells but the first


def render(report: dict[str, Any]) -> Group:
    """The macro mean, then each source where there are several; baselines on top, and among the answers only."""
    models = sorted(report["models"], key=lambda model: model["steps"])
    looking = [model for model in models if model["figures"][ALL]["valid"] is not None]
    parts: list[RenderableType] = [
        _table(
            "Answer score",
            ("answer", "difference, 95 % interval"),
            lambda f: (f["score"], f"{f['questions']} questions"),
            lambda f: (_number(f["answer"]), _difference(f["answer_difference"])),
            models,
            report,
        )
    ]
    if looking:
        parts.append(
            _table(
                "Box accuracy (IoU above 0.5)",
                ("box", "difference, 95 % interval", "IoU", "valid"),
                lambda f: ("", f"{f['labelled']} labelled", "", ""),
                lambda f: (
                    _number(f["box_accuracy"]),
                    _difference(f["box_accuracy_difference"]),
                    _number(f["mean_iou"]),
                    f"{100 * f['valid']:.1f} %",
                ),
                looking,
                report,
            )
        )
    return Group(*parts, *_notes(report))


def _table(
    title: str, columns: Sequence[str], head: Cells, cells: Cells, models: list[dict[str, Any]], report: dict[str, Any]
) -> Table:
    """A section for each source: a row that names it, with the cells of `head`, then a row for each model."""
    if len(models) > 1:
        title += f", compared with {escape(report['models'][0]['name'])}"
    table = Table("model", title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.columns[0].overflow = "fold"
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for group in [ALL, *report["groups"]] if len(report["groups"]) > 1 else [ALL]:
        name = report["groups"][0] if len(report["groups"]) == 1 else "mean over the sources" if group == ALL else group
        table.add_section()
        table.add_row(f"[bold]{escape(name)}[/bold]", *head(models[0]["figures"][group]))
        for model in models:
            table.add_row(escape(model["name"]), *cells(model["figures"][group]))
    return table


def _notes(report: dict[str, Any]) -> list[str]:
    """What was lost, in words."""
    notes = [f"{n} rows were dropped by their source: {reason}." for reason, n in report["dropped"].items()]
    for model in report["models"]:
        figures, name = model["figures"][ALL], escape(model["name"])
        if figures["unparsed"]:
            reasons = ", ".join(f"{reason} {n}" for reason, n in figures["unparsed"].items())
            notes.append(f"{name}: no answer to {sum(figures['unparsed'].values())} questions ({reasons}).")
        if figures["unread_verdicts"]:
            notes.append(f"{name}: {figures['unread_verdicts']} verdicts of the judge could not be read.")
    return notes


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _difference(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"
