"""The report as tables for a terminal; what `visrl inspect` prints. Adds no figure of its own."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from visrl_data.core.config import current_options

_STAGES = {
    "questions": "questions",
    "candidates": "candidates",
    "scored": "scored",
    "in_win": "in W",
    "in_lose": "in L",
    "pairs": "pairs",
    "response_pairs": "both\nsteps",
}


def render(report: dict[str, Any]) -> RenderableType:
    """Tables of a report made by `diagnostics.report`."""
    return spaced(_yields(report), _drops(report), _critics(report), _boxes(report), Group(*_audit(report)))


def _yields(report: dict[str, Any]) -> Table:
    table = table_of("Yields", "source", *_STAGES.values(), "pairs /\nquestion")
    rows = {"all": report["yields"]["all"]} | report["yields"]["by_source"]
    for name, y in rows.items() if len(rows) > 2 else list(rows.items())[:1]:
        table.add_row(escape(name), *(f"{y[stage]:,}" for stage in _STAGES), percent(y["pairs_per_question"]))
    return table


def _drops(report: dict[str, Any]) -> RenderableType:
    drops, all_ = report["drops"], report["yields"]["all"]
    table = table_of("Drops", "of", "at", "reason", "count", "share")
    levels = [
        ("rows", "source", drops["source"], all_["rows_read"]),
        *(("attempts", stage, found, all_["attempts_expected"]) for stage, found in drops["attempts"].items()),
        ("questions", "filter", drops["questions"], all_["questions"]),
    ]
    for unit, stage, found, total in levels:
        for reason, count in found.items():
            if count:
                table.add_row(unit, stage, escape(reason), f"{count:,}", percent(count / total))
    return table if table.rows else "Drops: none."


def _critics(report: dict[str, Any]) -> Table:
    critics, focus = report["critics"], report["focus"]
    table = table_of("Replies", "reply", "count", "invalid", "share", "mean score", "reasons")
    invalid = {state: n for state, n in focus["states"].items() if state != "ok"}
    wrong = focus["replies"] - focus["valid"]
    share = None if focus["validity"] is None else 1 - focus["validity"]
    table.add_row("focus box", f"{focus['replies']:,}", f"{wrong:,}", percent(share), "", _reasons(invalid))
    for name, critic in critics.items():
        if critic is None:
            table.add_row(f"{name} score", "off")
            continue
        table.add_row(
            f"{name} score",
            f"{critic['verdicts']:,}",
            f"{critic['unparsed']:,}",
            percent(critic["unparsed_share"]),
            number(critic["mean"]),
            _reasons(critic["unparsed_reasons"]),
        )
    return table


def _boxes(report: dict[str, Any]) -> Table:
    boxes, table = report["boxes"], table_of("Boxes and scores", "figure", "value", "over")
    for name, what in (
        ("iou_in_attempt", "mean IoU of two boxes of an attempt"),
        ("iou_across_attempts", "mean IoU of boxes of two attempts"),
        ("iou_win_lose", "mean IoU of win and lose"),
    ):
        table.add_row(what, number(boxes[name]["mean"]), f"{boxes[name]['pairs']:,} pairs")
    for side, origin in boxes["origin"].items():
        total = sum(origin.values())
        share = origin["controller"] / total if total else None
        table.add_row(f"{side} boxes that are the controller's", percent(share), f"{total:,} pairs")
    for name, what in (("controller", "controller's boxes told by shape"), ("lose", "lose boxes told by shape")):
        found = boxes["shape_tells"][name]
        table.add_row(f"{what}, AUC", number(found["auc"]), f"{found['rows']:,} boxes")
    exact = report["critics"]["response"]["exact"]
    table.add_row("response score against exact match, AUC", number(exact["auc"]), f"{exact['matches']:,} matches")
    return table


def _audit(report: dict[str, Any]) -> list[RenderableType]:
    audit = report["audit"]
    if audit["pairs"] is None:
        return [f"Audit: {audit['state']}."]
    rule, least = current_options(report["settings"])["gold_rule"], report["settings"]["positive_iou"]
    table = table_of("Audit (Tab. 6)", "cell", "pairs", "%", "95 % interval", "blind %")
    pairs, floor = audit["pairs"], audit["floor"]["questions_with_pair"]
    for name, cell in [*pairs["cells"].items(), ("win positive", pairs["win_positive"])]:
        interval = "-" if cell["low"] is None else f"{cell['low']:.2f} to {cell['high']:.2f}"
        blind = floor[name.replace(" ", "_")]
        table.add_row(name, f"{cell['count']:,}", two(cell["percent"]), interval, two(blind))
    critic, actor = audit["box_critic"], audit["boxes"]["actor"]
    lines = [
        f"W win, L lose; P: IoU with the label ({rule}) > {least}. {audit['state'].capitalize()}.",
        "Blind: two different candidates of the same questions, drawn without scores.",
        f"Positive among the actor's boxes: {two(actor['positive']['percent'])} % of {actor['boxes']:,}.",
    ]
    if critic is not None:
        rows = critic["positives"] + critic["negatives"]
        lines.append(f"Box score against the label: AUC {number(critic['auc'])} over {rows:,} boxes.")
    return [table, *lines]


def spaced(*parts: RenderableType) -> Group:
    """One below the other, with an empty line between them."""
    first, *rest = parts
    return Group(first, *(piece for part in rest for piece in ("", part)))


def table_of(title: str, *columns: str) -> Table:
    """An empty table that fits into 80 columns; what is still too long goes on in the next line, uncut."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for i, column in enumerate(columns):
        left = i == 0 or column in ("at", "reason", "reasons")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def _reasons(found: dict[str, int]) -> str:
    return escape(", ".join(f"{reason} {n:,}" for reason, n in found.items()))


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def two(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
