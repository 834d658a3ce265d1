"""The audit (Tab. 6): are the win's boxes on the labelled region, and the lose's off it?

Part of the report (run_statistics.py), for questions that have gold boxes; nothing else of the pipeline
reads them. A box is positive when its IoU with the label is > 0.5: the public code's rule, since the
paper states none. What several gold boxes mean is a rule with a name (core/gold_regions.py).

Beyond the paper: 95 % intervals (Wilson); a floor, which is what pairs of two different candidates of a
question, drawn blindly, would score (exact expectation over all ordered pairs); how well the box score
tells positive boxes. A reply that could not be parsed has no candidate, so it counts nowhere, where the
public code counts it as a negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from visrl_data.core.gold_regions import POSITIVE_IOU, gold_ious
from visrl_data.report.accounting import RunTables, box_array
from visrl_data.report.measures import auc, wilson

CELLS = ("WP-LP", "WP-LN", "WN-LP", "WN-LN")


def audit(tables: RunTables, box_critic: bool, rule: str) -> dict[str, Any]:
    """The audit's section of the report; its figures are None when no question has a gold box."""
    gold, candidates, pairs = tables.questions["gold_boxes"], tables.candidates, tables.pairs
    labelled = pc.greater(pc.fill_null(pc.list_value_length(gold), 0), 0).to_numpy()
    state = {
        "questions": int(labelled.sum()),
        "state": f"{labelled.sum()} of {labelled.size} questions have gold boxes"
        if labelled.any()
        else "no question has a gold box, so there is nothing to audit",
    }
    if not labelled.any():
        return state | dict.fromkeys(("pairs", "floor", "boxes", "box_critic"))
    question, pair_question = tables.candidate_question, tables.pair_question
    iou = gold_ious(tables.boxes, question, gold, rule)
    audited = labelled[pair_question]
    win, lose = (
        gold_ious(box_array(pairs[f"{side}_box"]), pair_question, gold, rule)[audited] > POSITIVE_IOU
        for side in ("win", "lose")
    )
    with_pair = np.zeros(labelled.size, bool)
    with_pair[pair_question] = True
    return state | {
        "pairs": _cells(win, lose) | {"without_gold": int((~audited).sum())},
        "floor": {
            "questions_with_pair": _floor(question, iou, with_pair),
            "all_questions": _floor(question, iou, labelled),
        },
        "boxes": {
            origin: _positives(iou[pc.equal(candidates["box_origin"], origin).to_numpy()])
            for origin in ("actor", "controller")
        },
        "box_critic": _box_critic(candidates["box_score"].to_numpy(), iou) if box_critic else None,
    }


def _share(count: int, total: int) -> dict[str, Any]:
    """A count with its percentage and 95 % interval, in percent."""
    low, high = wilson(count, total) or (None, None)
    percent = [None if part is None else 100 * part for part in (count / total if total else None, low, high)]
    return {"count": count} | dict(zip(("percent", "low", "high"), percent, strict=True))


def _cells(win: np.ndarray, lose: np.ndarray) -> dict[str, Any]:
    """Tab. 6: win x lose, positive x negative. WP-LN is wanted high, WN-LP low."""
    counts = [int((w & k).sum()) for w in (win, ~win) for k in (lose, ~lose)]
    return {
        "audited": win.size,
        "cells": {name: _share(n, win.size) for name, n in zip(CELLS, counts, strict=True)},
        "win_positive": _share(int(win.sum()), win.size),
        "lose_negative": _share(int((~lose).sum()), win.size),
    }


def _floor(question: np.ndarray, iou: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """Percentages that pairs drawn blindly would have: two different candidates of a question, in
    either order with equal chance; every question (with gold boxes and two candidates) counts alike.

    With p positives among n candidates: WP-LN = WN-LP = p (n - p) / (n (n - 1)), win positive p / n.
    """
    labelled = ~np.isnan(iou)
    n = np.bincount(question[labelled], minlength=wanted.size)
    p = np.bincount(question[labelled], iou[labelled] > POSITIVE_IOU, minlength=wanted.size)
    used = wanted & (n > 1)
    n, p = n[used], p[used]
    ordered = n * (n - 1)
    chances = [p * (p - 1) / ordered, p * (n - p) / ordered, (n - p) * p / ordered, (n - p) * (n - p - 1) / ordered]
    named = dict(zip((*CELLS, "win_positive"), [*chances, p / n], strict=True))
    return {"questions": n.size} | {name: 100 * float(c.mean()) if n.size else None for name, c in named.items()}


def _positives(iou: np.ndarray) -> dict[str, Any]:
    known = iou[~np.isnan(iou)]
    return {
        "boxes": known.size,
        "positive": _share(int((known > POSITIVE_IOU).sum()), known.size),
        "mean_iou": float(known.mean()) if known.size else None,
    }


def _box_critic(score: np.ndarray, iou: np.ndarray) -> dict[str, Any]:
    """Does the box score tell positive boxes from negative ones? Over the candidates with a parsed score."""
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
