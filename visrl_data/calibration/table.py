"""Lay out a calibration's report for a terminal, in 80 columns: the figures, the kinds of cases, the warnings."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table

from visrl_data.calibration.calibration_report import Agreement, CalibrationReport, CriticFigures, Separation, Share
from visrl_data.report.formats import (
    MISSING,
    format_count,
    format_number,
    format_range,
    format_share,
    make_table,
    stack,
    text_group,
)
from visrl_data.report.tables import drop_lines

_NO_WARNING = "No warning: no figure is beyond its limit for certain. More --questions make the intervals narrower."


def render(report: CalibrationReport) -> Group:
    """Return the tables of a report, and what is wrong with the critic below them."""
    critics = critics_of(report)
    parts: list[RenderableType] = [_figures(report, critics)]
    parts += [_kinds(name, figures) for name, figures in critics.items()]
    parts += [_shifts(figures) for figures in critics.values() if figures["shifts"]]
    parts.append(text_group(*_notes(report), *(warning_lines(critics) or [_NO_WARNING])))
    return stack(*parts)


def critics_of(report: CalibrationReport) -> dict[str, CriticFigures]:
    """Return the critics that were calibrated, by name."""
    return {name: figures for name, figures in (("box", report["box"]), ("response", report["response"])) if figures}


def warning_lines(critics: dict[str, CriticFigures]) -> list[str]:
    """Return a line for each warning."""
    return [f"! {name} critic: {line}" for name, figures in critics.items() for line in figures["warnings"]]


def _figures(report: CalibrationReport, critics: dict[str, CriticFigures]) -> Table:
    name = report["critic"].get("model") or report["critic"]["engine"]
    title = f"{name} as critic: {format_count(report['questions'])} questions, {format_count(report['calls'])} calls"
    table = make_table(title, ("figure (95 % interval)", *(f"{critic} critic" for critic in critics)))
    rows = [dict(figure_rows(figures)) for figures in critics.values()]
    for label in dict.fromkeys(label for row in rows for label in row):
        table.add_row(label, *(row.get(label, MISSING) for row in rows))
    return table


def figure_rows(figures: CriticFigures) -> Iterator[tuple[str, str]]:
    """Yield (label, value) for the figures of a critic: on the terminal and on the page."""
    best, (win, lose) = figures["best"], figures["thresholds"]
    yield "AUC, right against wrong", format_separation(figures["separation"])
    if figures["whole_image"]:
        yield "AUC, whole image against wrong", format_separation(figures["whole_image"])
    yield "thresholds, win / lose", f"{win:g} / {lose:g}"
    yield "false wins, of wrong cases", format_part(figures["false_wins"])
    yield "false loses, of right cases", format_part(figures["false_loses"])
    yield "unparsed", format_part(figures["unparsed"])
    yield "in other words: sides changed", _agreement(figures["wording"])
    if figures["repeat"]:
        yield "asked twice: sides changed", _agreement(figures["repeat"])
    if best:
        yield "best thresholds, win / lose", f"{best['win']:g} / {best['lose']:g}" if best["separates"] else "none"
        yield "their gain, win / lose", f"{format_share(best['win_gain'])} / {format_share(best['lose_gain'])}"


def format_separation(separation: Separation | None) -> str:
    """Format an AUC with its interval."""
    if separation is None:
        return MISSING
    return f"{separation['auc']:.3f} ({format_range(separation['low'], separation['high'])})"


def format_part(share: Share) -> str:
    """Format a share with its interval, in percent: "3.1 % (0.9 to 10.7)"."""
    if share["share"] is None or share["low"] is None or share["high"] is None:
        return MISSING
    return f"{format_share(share['share'])} ({format_range(100 * share['low'], 100 * share['high'], 1)})"


def _agreement(agreement: Agreement) -> str:
    return format_part(agreement["changed"])


def _kinds(name: str, figures: CriticFigures) -> Table:
    win, lose = figures["thresholds"]
    columns = ("case", "should", "cases", "unparsed", "mean", f"win\n≥ {win:g}", f"lose\n≤ {lose:g}")
    table = make_table(f"{name.capitalize()} critic, by case", columns, left=("should",))
    for kind in figures["kinds"]:
        table.add_row(
            kind["label"],
            {"right": "win", "wrong": "lose", "open": "(open)"}[kind["verdict"]],
            format_count(kind["cases"]),
            format_count(kind["unparsed"]),
            format_number(kind["mean"]),
            format_share(kind["wins"]),
            format_share(kind["loses"]),
        )
    return table


def _shifts(figures: CriticFigures) -> Table:
    table = make_table("Texts behind a response", ("text", "cases", "shift, 95 % interval", "to win", "to lose"))
    for shift in figures["shifts"]:
        interval = format_range(shift["low"], shift["high"], sign="+")
        table.add_row(
            shift["label"],
            format_count(shift["cases"]),
            MISSING if shift["shift"] is None else f"{shift['shift']:+.3f} ({interval})",
            format_count(shift["to_win"]),
            format_count(shift["to_lose"]),
        )
    return table


def _notes(report: CalibrationReport) -> Iterator[str]:
    if report["dropped"]:
        of = report["source"]["drawn"]
        yield f"{sum(report['dropped'].values())} of the {of} rows that were drawn were dropped."
        yield from drop_lines(report["drop_examples"])
    if report["box"] and not report["with_gold_boxes"]:
        yield (
            "The source has no gold boxes, so no crop is right for certain: whether this critic lets a good crop win "
            "is not known. A few dozen questions with `boxes` would tell."
        )
