"""Compute a run's statistics: yields, drops by reason, critics, boxes, and the audit, as one report.

After the filter; `visrl gen` and `visrl filter` store the report, the card and `visrl inspect` show it.
`build_report` reads the run's four tables and returns what report.json holds (run_report.py): fixed order of keys,
floats rounded to 6 decimals, the same for the same tables. None means that a figure does not exist here.

Counts add up, or `build_report` raises: rows = questions + dropped at the source, attempts and candidates
expected = made + lost by reason, candidates = unparsed + W + L + between, questions = pairs + drops by reason.

Beyond the paper's Tab. 6 (see audit.py): how the critics fail, how valid the actor's replies are, where
win and lose boxes come from, and how well a classifier that sees only their size and position separates them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core import metrics
from visrl_data.core.attempts import AttemptPlan
from visrl_data.core.boxes import ious
from visrl_data.core.config import with_version
from visrl_data.core.gold_regions import POSITIVE_IOU
from visrl_data.core.pair_rule import JointExtremes, PairRule, membership, rule_settings
from visrl_data.report.accounting import (
    DropCost,
    RunTables,
    box_array,
    check_balance,
    count_lost,
    count_yields,
    drop_costs,
    drop_examples,
    filter_drops,
    open_tables,
    question_attempts,
    value_counts,
)
from visrl_data.report.audit import audit_pairs
from visrl_data.report.measures import auc, histogram, iou_histogram, pairs_within, shape_auc
from visrl_data.runs.run_report import (
    BoxStatistics,
    CriticStatistics,
    ExactMatchStatistics,
    FocusStatistics,
    MeanIoU,
    RunReport,
)

REPORT_VERSION = 1
ORIGINS = ("actor", "controller")


def build_report(
    questions: pa.Table,
    candidates: pa.Table,
    drops: pa.Table,
    pairs: pa.Table,
    *,
    rule: PairRule,
    plan: AttemptPlan,
    score_step: float = 0.0,
    gold_rule: str = "any",
    rows_read: int | None = None,
) -> RunReport:
    """Return the report of a run under one filter setting.

    drops: all of them, those of the filter (`pairing.drop_table`) included.
    plan: how many attempts a question got. gold_rule: as in core/gold_regions.py.
    rows_read: how many rows the source had, when known; it must agree with the tables.
    Raises VisRLError when the counts do not add up.
    """
    tables = open_tables(questions, candidates, drops, pairs)
    attempts = question_attempts(tables, plan)
    costs = drop_costs(tables, attempts)
    members = membership(tables.candidates, rule)
    yields = count_yields(tables, costs, members, attempts)
    settings = rule_settings(rule) | plan.as_settings()
    report = {
        "version": REPORT_VERSION,
        "settings": with_version(
            settings | {"score_step": score_step, "gold_rule": gold_rule, "positive_iou": POSITIVE_IOU}
        ),
        "yields": yields,
        **({} if plan.is_fixed else {"attempts_per_question": _counts(attempts)}),
        "drops": {
            "source": value_counts(drops.filter(pc.equal(drops["stage"], "source"))["reason"]),
            "labels": value_counts(drops.filter(pc.equal(drops["stage"], "label"))["reason"]),
            "attempts": count_lost(costs, "attempts"),
            "candidates": count_lost(costs, "candidates"),
            "questions": filter_drops(tables),
            "examples": drop_examples(drops),
        },
        "balance": check_balance(tables, yields, members, rows_read),
        "focus": _focus(tables, costs),
        "critics": {
            "box": _critic(tables.candidates, "box_score", score_step) if rule.box_critic else None,
            "response": _critic(tables.candidates, "response_score", score_step) | {"exact": _exact(tables, rule)},
        },
        "boxes": _boxes(tables),
        "audit": audit_pairs(tables, rule.box_critic, gold_rule),
    }
    return cast(RunReport, _to_json(report))


def _counts(numbers: np.ndarray) -> dict[str, int]:
    """Count how often each number occurs, ascending."""
    values, counts = np.unique(numbers, return_counts=True)
    return {str(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}


def _focus(tables: RunTables, costs: list[DropCost]) -> FocusStatistics:
    """Count the actor's replies of the focus pass by state. A reply that the controller replaced counts as it was.

    A lost attempt counts under its drop's reason, for both of its replies.
    """
    states = Counter(value_counts(tables.candidates["focus_state"]))
    for cost in costs:
        if cost.stage == "focus" and cost.replied:
            states[cost.reason] += cost.candidates
    replies, valid = states.total(), states["ok"]
    origins = Counter(value_counts(tables.candidates["box_origin"]))
    return {
        "replies": replies,
        "valid": valid,
        "validity": valid / replies if replies else None,
        "states": {state: n for state, n in sorted(states.items()) if n},
        "boxes": {origin: origins[origin] for origin in ORIGINS},
        "relaxed": {what: n for what, n in value_counts(tables.candidates["relaxed"]).items() if what},
    }


def _critic(candidates: pa.Table, name: str, step: float) -> CriticStatistics:
    """Summarize a critic's verdicts; unparsed ones are counted apart, and skipped ones (--lazy) are none."""
    candidates = candidates.select([name, f"{name}_state", f"{name}_mass"])
    skipped = pc.equal(candidates[f"{name}_state"], "skipped")
    candidates = candidates.filter(pc.invert(skipped))
    values = candidates[name].to_numpy()
    parsed = values[~np.isnan(values)]
    unparsed = value_counts(candidates[f"{name}_state"].filter(pc.is_null(candidates[name])))
    mass = pc.mean(candidates[f"{name}_mass"]).as_py()
    return {
        "verdicts": values.size,
        "skipped": pc.sum(skipped).as_py() or 0,
        "unparsed": values.size - parsed.size,
        "unparsed_share": 1 - parsed.size / values.size if values.size else None,
        "unparsed_reasons": {state.removeprefix("unparsed:"): n for state, n in unparsed.items()},
        "mean": parsed.mean() if parsed.size else None,
        "mean_mass": mass,
        "histogram": histogram(values, score_bin(step)),
    }


def score_bin(step: float) -> float:
    """Return the width of a histogram's bins: the score step, but no finer than 0.05; 0.1 where nothing is rounded."""
    return max(step, 0.05) if step else 0.1


def _exact(tables: RunTables, rule: PairRule) -> ExactMatchStatistics:
    """Compare the response score with exact match against a standard answer (both normalized)."""
    answered = pc.not_equal(tables.candidates["response_score_state"], "skipped")
    candidates = tables.candidates.select(["response", "response_score"]).filter(answered)
    exact = exact_matches(tables.questions, candidates, tables.candidate_question[answered.to_numpy()])
    score = candidates["response_score"].to_numpy()
    unparsed = np.isnan(score)
    _, high, low = membership(candidates, JointExtremes(rule.thresholds, box_critic=False))
    kinds = {"high": high, "middle": ~(high | low | unparsed), "low": low, "unparsed": unparsed}
    return {
        "matches": int(exact.sum()),
        "auc": auc(score[~unparsed], exact[~unparsed]),
        "confusion": {
            name: {kind: int((rows & of_kind).sum()) for kind, of_kind in kinds.items()}
            for name, rows in (("match", exact), ("other", ~exact))
        },
        "mean_match": _mean(score[exact & ~unparsed]),
        "mean_other": _mean(score[~exact & ~unparsed]),
    }


def exact_matches(questions: pa.Table, candidates: pa.Table, candidate_question: np.ndarray) -> np.ndarray:
    """Return `metrics.normalized` of each candidate, normalizing each distinct text once."""
    codes: dict[str, int] = {}  # normalized text -> number

    def encode(texts: pa.ChunkedArray) -> np.ndarray:
        distinct = texts.combine_chunks().dictionary_encode()
        of_each = [codes.setdefault(metrics.comparable(text), len(codes)) for text in distinct.dictionary.to_pylist()]
        encoded: np.ndarray = np.array(of_each, np.int64)[distinct.indices.to_numpy()]
        return encoded

    answers = questions["answers"]
    answer_question, answer_codes = pc.list_parent_indices(answers).to_numpy(), encode(pc.list_flatten(answers))
    response_codes = encode(candidates["response"])
    # One number for each (question, text): a response matches when an answer has the same.
    return np.isin(candidate_question * len(codes) + response_codes, answer_question * len(codes) + answer_codes)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _boxes(tables: RunTables) -> BoxStatistics:
    """Measure how far apart boxes are, where those of the pairs come from, and what size and position give away.

    A lose that size and position give away may be a shortcut that preference training takes instead of looking at the
    image; the controller draws its boxes so that they are none.
    """
    in_attempt, across = _mean_ious(tables)
    win, lose = box_array(tables.pairs["win_box"]), box_array(tables.pairs["lose_box"])
    apart = ious(win, lose)
    origins = {side: Counter(value_counts(tables.pairs[f"{side}_box_origin"])) for side in ("win", "lose")}
    controller = pc.equal(tables.candidates["box_origin"], "controller").to_numpy()
    is_lose = np.arange(2 * len(lose)) < len(lose)
    both, question = np.concatenate([lose, win]), np.tile(tables.pair_question, 2)
    return {
        "iou_in_attempt": in_attempt,
        "iou_across_attempts": across,
        "iou_win_lose": {"mean": _mean(apart), "pairs": apart.size, "histogram": iou_histogram(apart)},
        "origin": {side: {name: counts[name] for name in ORIGINS} for side, counts in origins.items()},
        "shape_tells": {
            "controller": {
                "auc": shape_auc(tables.boxes, controller, tables.candidate_question),
                "rows": controller.size,
            },
            "lose": {"auc": shape_auc(both, is_lose, question), "rows": is_lose.size},
        },
    }


def _mean_ious(tables: RunTables) -> tuple[MeanIoU, MeanIoU]:
    """Return the mean IoU over all pairs of a question's candidates: those of one attempt, and those of two."""
    attempt = tables.candidates["attempt"].to_numpy()
    totals, pairs = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for first, second in pairs_within(tables.candidate_question):
        iou, same = ious(tables.boxes[first], tables.boxes[second]), attempt[first] == attempt[second]
        for kind in totals:
            totals[kind] += iou[same == kind].sum()
            pairs[kind] += int((same == kind).sum())
    in_attempt, across = (
        MeanIoU(mean=totals[kind] / pairs[kind] if pairs[kind] else None, pairs=pairs[kind]) for kind in (True, False)
    )
    return in_attempt, across


def _to_json(value: Any) -> Any:
    """Convert numpy numbers to Python's, and round floats to 6 decimals."""
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6)
    return int(value) if isinstance(value, np.integer) else value
