"""A comparison (comparison.py) as tables for a terminal; what `visrl inspect A B` prints. Adds no figure of its own."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from visrl_data.report.tables import number, percent, spaced, table_of, two

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
    "lose_from_controller": "lose boxes that are the controller's",
}
_NUMBERS = {
    "box_score_mean": "mean box score",
    "response_score_mean": "mean response score",
    "box_score_gold_auc": "box score against the label, AUC",
    "response_score_exact_auc": "response score against exact match, AUC",
    "iou_in_attempt": "mean IoU of two boxes of an attempt",
    "iou_across_attempts": "mean IoU of boxes of two attempts",
    "iou_win_lose": "mean IoU of win and lose",
    "lose_told_by_shape_auc": "lose boxes told by shape, AUC",
}
_PAIRS = {
    "same": "the same pair in both",
    "differ": "another pair",
    "only_in_a": "a pair only in A",
    "only_in_b": "a pair only in B",
    "neither": "no pair in either",
}
_VALUE = 28  # characters of an option's value that are shown


def render(found: dict[str, Any]) -> RenderableType:
    """Tables of what `comparing.compare` returned."""
    return spaced(_head(found), _conditions(found), _figures(found), _drops(found), *_audit(found), _questions(found))


def _head(found: dict[str, Any]) -> str:
    lines = []
    for side in ("a", "b"):
        about = found[side]
        runs = f" of {len(about['runs'])} runs" if len(about["runs"]) > 1 else ""
        lines.append(
            f"{side.upper()}  {escape(about['name'])} ({about['kind']}{runs}): "
            f"{about['questions']:,} questions, {about['pairs']:,} pairs"
        )
    shared = found["same_runs"]
    if shared and all(found[side]["runs"] == shared for side in ("a", "b")):
        lines.append("Both hold the very same " + ("run." if len(shared) == 1 else "runs."))
    elif shared:
        lines.append(f"Runs that both hold: {len(shared)}.")
    if "source" in found["conditions"]:
        lines.append("The sources differ: yields, critics and audit of A and B are about different questions.")
    return "\n".join(lines)


def _conditions(found: dict[str, Any]) -> RenderableType:
    """Digests and long values are cut; --json has them whole."""
    if not found["conditions"]:
        return "Made alike: options, models, prompts, source and versions are the same."
    table = table_of("What differs", "of", "name", "A", "B")
    table.columns[1].justify = "left"
    for group, names in found["conditions"].items():
        for name, sides in names.items():
            table.add_row(group, escape(name), _value(sides["a"]), _value(sides["b"]))
    return table


def _value(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value)
    return escape(text if len(text) <= _VALUE else f"{text[: _VALUE - 3]}...")


def _figures(found: dict[str, Any]) -> Table:
    table = table_of("Figures", "figure", "A", "B")
    for names, form in ((_COUNTS, "{:,}".format), (_SHARES, percent), (_NUMBERS, number)):
        for name, what in names.items():
            sides = found["figures"].get(name, {"a": None, "b": None})
            if sides["a"] is not None or sides["b"] is not None:
                table.add_row(what, *("-" if side is None else form(side) for side in (sides["a"], sides["b"])))
    return table


def _drops(found: dict[str, Any]) -> RenderableType:
    table = table_of("Drops", "of", "at", "reason", "A", "B")
    for drop in found["drops"]:
        table.add_row(drop["of"], drop["at"], escape(drop["reason"]), f"{drop['a']:,}", f"{drop['b']:,}")
    return table if table.rows else "Drops: none in either."


def _audit(found: dict[str, Any]) -> list[RenderableType]:
    audit = found["audit"]
    states = [f"{side.upper()}: {audit[side]['state']}." for side in ("a", "b")]
    if not any(audit[side]["cells"] for side in ("a", "b")):
        return ["Audit: no question of either has a gold box."]
    table = table_of("Audit (Tab. 6), % with 95 % interval", "cell", "A", "B", "B - A, points")
    for cell in next(audit[side]["cells"] for side in ("a", "b") if audit[side]["cells"]):
        shown = [_cell(audit[side], cell) for side in ("a", "b")]
        difference = audit["difference"] and audit["difference"][cell]
        table.add_row(cell, *shown, _interval(difference, "points", "+") if difference else "-")
    for side in ("a", "b"):
        if blind := audit[side]["blind"]:
            states.append(f"Pairs drawn blindly from the questions of {side.upper()}: WP-LN {two(blind['WP-LN'])} %.")
    if audit["difference"]:
        states.append(
            "The difference's interval takes A and B for independent: wider than need be on common questions."
        )
    return [table, "\n".join(states)]


def _cell(side: dict[str, Any], name: str) -> str:
    return _interval(side["cells"][name], "percent") if side["cells"] else "-"


def _interval(values: dict[str, Any], name: str, sign: str = "") -> str:
    if values[name] is None:
        return "-"
    return f"{values[name]:{sign}.1f} ({values['low']:{sign}.1f} to {values['high']:{sign}.1f})"


def _questions(found: dict[str, Any]) -> RenderableType:
    asked = found["questions"]
    if not asked["common"]:
        return "No question is in both (the same picture, text and answers), so no pair can be compared with another."
    table = table_of("Questions in both", "what became of them", "count", "share")
    for name, what in _PAIRS.items():
        count = asked["pairs"][name]
        table.add_row(what, f"{count:,}", percent(count / asked["common"]))
        reasons = asked[f"why_none_in_{'b' if name == 'only_in_a' else 'a'}"] if name.startswith("only") else {}
        for reason, times in reasons.items():
            table.add_row(f"  in {'B' if name == 'only_in_a' else 'A'}: {escape(reason)}", f"{times:,}", "")
    return Group(
        table, f"{asked['common']:,} in both; {asked['only_in_a']:,} only in A, {asked['only_in_b']:,} only in B."
    )
