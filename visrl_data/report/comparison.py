"""Compare two runs or datasets; the result is one plain dict, which `visrl inspect A B --json` prints.

    conditions   options, thresholds, models, prompts, sources and versions that differ
    figures      yields, drops, replies, boxes and critics of both reports
    audit        WP/LN of both with intervals, and the difference with its own
    questions    those in both (the same image, text and answers), and what became of their pairs

Figures come from the two reports as they are; None means that a side has no such figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.conditions import flatten
from visrl_data.core.config import current_options
from visrl_data.report.audit import CELLS
from visrl_data.report.measures import share_difference
from visrl_data.runs.manifest import critic_identity
from visrl_data.runs.opening import InspectionTarget, open_target
from visrl_data.runs.run_report import CRITICS, MEAN_IOUS, Audit, RunReport, StageName, audit_rows, drop_rows

_STAGES: tuple[StageName, ...] = (
    *("rows_read", "dropped_at_source", "questions", "candidates", "scored", "in_win", "in_lose", "pairs"),
    "response_pairs",
)
_MODELS = ("actor", "critic", "origin_base", "box_space", "crop_rule", "zero_shot", "deterministic")
_LEVELS = [
    ("rows", "source"),
    ("labels", "label"),
    ("attempts", "focus"),
    ("attempts", "answer"),
    ("questions", "filter"),
]
Key = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class QuestionOutcome:
    """What became of a question: its pairs (boxes and responses of win and lose), or why there is none."""

    pairs: frozenset[tuple[Any, ...]]
    reason: str


def compare(a: str | Path, b: str | Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Return the differences of two runs, dataset folders or versions on the Hub; each figure as {"a": ..., "b": ...}.

    Raises VisRLError when one of them can't be opened.
    """
    first, second = open_target(str(a), say), open_target(str(b), say)
    return {
        "a": _about(first),
        "b": _about(second),
        "same_runs": sorted(first.runs.keys() & second.runs.keys()),
        "conditions": _differing(_conditions(first), _conditions(second)),
        "figures": _both(_figures(first.report), _figures(second.report)),
        "drops": _drops(first.report, second.report),
        "audit": _audit(first.report["audit"], second.report["audit"]),
        "questions": _questions(_outcomes(first), _outcomes(second)),
    }


def _about(target: InspectionTarget) -> dict[str, Any]:
    total = target.report["yields"]["all"]
    return {
        "name": target.name,
        "kind": target.kind,
        "runs": sorted(target.runs),
        "questions": total["questions"],
        "pairs": total["pairs"],
    }


def _both(a: dict[str, Any], b: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"a": a.get(name), "b": b.get(name)} for name in {**a, **b}}


def _conditions(target: InspectionTarget) -> dict[str, dict[str, Any]]:
    """Return the conditions by group and name; where a dataset's runs differ among themselves, all values, joined."""
    gathered: dict[str, dict[str, list[Any]]] = {}
    for about in target.runs.values():
        run, used = about["run"], about["filter"]
        groups: dict[str, Mapping[str, Any]] = {
            "options": {name: value for name, value in current_options(about["config"]).items() if name not in used},
            "thresholds": used,
            "models": {name: value for name, value in run.items() if name in _MODELS}
            | {"critic": critic_identity(run, about["config"]) or {}},
            "prompts": dict(name.split("@") for name in run["prompts"]),
            "source": run["source"],
            "versions": run["versions"],
        }
        for group, values in groups.items():
            for name, value in flatten(values).items():
                distinct = gathered.setdefault(group, {}).setdefault(name, [])
                if value not in distinct:
                    distinct.append(value)
    return {
        group: {name: values[0] if len(values) == 1 else ", ".join(map(str, values)) for name, values in names.items()}
        for group, names in gathered.items()
    }


def _differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    groups = {group: _both(a.get(group, {}), b.get(group, {})) for group in {**a, **b}}
    differing = {
        group: {name: sides for name, sides in sorted(names.items()) if sides["a"] != sides["b"]}
        for group, names in groups.items()
    }
    return {group: names for group, names in differing.items() if names}


def _figures(report: RunReport) -> dict[str, Any]:
    yields, critics, boxes = report["yields"]["all"], report["critics"], report["boxes"]
    figures: dict[str, Any] = {name: yields[name] for name in _STAGES}
    figures["pairs_per_question"] = yields["pairs_per_question"]
    figures["focus_validity"] = report["focus"]["validity"]
    for name in CRITICS:
        if (critic := critics[name]) is not None:
            figures[f"{name}_score_mean"] = critic["mean"]
            figures[f"{name}_score_unparsed_share"] = critic["unparsed_share"]
    figures["response_score_exact_auc"] = critics["response"]["exact"]["auc"]
    box_critic = report["audit"]["box_critic"]
    figures["box_score_gold_auc"] = box_critic["auc"] if box_critic else None
    figures |= {name: boxes[name]["mean"] for name in MEAN_IOUS}
    lose = boxes["origin"]["lose"]
    figures["lose_from_controller"] = lose["controller"] / sum(lose.values()) if sum(lose.values()) else None
    figures["lose_shape_auc"] = boxes["shape_tells"]["lose"]["auc"]
    return figures


def _drops(a: RunReport, b: RunReport) -> list[dict[str, Any]]:
    """Return every reason that occurs on a side: of rows, attempts or questions, and at which stage."""
    sides = [{(row["unit"], row["stage"], row["reason"]): row["count"] for row in drop_rows(side)} for side in (a, b)]
    keys = sorted({**sides[0], **sides[1]}, key=lambda key: _LEVELS.index(key[:2]))
    return [
        {"unit": unit, "stage": stage, "reason": reason}
        | {name: side.get((unit, stage, reason), 0) for name, side in zip("ab", sides, strict=True)}
        for unit, stage, reason in keys
    ]


def _audit(a: Audit, b: Audit) -> dict[str, Any]:
    """Return the cells of Tab. 6 in percent. difference: b minus a in points, where both have labeled boxes."""
    sides = {name: {"state": side["state"]} | _cells(side) for name, side in (("a", a), ("b", b))}
    return sides | {
        "difference": {cell: _difference(sides["a"], sides["b"], cell) for cell in (*CELLS, "win positive")}
        if a["pairs"] and b["pairs"]
        else None
    }


def _cells(audit: Audit) -> dict[str, Any]:
    if audit["pairs"] is None:
        return {"audited": 0, "cells": None, "random_pairs": None}
    rows = audit_rows(audit)
    return {
        "audited": audit["pairs"]["audited"],
        "cells": {name: share for name, share, _ in rows},
        "random_pairs": {name: baseline for name, _, baseline in rows},
    }


def _difference(a: dict[str, Any], b: dict[str, Any], cell: str) -> dict[str, float | None]:
    difference = share_difference(*((side["cells"][cell]["count"], side["audited"]) for side in (a, b)))
    values = [None] * 3 if difference is None else [round(100 * value, 6) for value in difference]
    return dict(zip(("points", "low", "high"), values, strict=True))


def _outcomes(target: InspectionTarget) -> dict[Key, QuestionOutcome]:
    """Return the outcome of every question, by its image, text and answers; a repeated one has the pairs of all."""
    questions = target.table("questions").to_pylist()
    keys = {(q["run"], q["id"]): (q["image_sha256"], q["question"], tuple(q["answers"])) for q in questions}
    pairs: dict[Key, set[tuple[Any, ...]]] = {}
    for pair in target.table("pairs").to_pylist():
        contents = (*pair["win_box"], pair["win_response"], *pair["lose_box"], pair["lose_response"])
        pairs.setdefault(keys[pair["run"], pair["question_id"]], set()).add(contents)
    reasons = {keys[drop["run"], drop["id"]]: drop["reason"] for drop in target.table("unpaired").to_pylist()}
    return {key: QuestionOutcome(frozenset(pairs.get(key, ())), reasons.get(key, "")) for key in keys.values()}


def _questions(a: dict[Key, QuestionOutcome], b: dict[Key, QuestionOutcome]) -> dict[str, Any]:
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
