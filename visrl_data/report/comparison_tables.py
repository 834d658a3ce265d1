"""Lay out a comparison (comparison.py) as tables for a terminal (`visrl inspect A B`). Every figure is in it."""

from __future__ import annotations

import json
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from visrl_data.report.formats import (
    MISSING,
    format_count,
    format_estimate,
    format_number,
    format_share,
    make_table,
    stack,
    text_group,
)
from visrl_data.runs.run_report import MEAN_IOUS

_COUNTS = {
    "rows_read": "rows read",
    "dropped_at_source": "dropped at the source",
    "questions": "questions",
    "candidates": "candidates",
    "scored": "scored",
    "in_win": "in W",
    "in_lose": "in L",
    "pairs": "pairs",
    "response_pairs": "pairs for both steps",
}
_SHARES = {
    "pairs_per_question": "pairs / question",
    "focus_validity": "valid focus replies",
    "box_score_unparsed_share": "box scores unparsed",
    "response_score_unparsed_share": "response scores unparsed",
    "lose_from_controller": "lose boxes from the controller",
}
_NUMBERS: dict[str, str] = {
    "box_score_mean": "mean box score",
    "response_score_mean": "mean response score",
    "box_score_gold_auc": "AUC, box score against the label",
    "response_score_exact_auc": "AUC, response score against exact match",
    **{str(name): label for name, label in MEAN_IOUS.items()},
    "lose_shape_auc": "AUC, lose boxes by size and position",
}
_PAIRS = {
    "same": "the same pair in both",
    "differ": "another pair",
    "only_in_a": "a pair only in A",
    "only_in_b": "a pair only in B",
    "neither": "no pair in either",
}
_VALUE = 28  # characters of an option's value that are shown


def render(comparison: dict[str, Any]) -> RenderableType:
    """Return the tables of a comparison."""
    return stack(
        _head(comparison),
        _conditions(comparison),
        _figures(comparison),
        _drops(comparison),
        *_audit(comparison),
        _questions(comparison),
    )


def _head(comparison: dict[str, Any]) -> str:
    lines = []
    for side in ("a", "b"):
        about = comparison[side]
        runs = f" of {len(about['runs'])} runs" if len(about["runs"]) > 1 else ""
        lines.append(
            f"{side.upper()}  {about['name']} ({about['kind']}{runs}): "
            f"{about['questions']:,} questions, {about['pairs']:,} pairs"
        )
    shared = comparison["same_runs"]
    if shared and all(comparison[side]["runs"] == shared for side in ("a", "b")):
        lines.append("Both hold the same " + ("run." if len(shared) == 1 else "runs."))
    elif shared:
        lines.append(f"Runs that both hold: {len(shared)}.")
    if "source" in comparison["conditions"]:
        lines.append("The sources differ: yields, critics and audit of A and B are about different questions.")
    return "\n".join(lines)


def _conditions(comparison: dict[str, Any]) -> RenderableType:
    """Lay out the conditions that differ. Long values are cut; --json has them in full."""
    if not comparison["conditions"]:
        return "Same conditions: options, models, prompts, source and versions."
    table = make_table("Conditions that differ", ("group", "name", "A", "B"), left=("name",))
    for group, names in comparison["conditions"].items():
        for name, sides in names.items():
            table.add_row(group, name, _value(sides["a"]), _value(sides["b"]))
    return table


def _value(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 3]}..."


def _figures(comparison: dict[str, Any]) -> Table:
    table = make_table("Figures", ("figure", "A", "B"))
    for names, form in ((_COUNTS, format_count), (_SHARES, format_share), (_NUMBERS, format_number)):
        for name, label in names.items():
            sides = comparison["figures"].get(name, {"a": None, "b": None})
            if sides["a"] is not None or sides["b"] is not None:
                table.add_row(label, form(sides["a"]), form(sides["b"]))
    return table


def _drops(comparison: dict[str, Any]) -> RenderableType:
    table = make_table("Drops", ("unit", "stage", "reason", "A", "B"), left=("stage", "reason"))
    for drop in comparison["drops"]:
        counts = format_count(drop["a"]), format_count(drop["b"])
        table.add_row(drop["unit"], drop["stage"], drop["reason"], *counts)
    return table if table.rows else "Drops: none in either."


def _audit(comparison: dict[str, Any]) -> list[RenderableType]:
    audit = comparison["audit"]
    states = [f"{side.upper()}: {audit[side]['state']}." for side in ("a", "b")]
    if not any(audit[side]["cells"] for side in ("a", "b")):
        return ["Audit: no question of either has a gold box."]
    table = make_table("Audit (Tab. 6), % with 95 % interval", ("cell", "A", "B", "B - A, points"))
    for cell in next(audit[side]["cells"] for side in ("a", "b") if audit[side]["cells"]):
        cells = [audit[side]["cells"] for side in ("a", "b")]
        shown = [_estimate(of_side[cell], "percent") if of_side else MISSING for of_side in cells]
        difference = audit["difference"] and audit["difference"][cell]
        table.add_row(cell, *shown, _estimate(difference, "points", "+") if difference else MISSING)
    for side in ("a", "b"):
        if baseline := audit[side]["random_pairs"]:
            states.append(f"Random-pair baseline of {side.upper()}: WP-LN {format_number(baseline['WP-LN'], 2)} %.")
    if audit["difference"]:
        states.append("The interval of the difference assumes independent samples: it is too wide on common questions.")
    return [table, "\n".join(states)]


def _estimate(values: dict[str, Any], name: str, sign: str = "") -> str:
    return format_estimate(values[name], values["low"], values["high"], 1, sign)


def _questions(comparison: dict[str, Any]) -> RenderableType:
    questions = comparison["questions"]
    if not questions["common"]:
        return "No question is in both (the same image, text and answers), so pairs can't be compared."
    table = make_table("Questions in both", ("outcome", "count", "share"))
    for name, label in _PAIRS.items():
        count = questions["pairs"][name]
        table.add_row(label, f"{count:,}", format_share(count / questions["common"]))
        reasons = questions[f"why_none_in_{'b' if name == 'only_in_a' else 'a'}"] if name.startswith("only") else {}
        for reason, times in reasons.items():
            table.add_row(f"  in {'B' if name == 'only_in_a' else 'A'}: {reason}", f"{times:,}", "")
    once = any(comparison[side]["questions"] > questions["common"] + questions[f"only_in_{side}"] for side in "ab")
    return text_group(
        table,
        f"{questions['common']:,} in both; {questions['only_in_a']:,} only in A, {questions['only_in_b']:,} only in B."
        + (" A repeated question counts once." if once else ""),
    )
