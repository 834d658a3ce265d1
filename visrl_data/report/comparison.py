"""Two runs or datasets against each other, as one plain dict: what `visrl inspect A B --json` prints.

    conditions   options, thresholds, models, prompts, sources and versions that differ
    figures      yields, drops, replies, boxes and critics of both reports
    audit        WP/LN of both with intervals, and the difference with its own
    questions    which were asked in both (the same picture, text and answers), and what became of their pairs

Figures come from the two reports as they are; None means that a side has no such figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.conditions import flatten
from visrl_data.core.config import current_options
from visrl_data.report.audit import CELLS
from visrl_data.report.measures import share_difference
from visrl_data.runs.opening import InspectionTarget, open_target

_STAGES = (
    *("rows_read", "dropped_at_source", "questions", "candidates", "scored", "in_win", "in_lose", "pairs"),
    *("response_pairs", "pairs_per_question"),
)
_MODELS = ("actor", "critic", "origin_base", "box_space", "crop_rule", "zero_shot", "deterministic")
_LEVELS = [("rows", "source"), ("attempts", "focus"), ("attempts", "answer"), ("questions", "filter")]
Key = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question: its pairs (boxes and responses of win and lose), or why there is none."""

    pairs: frozenset[tuple[Any, ...]]
    reason: str


def compare(a: str | Path, b: str | Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Everything that two runs, dataset folders or versions on the Hub differ in; each figure as {"a": ..., "b": ...}.

    Raises VisRLError when one of them can't be opened.
    """
    return _compared(open_target(str(a), say), open_target(str(b), say))


def _compared(a: InspectionTarget, b: InspectionTarget) -> dict[str, Any]:
    return {
        "a": _about(a),
        "b": _about(b),
        "same_runs": sorted(a.runs.keys() & b.runs.keys()),
        "conditions": _differing(_conditions(a), _conditions(b)),
        "figures": _both(_figures(a.report), _figures(b.report)),
        "drops": _drops(a.report, b.report),
        "audit": _audit(a.report["audit"], b.report["audit"]),
        "questions": _questions(_outcomes(a), _outcomes(b)),
    }


def _about(target: InspectionTarget) -> dict[str, Any]:
    return {
        "name": target.name,
        "kind": target.kind,
        "runs": sorted(target.runs),
        "questions": target.report["yields"]["all"]["questions"],
        "pairs": target.report["yields"]["all"]["pairs"],
    }


def _both(a: dict[str, Any], b: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"a": a.get(name), "b": b.get(name)} for name in {**a, **b}}


def _conditions(target: InspectionTarget) -> dict[str, dict[str, Any]]:
    """By group and name; where a dataset's runs differ among themselves, all their values, joined."""
    gathered: dict[str, dict[str, list[Any]]] = {}
    for about in target.runs.values():
        run, used = about["run"], about["filter"]
        groups: dict[str, Mapping[str, Any]] = {
            "options": {name: value for name, value in current_options(about["config"]).items() if name not in used},
            "thresholds": used,
            "models": {name: value for name, value in run.items() if name in _MODELS},
            "prompts": dict(name.split("@") for name in run["prompts"]),
            "source": run["source"],
            "versions": run["versions"],
        }
        for group, values in groups.items():
            for name, value in flatten(values).items():
                found = gathered.setdefault(group, {}).setdefault(name, [])
                if value not in found:
                    found.append(value)
    return {
        group: {name: found[0] if len(found) == 1 else ", ".join(map(str, found)) for name, found in names.items()}
        for group, names in gathered.items()
    }


def _differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    groups = {group: _both(a.get(group, {}), b.get(group, {})) for group in {**a, **b}}
    found = {
        group: {name: sides for name, sides in sorted(names.items()) if sides["a"] != sides["b"]}
        for group, names in groups.items()
    }
    return {group: names for group, names in found.items() if names}


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    yields, critics, boxes = report["yields"]["all"], report["critics"], report["boxes"]
    found = {name: yields[name] for name in _STAGES} | {"focus_validity": report["focus"]["validity"]}
    for name, critic in critics.items():
        for figure in ("mean", "unparsed_share") if critic else ():
            found[f"{name}_score_{figure}"] = critic[figure]
    found["response_score_exact_auc"] = critics["response"]["exact"]["auc"]
    box_critic = report["audit"]["box_critic"]
    found["box_score_gold_auc"] = box_critic["auc"] if box_critic else None
    for name in ("iou_in_attempt", "iou_across_attempts", "iou_win_lose"):
        found[name] = boxes[name]["mean"]
    lose = boxes["origin"]["lose"]
    found["lose_from_controller"] = lose["controller"] / sum(lose.values()) if sum(lose.values()) else None
    found["lose_told_by_shape_auc"] = boxes["shape_tells"]["lose"]["auc"]
    return found


def _drops(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Every reason that occurs on a side: of rows, attempts or questions; at which stage."""
    before, after = dict(_levels(a)), dict(_levels(b))
    found = [(level, before.get(level, 0), after.get(level, 0)) for level in {**before, **after}]
    return [
        {"of": of, "at": at, "reason": reason, "a": was, "b": now}
        for (of, at, reason), was, now in sorted(found, key=lambda row: _LEVELS.index(row[0][:2]))
        if was or now
    ]


def _levels(report: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str], int]]:
    drops = report["drops"]
    found = (drops["source"], drops["attempts"]["focus"], drops["attempts"]["answer"], drops["questions"])
    for (of, at), reasons in zip(_LEVELS, found, strict=True):
        for reason, count in reasons.items():
            yield (of, at, reason), count


def _audit(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The cells of Tab. 6 in percent. difference: b less a in points, where both have labelled boxes."""
    sides = {name: {"state": side["state"]} | _cells(side) for name, side in (("a", a), ("b", b))}
    return sides | {
        "difference": {cell: _difference(sides["a"], sides["b"], cell) for cell in (*CELLS, "win positive")}
        if a["pairs"] and b["pairs"]
        else None
    }


def _cells(audit: dict[str, Any]) -> dict[str, Any]:
    pairs = audit["pairs"]
    if pairs is None:
        return {"audited": 0, "cells": None, "blind": None}
    floor = audit["floor"]["questions_with_pair"]
    cells = {**pairs["cells"], "win positive": pairs["win_positive"]}
    blind = {cell: floor[cell.replace(" ", "_")] for cell in cells}
    return {"audited": pairs["audited"], "cells": cells, "blind": blind}


def _difference(a: dict[str, Any], b: dict[str, Any], cell: str) -> dict[str, float | None]:
    found = share_difference(*((side["cells"][cell]["count"], side["audited"]) for side in (a, b)))
    values = [None] * 3 if found is None else [round(100 * value, 6) for value in found]
    return dict(zip(("points", "low", "high"), values, strict=True))


def _outcomes(target: InspectionTarget) -> dict[Key, Outcome]:
    """Of every question, by what was asked. One that was asked several times has the pairs of all of them."""
    asked = target.table("questions").to_pylist()
    keys = {(q["run"], q["id"]): (q["image_sha256"], q["question"], tuple(q["answers"])) for q in asked}
    pairs: dict[Key, set[tuple[Any, ...]]] = {}
    for pair in target.table("pairs").to_pylist():
        made = (*pair["win_box"], pair["win_response"], *pair["lose_box"], pair["lose_response"])
        pairs.setdefault(keys[pair["run"], pair["question_id"]], set()).add(made)
    reasons = {keys[drop["run"], drop["id"]]: drop["reason"] for drop in target.table("unpaired").to_pylist()}
    return {key: Outcome(frozenset(pairs.get(key, ())), reasons.get(key, "")) for key in keys.values()}


def _questions(a: dict[Key, Outcome], b: dict[Key, Outcome]) -> dict[str, Any]:
    common = [(a[key], b[key]) for key in a if key in b]
    both = [(x, y) for x, y in common if x.pairs and y.pairs]
    only_a = [y.reason for x, y in common if x.pairs and not y.pairs]
    only_b = [x.reason for x, y in common if y.pairs and not x.pairs]
    same = sum(x.pairs == y.pairs for x, y in both)
    return {
        "common": len(common),
        "only_in_a": len(a) - len(common),
        "only_in_b": len(b) - len(common),
        "pairs": {
            "same": same,
            "differ": len(both) - same,
            "only_in_a": len(only_a),
            "only_in_b": len(only_b),
            "neither": len(common) - len(both) - len(only_a) - len(only_b),
        },
        "why_none_in_b": dict(sorted(Counter(only_a).items())),
        "why_none_in_a": dict(sorted(Counter(only_b).items())),
    }
