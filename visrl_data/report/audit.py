"""Audit pairs against labeled boxes (Tab. 6): are the win's boxes on the labeled region, and the lose's off it?

Part of the report (run_statistics.py), for questions that have gold boxes; nothing else of the pipeline
reads them. A box is positive when its IoU with the label is > 0.5: the public code's rule, since the
paper states none. What several gold boxes mean is a rule with a name (core/gold_regions.py).

Beyond the paper: 95 % intervals (Wilson); the random-pair baseline ("floor" in report.json), which is the exact
expectation for two different candidates of a question drawn at random; how well the box score separates positive
boxes from negative ones. A reply that could not be parsed has no candidate, so it counts nowhere, where the
public code counts it as a negative.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from visrl_data.core.gold_regions import POSITIVE_IOU, gold_ious
from visrl_data.report.accounting import RunTables, box_array
from visrl_data.report.measures import auc, wilson
from visrl_data.runs.run_report import Audit, AuditedPairs, AuditShare, BoxCriticAudit, PositiveBoxes

CELLS = ("WP-LP", "WP-LN", "WN-LP", "WN-LN")


def audit_pairs(tables: RunTables, box_critic: bool, rule: str) -> Audit:
    """Return the audit; its figures are None when no question has a gold box."""
    gold, candidates, pairs = tables.questions["gold_boxes"], tables.candidates, tables.pairs
    labeled = pc.greater(pc.fill_null(pc.list_value_length(gold), 0), 0).to_numpy()
    if not labeled.any():
        state = "no question has a gold box, so there is nothing to audit"
        return {"questions": 0, "state": state, "pairs": None, "floor": None, "boxes": None, "box_critic": None}
    question, pair_question = tables.candidate_question, tables.pair_question
    iou = gold_ious(tables.boxes, question, gold, rule)
    audited = labeled[pair_question]
    win, lose = (
        gold_ious(box_array(pairs[f"{side}_box"]), pair_question, gold, rule)[audited] > POSITIVE_IOU
        for side in ("win", "lose")
    )
    with_pair = np.zeros(labeled.size, bool)
    with_pair[pair_question] = True
    return {
        "questions": int(labeled.sum()),
        "state": f"{labeled.sum()} of {labeled.size} questions have gold boxes",
        "pairs": _audited_pairs(win, lose, int((~audited).sum())),
        "floor": {
            "questions_with_pair": _random_pair_baseline(question, iou, with_pair),
            "all_questions": _random_pair_baseline(question, iou, labeled),
        },
        "boxes": {
            origin: _positive_boxes(iou[pc.equal(candidates["box_origin"], origin).to_numpy()])
            for origin in ("actor", "controller")
        },
        "box_critic": _box_critic(candidates["box_score"].to_numpy(), iou) if box_critic else None,
    }


def _share(count: int, total: int) -> AuditShare:
    """Return a count with its percentage and 95 % interval, in percent."""
    interval = wilson(count, total)
    if interval is None:
        return {"count": count, "percent": None, "low": None, "high": None}
    return {"count": count, "percent": 100 * count / total, "low": 100 * interval[0], "high": 100 * interval[1]}


def _audited_pairs(win: np.ndarray, lose: np.ndarray, without_gold: int) -> AuditedPairs:
    """Count Tab. 6, win x lose, positive x negative: WP-LN should be high. win, lose: is the box positive."""
    counts = [int((w & k).sum()) for w in (win, ~win) for k in (lose, ~lose)]
    return {
        "audited": win.size,
        "cells": {name: _share(n, win.size) for name, n in zip(CELLS, counts, strict=True)},
        "win_positive": _share(int(win.sum()), win.size),
        "lose_negative": _share(int((~lose).sum()), win.size),
        "without_gold": without_gold,
    }


def _random_pair_baseline(question: np.ndarray, iou: np.ndarray, included: np.ndarray) -> dict[str, float | None]:
    """Return the percentages that pairs drawn without scores would have: two different candidates of a question,
    in either order with equal chance; every question (with gold boxes and two candidates) counts alike.

    With p positives among n candidates: WP-LN = WN-LP = p (n - p) / (n (n - 1)), win positive p / n.
    """
    labeled = ~np.isnan(iou)
    n = np.bincount(question[labeled], minlength=included.size)
    p = np.bincount(question[labeled], iou[labeled] > POSITIVE_IOU, minlength=included.size)
    used = included & (n > 1)
    n, p = n[used], p[used]
    ordered = n * (n - 1)
    chances = [p * (p - 1) / ordered, p * (n - p) / ordered, (n - p) * p / ordered, (n - p) * (n - p - 1) / ordered]
    named = dict(zip((*CELLS, "win_positive"), [*chances, p / n], strict=True))
    return {"questions": n.size} | {name: 100 * float(c.mean()) if n.size else None for name, c in named.items()}


def _positive_boxes(iou: np.ndarray) -> PositiveBoxes:
    known = iou[~np.isnan(iou)]
    return {
        "boxes": known.size,
        "positive": _share(int((known > POSITIVE_IOU).sum()), known.size),
        "mean_iou": float(known.mean()) if known.size else None,
    }


def _box_critic(score: np.ndarray, iou: np.ndarray) -> BoxCriticAudit:
    """Measure how well the box score separates positive boxes, over the candidates with a parsed score."""
    known = ~np.isnan(score) & ~np.isnan(iou)
    score, positive = score[known], iou[known] > POSITIVE_IOU
    means = [float(part.mean()) if part.size else None for part in (score[positive], score[~positive])]
    return {
        "auc": auc(score, positive),
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "mean_positive": means[0],
        "mean_negative": means[1],
    }
