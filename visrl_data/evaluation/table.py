"""Lay out an evaluation's report for a terminal, in 80 columns: a table of answers and one of boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from visrl_data.core.text import one_line, quantity
from visrl_data.evaluation.eval_report import ALL, EvalReport, GroupFigures, ModelEntry, ScoreDifference
from visrl_data.report.formats import MISSING, format_estimate, format_number, format_share, make_table, stack

Cells = Callable[[GroupFigures], Sequence[str]]  # the cells of a row after the first


def render(report: EvalReport) -> Group:
    """Return the macro mean, then each source where there are several; baselines on top, and among the answers only."""
    models = sorted(report["models"], key=lambda model: model["steps"])
    with_boxes = [model for model in models if model["figures"][ALL]["valid"] is not None]
    parts: list[RenderableType] = [
        _table(
            "Answer score",
            ("answer", "difference, 95 % interval"),
            lambda f: (f["score"], f"{f['questions']} questions"),
            lambda f: (format_number(f["answer"]), _difference(f["answer_difference"])),
            models,
            report,
        )
    ]
    if with_boxes:
        parts.append(
            _table(
                "Box accuracy (IoU above 0.5)",
                ("box", "difference, 95 % interval", "IoU", "valid"),
                lambda f: ("", f"{f['labelled']} labeled", "", ""),
                lambda f: (
                    format_number(f["box_accuracy"]),
                    _difference(f["box_accuracy_difference"]),
                    format_number(f["mean_iou"]),
                    format_share(f["valid"]),
                ),
                with_boxes,
                report,
            )
        )
    notes = _notes(report)
    return stack(*parts, *(["\n".join(notes)] if notes else []))


def _table(
    title: str, columns: Sequence[str], head: Cells, cells: Cells, models: list[ModelEntry], report: EvalReport
) -> Table:
    """Lay out a section for each source: a row that names it, with the cells of `head`, then a row for each model."""
    if len(models) > 1:
        title += f", compared with {report['models'][0]['name']}"
    table = make_table(title, ("model", *columns))
    for column in table.columns[1:]:
        column.no_wrap = True
    for group in [ALL, *report["groups"]] if len(report["groups"]) > 1 else [ALL]:
        name = report["groups"][0] if len(report["groups"]) == 1 else "mean over the sources" if group == ALL else group
        table.add_section()
        table.add_row(Text(one_line(name), style="bold"), *head(models[0]["figures"][group]))
        for model in models:
            table.add_row(model["name"], *cells(model["figures"][group]))
    return table


def _notes(report: EvalReport) -> list[str]:
    notes = [f"{quantity(n, 'row')} dropped by the source: {reason}." for reason, n in report["dropped"].items()]
    for model in report["models"]:
        figures, name = model["figures"][ALL], model["name"]
        if figures["unparsed"]:
            reasons = ", ".join(f"{reason} {n}" for reason, n in figures["unparsed"].items())
            notes.append(f"{name}: no answer to {quantity(sum(figures['unparsed'].values()), 'question')} ({reasons}).")
        if figures["unread_verdicts"]:
            notes.append(f"{name}: {quantity(figures['unread_verdicts'], 'verdict')} of the judge could not be read.")
    return notes


def _difference(value: ScoreDifference | None) -> str:
    return format_estimate(value["mean"], value["low"], value["high"], sign="+") if value else MISSING
