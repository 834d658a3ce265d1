"""Predictions -> figures: answer score, box accuracy, mean IoU, format validity, and what the difference is worth.

Called by evaluate.py when all predictions are there; needs no model. Scores are broken down by the question's
own `source` (a set of a benchmark, a kind of question); the total is the macro mean: the unweighted mean of the
groups. Unparsable counts as wrong and is counted apart.

Intervals are 95 % percentile intervals of a bootstrap over questions, drawn anew inside each group. The same
resamples serve all models, so that the interval of a difference is paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visrl_data.core.boxes import Box
from visrl_data.core.errors import VisRLError
from visrl_data.core.gold_regions import POSITIVE_IOU, gold_iou
from visrl_data.core.metrics import answer_metric
from visrl_data.core.seeds import generator, keyed_seed
from visrl_data.evaluation.predictions import Prediction

ALL = "all"
_BLOCK = 2_000_000  # resampling weights held at a time


@dataclass(frozen=True, slots=True)
class Settings:
    """How predictions are scored. scores: group -> one of SCORES in config.py."""

    scores: Mapping[str, str]
    gold_rule: str
    resamples: int
    seed: int


def answer_score(prediction: Prediction, kind: str) -> float:
    """Return the score in [0, 1] by a metric of core/metrics.py, or the critic's verdict.

    No response, or a verdict that can't be read, is 0.
    """
    if prediction.response is None:
        return 0.0
    if kind == "critic":
        return prediction.verdict or 0.0
    return answer_metric(kind)(prediction.response, prediction.answers)


def box_iou(prediction: Prediction, gold_rule: str) -> float | None:
    """IoU with the label; 0 for a box that can't be read; None without a label."""
    if not prediction.gold_boxes:
        return None
    if prediction.box is None:
        return 0.0
    return gold_iou(Box(*prediction.box), [Box(*gold) for gold in prediction.gold_boxes], gold_rule)


def figures(models: Sequence[Sequence[Prediction]], steps: Sequence[int], settings: Settings) -> list[dict[str, Any]]:
    """For each model {group: its figures}, with the macro mean under "all"; differences are to the FIRST model.

    models: predictions on the same rows, in the same order; steps: 2, or 1 for a model that gave no boxes.
    Raises VisRLError when there is no question to score.
    """
    read = [[p for p in predictions if not p.dropped] for predictions in models]
    if not read[0]:
        raise VisRLError("No row of the sources could be read, so there is nothing to score.")
    groups = sorted({p.group for p in read[0]})
    found: list[dict[str, Any]] = [{} for _ in models]
    draws: dict[str, list[np.ndarray]] = {"answer": [], "box": []}
    for group in groups:
        parts = [[p for p in predictions if p.group == group] for predictions in read]
        answers = np.array([[answer_score(p, settings.scores[group]) for p in part] for part in parts])
        ious = _ious(parts, settings.gold_rule)
        boxes = (ious > POSITIVE_IOU).astype(float)
        for kind, values in (("answer", answers), ("box", boxes)):
            if values.shape[1]:
                key = keyed_seed(settings.seed, "bootstrap", group, kind)
                draws[kind].append(resampled_means(values, settings.resamples, key))
        for i, part in enumerate(parts):
            found[i][group] = _counts(part, steps[i], settings.scores[group]) | {
                "labelled": ious.shape[1],
                "answer": float(answers[i].mean()),
                "box_accuracy": float(boxes[i].mean()) if ious.shape[1] and steps[i] == 2 else None,
                "mean_iou": float(ious[i].mean()) if ious.shape[1] and steps[i] == 2 else None,
            }
        _add_intervals([found_of[group] for found_of in found], draws, bool(ious.shape[1]))
    for of_model in found:
        of_model[ALL] = _macro(list(of_model.values()))
    means = {kind: [np.mean(drawn, axis=0)] if drawn else [] for kind, drawn in draws.items()}
    _add_intervals([found_of[ALL] for found_of in found], means, bool(means["box"]))
    return found


def _ious(parts: list[list[Prediction]], gold_rule: str) -> np.ndarray:
    """(models, labelled questions)."""
    rows = [[iou for iou in (box_iou(p, gold_rule) for p in part) if iou is not None] for part in parts]
    return np.array(rows, dtype=float).reshape(len(parts), -1)


def _counts(part: list[Prediction], steps: int, score: str) -> dict[str, Any]:
    unparsed = Counter(p.focus_state for p in part if p.focus_state != "ok")
    refused = unparsed["model_refused"] if steps == 1 else 0
    return {
        "score": score,
        "questions": len(part),
        "valid": None if steps == 1 else 1 - sum(unparsed.values()) / len(part),
        "unparsed": {"model_refused": refused} if refused else {} if steps == 1 else dict(sorted(unparsed.items())),
        "unread_verdicts": sum(p.verdict_state.startswith("unparsed") for p in part) if score == "critic" else 0,
    }


def _macro(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts are added up, shares are averaged over the groups that have them."""

    def mean(name: str) -> float | None:
        known = [group[name] for group in groups if group[name] is not None]
        return float(np.mean(known)) if known else None

    scores = {group["score"] for group in groups}
    return {
        "score": scores.pop() if len(scores) == 1 else "mixed",
        "unparsed": dict(sorted(sum((Counter(group["unparsed"]) for group in groups), Counter()).items())),
        **{name: sum(group[name] for group in groups) for name in ("questions", "labelled", "unread_verdicts")},
        **{name: mean(name) for name in ("answer", "box_accuracy", "mean_iou", "valid")},
    }


def _add_intervals(models: list[dict[str, Any]], draws: Mapping[str, list[np.ndarray]], labelled: bool) -> None:
    """Add the intervals of each model's own figures, and of its difference to the first model."""
    for kind, name in (("answer", "answer"), ("box", "box_accuracy")):
        for i, of_model in enumerate(models):
            known = of_model[name] is not None and (kind == "answer" or labelled)
            own = difference = None
            if known:
                drawn = draws[kind][-1]
                own = interval(drawn[:, i])
                if i and models[0][name] is not None:
                    low, high = interval(drawn[:, i] - drawn[:, 0])
                    difference = {"mean": of_model[name] - models[0][name], "low": low, "high": high}
            of_model[f"{name}_interval"], of_model[f"{name}_difference"] = own, difference


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of bootstrap resamples of the questions, the same resamples for every model.

    values: (models, n) scores of n questions. Returns (resamples, models). How often each question is drawn in a
    resample is one multinomial draw; a product with the scores then serves all models.
    """
    rng, n = generator(seed), values.shape[1]
    block = max(1, _BLOCK // n)
    means = [
        rng.multinomial(n, np.full(n, 1 / n), size=min(block, resamples - start)) @ values.T / n
        for start in range(0, resamples, block)
    ]
    return np.concatenate(means)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval; rounded to 9 decimals, so that the last bits of a sum decide nothing."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return round(float(low), 9), round(float(high), 9)
