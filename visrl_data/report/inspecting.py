"""The report as tables for a terminal; what `visrl inspect` prints. Adds no figure of its own."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

_STAGES = {
    "questions": "questions",
    "candidates": "candidates",
    "scored": "scored",
    "in_win": "in W",
    "in_lose": "in L",
    "pairs": "pairs",
    "response_pairs": "with responses",
}


def render(report: dict[str, Any]) -> RenderableType:
    """Tables of a report made by `diagnostics.report`."""
    return Group(_yields(report), _drops(report), _critics(report), _boxes(report), *_audit(report))


def _yields(report: dict[str, Any]) -> Table:
    table = _table("Yields", "source", *_STAGES.values(), "pairs / question")
    rows = {"all": report["yields"]["all"]} | report["yields"]["by_source"]
    for name, y in rows.items() if len(rows) > 2 else list(rows.items())[:1]:
        table.add_row(escape(name), *(f"{y[stage]:,}" for stage in _STAGES), _percent(y["pairs_per_question"]))
    return table


def _drops(report: dict[str, Any]) -> RenderableType:
    drops, all_ = report["drops"], report["yields"]["all"]
    table = _table("Drops", "of", "at", "reason", "count", "share")
    levels = [
        ("rows", "source", drops["source"], all_["rows_read"]),
        *(("attempts", stage, found, all_["attempts_expected"]) for stage, found in drops["attempts"].items()),
        ("questions", "filter", drops["questions"], all_["questions"]),
    ]
    for unit, stage, found, total in levels:
        for reason, count in found.items():
            if count:
                table.add_row(unit, stage, escape(reason), f"{count:,}", _percent(count / total))
    return table if table.rows else "Drops: none."


def _critics(report: dict[str, Any]) -> Table:
    critics, focus = report["critics"], report["focus"]
    table = _table("Replies", "reply", "count", "invalid", "share", "mean score", "reasons")
    invalid = {state: n for state, n in focus["states"].items() if state != "ok"}
    wrong = focus["replies"] - focus["valid"]
    share = None if focus["validity"] is None else 1 - focus["validity"]
    table.add_row("focus box", f"{focus['replies']:,}", f"{wrong:,}", _percent(share), "", _reasons(invalid))
    for name, critic in critics.items():
        if critic is None:
            table.add_row(f"{name} score", "off")
            continue
        table.add_row(
            f"{name} score",
            f"{critic['verdicts']:,}",
            f"{critic['unparsed']:,}",
            _percent(critic["unparsed_share"]),
            _number(critic["mean"]),
            _reasons(critic["unparsed_reasons"]),
        )
    return table


def _boxes(report: dict[str, Any]) -> Table:
    boxes, table = report["boxes"], _table("Boxes and scores", "figure", "value", "over")
    for name, what in (
        ("iou_in_attempt", "mean IoU of two boxes of an attempt"),
        ("iou_across_attempts", "mean IoU of boxes of two attempts"),
        ("iou_win_lose", "mean IoU of win and lose"),
    ):
        table.add_row(what, _number(boxes[name]["mean"]), f"{boxes[name]['pairs']:,} pairs")
    for side, origin in boxes["origin"].items():
        total = sum(origin.values())
        share = origin["controller"] / total if total else None
        table.add_row(f"{side} boxes that are the controller's", _percent(share), f"{total:,} pairs")
    for name, what in (("controller", "controller's boxes told by shape"), ("lose", "lose boxes told by shape")):
        found = boxes["shape_tells"][name]
        table.add_row(f"{what}, AUC", _number(found["auc"]), f"{found['rows']:,} boxes")
    exact = report["critics"]["response"]["exact"]
    table.add_row("response score against exact match, AUC", _number(exact["auc"]), f"{exact['matches']:,} matches")
    return table


def _audit(report: dict[str, Any]) -> list[RenderableType]:
    audit = report["audit"]
    if audit["pairs"] is None:
        return [f"Audit: {audit['state']}."]
    rule, least = report["settings"]["gold_rule"], report["settings"]["positive_iou"]
    table = _table("Audit (Tab. 6)", "cell", "pairs", "%", "95 % interval", "blind %")
    pairs, floor = audit["pairs"], audit["floor"]["questions_with_pair"]
    for name, cell in [*pairs["cells"].items(), ("win positive", pairs["win_positive"])]:
        interval = "-" if cell["low"] is None else f"{cell['low']:.2f} to {cell['high']:.2f}"
        blind = floor[name.replace(" ", "_")]
        table.add_row(name, f"{cell['count']:,}", _two(cell["percent"]), interval, _two(blind))
    critic, actor = audit["box_critic"], audit["boxes"]["actor"]
    lines = [
        f"W win, L lose; P: IoU with the label ({rule}) > {least}. {audit['state'].capitalize()}.",
        "Blind: two different candidates of the same questions, drawn without scores.",
        f"Positive among the actor's boxes: {_two(actor['positive']['percent'])} % of {actor['boxes']:,}.",
    ]
    if critic is not None:
        rows = critic["positives"] + critic["negatives"]
        lines.append(f"Box score against the label: AUC {_number(critic['auc'])} over {rows:,} boxes.")
    return [table, *lines]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in ("at", "reason", "reasons") else "right")
    return table


def _reasons(found: dict[str, int]) -> str:
    return escape(", ".join(f"{reason} {n:,}" for reason, n in found.items()))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _two(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
