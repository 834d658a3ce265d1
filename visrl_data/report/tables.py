"""Lay out a run's report as tables for a terminal (`visrl inspect`). Every figure is the report's."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table

from visrl_data.core.drop_reasons import explain
from visrl_data.core.text import one_line
from visrl_data.report.formats import (
    format_count,
    format_number,
    format_range,
    format_share,
    make_table,
    stack,
    text_group,
)
from visrl_data.report.human_audit import HumanAudit, human_lines, human_rows
from visrl_data.runs.run_report import (
    CRITICS,
    MEAN_IOUS,
    Counts,
    DropExample,
    RunReport,
    StageName,
    audit_rows,
    drop_rows,
)

_STAGES: dict[StageName, str] = {
    "questions": "questions",
    "candidates": "candidates",
    "scored": "scored",
    "in_win": "in W",
    "in_lose": "in L",
    "pairs": "pairs",
    "response_pairs": "both\nsteps",
}
_SHAPE_AUCS = {
    "controller": "AUC, controller's boxes by size and position",
    "lose": "AUC, lose boxes by size and position",
}


def render(report: RunReport, human: HumanAudit | None = None) -> RenderableType:
    """Return the tables of a report, and of the audit by people where there is one."""
    drops = text_group(_drops(report), *drop_lines(report["drops"].get("examples", [])))
    yields = text_group(_yields(report), *_attempts(report))
    audits = [text_group(*_audit(report)), *([render_human(human)] if human else [])]
    return stack(yields, drops, _critics(report), _boxes(report), *audits)


def render_human(audit: HumanAudit) -> RenderableType:
    """Return the table of an audit by people, and the lines under it."""
    table = make_table("Audit by people", ("boxes and responses", "pairs", "of", "%", "95 % interval"))
    for name, share in human_rows(audit):
        cells = (format_count(share["count"]), format_count(share["total"]), format_number(share["percent"], 1))
        table.add_row(name, *cells, format_range(share["low"], share["high"], 1))
    return text_group(table, *human_lines(audit))


def _yields(report: RunReport) -> Table:
    table = make_table("Yields", ("source", *_STAGES.values(), "pairs /\nquestion"))
    rows = {"all": report["yields"]["all"]} | report["yields"]["by_source"]
    for name, counts in rows.items() if len(rows) > 2 else list(rows.items())[:1]:
        cells = [format_count(counts[stage]) for stage in _STAGES]
        table.add_row(name, *cells, format_share(counts["pairs_per_question"]))
    return table


def _attempts(report: RunReport) -> list[str]:
    """Say how many questions had how many attempts, where these depend on a question's replies."""
    counts = report.get("attempts_per_question", {})
    parts = ", ".join(f"{attempts}: {format_count(questions)}" for attempts, questions in counts.items())
    return [f"Questions by attempts: {parts}."] if parts else []


def _drops(report: RunReport) -> RenderableType:
    table = make_table("Drops", ("unit", "stage", "reason", "count", "share"), left=("stage", "reason"))
    for row in drop_rows(report):
        share = format_share(row["count"] / row["total"])
        table.add_row(row["unit"], row["stage"], row["reason"], format_count(row["count"]), share)
    return table if table.rows else "Drops: none."


def drop_lines(examples: Iterable[DropExample]) -> list[str]:
    """Return a line for each reason of a drop: what it means, and the first that it happened to."""
    return [
        f"{example['reason']}: {explain(example['reason']) or 'dropped'}. First: {_example(example)}"
        for example in examples
    ]


def _example(example: DropExample) -> str:
    return one_line(f"{example['id']}, {example['detail']}" if example["detail"] else example["id"])


def _critics(report: RunReport) -> Table:
    focus = report["focus"]
    columns = ("reply", "count", "unparsed", "share", "mean score", "reasons")
    table = make_table("Replies", columns, left=("reasons",))
    invalid = {state: n for state, n in focus["states"].items() if state != "ok"}
    share = None if focus["validity"] is None else 1 - focus["validity"]
    table.add_row(
        "focus box",
        format_count(focus["replies"]),
        format_count(focus["replies"] - focus["valid"]),
        format_share(share),
        "",
        _reasons(invalid),
    )
    for name in CRITICS:
        if (critic := report["critics"][name]) is None:
            table.add_row(f"{name} score", "off")
            continue
        table.add_row(
            f"{name} score",
            format_count(critic["verdicts"]),
            format_count(critic["unparsed"]),
            format_share(critic["unparsed_share"]),
            format_number(critic["mean"]),
            _reasons(critic["unparsed_reasons"]),
        )
    return table


def _boxes(report: RunReport) -> Table:
    boxes, table = report["boxes"], make_table("Boxes and scores", ("figure", "value", "over"))
    for name, label in MEAN_IOUS.items():
        table.add_row(label, format_number(boxes[name]["mean"]), f"{boxes[name]['pairs']:,} pairs")
    for side, origin in boxes["origin"].items():
        total = sum(origin.values())
        share = origin["controller"] / total if total else None
        table.add_row(f"{side} boxes from the controller", format_share(share), f"{total:,} pairs")
    for kind, label in _SHAPE_AUCS.items():
        shape = boxes["shape_tells"][kind]
        table.add_row(label, format_number(shape["auc"]), f"{shape['rows']:,} boxes")
    exact = report["critics"]["response"]["exact"]
    table.add_row(
        "AUC, response score against exact match", format_number(exact["auc"]), f"{exact['matches']:,} matches"
    )
    return table


def _audit(report: RunReport) -> list[RenderableType]:
    audit = report["audit"]
    if audit["boxes"] is None:
        return [f"Audit: {audit['state']}."]
    rule, least = report["settings"]["gold_rule"], report["settings"]["positive_iou"]
    table = make_table("Audit (Tab. 6)", ("cell", "pairs", "%", "95 % interval", "random %"))
    for name, share, random in audit_rows(audit):
        table.add_row(
            name,
            format_count(share["count"]),
            format_number(share["percent"], 2),
            format_range(share["low"], share["high"], 2),
            format_number(random, 2),
        )
    actor = audit["boxes"]["actor"]
    lines = [
        f"W: win (chosen), L: lose (rejected), P: IoU with the label ({rule}) > {least}, N: not. "
        f"{audit['state'].capitalize()}.",
        "Random: the random-pair baseline, two different candidates of the same questions drawn without scores.",
        f"Positive among the actor's boxes: {format_number(actor['positive']['percent'], 2)} % of {actor['boxes']:,}.",
    ]
    if (critic := audit["box_critic"]) is not None:
        rows = critic["positives"] + critic["negatives"]
        lines.append(f"AUC, box score against the label: {format_number(critic['auc'])} over {rows:,} boxes.")
    return [table, *lines]


def _reasons(reasons: Counts) -> str:
    return ", ".join(f"{reason} {n:,}" for reason, n in reasons.items())
