"""Score predictions: answer score, box accuracy, mean IoU, format validity, and the differences with intervals.

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

import numpy as np

from visrl_data.core.boxes import Box
from visrl_data.core.errors import VisRLError
from visrl_data.core.gold_regions import POSITIVE_IOU, gold_iou
from visrl_data.core.metrics import answer_metric
from visrl_data.core.seeds import generator, keyed_seed
from visrl_data.engines.refusals import REFUSAL_REASONS
from visrl_data.evaluation.eval_report import ALL, GroupFigures, Interval, ScoreDifference
from visrl_data.evaluation.predictions import Prediction

_BLOCK = 2_000_000  # resampling weights held at a time


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """How predictions are scored. scores: group -> one of SCORES in config.py."""

    scores: Mapping[str, str]
    gold_rule: str
    resamples: int
    seed: int


def score_answer(prediction: Prediction, kind: str) -> float:
    """Return the score in [0, 1] by a metric of core/metrics.py, or the critic's verdict.

    No response, or a verdict that can't be read, is 0.
    """
    if prediction.response is None:
        return 0.0
    if kind == "critic":
        return prediction.verdict or 0.0
    return answer_metric(kind)(prediction.response, prediction.answers)


def box_iou(prediction: Prediction, gold_rule: str) -> float | None:
    """Return the IoU with the label; 0 for a box that can't be read; None without a label."""
    if not prediction.gold_boxes:
        return None
    if prediction.box is None:
        return 0.0
    return gold_iou(Box(*prediction.box), [Box(*gold) for gold in prediction.gold_boxes], gold_rule)


def score_models(
    models: Sequence[Sequence[Prediction]], steps: Sequence[int], settings: ScoreSettings
) -> list[dict[str, GroupFigures]]:
    """Return for each model {group: its figures}, with the macro mean under ALL; differences are to the FIRST model.

    models: predictions on the same rows, in the same order; steps: 2, or 1 for a model that gave no boxes.
    Raises VisRLError when there is no question to score.
    """
    readable = [[p for p in predictions if not p.dropped] for predictions in models]
    if not readable[0]:
        raise VisRLError("No row of the sources could be read, so there is nothing to score.")
    scored: list[dict[str, GroupFigures]] = [{} for _ in models]
    draws: dict[str, list[np.ndarray]] = {"answer": [], "box": []}
    for group in sorted({p.group for p in readable[0]}):
        parts = [[p for p in predictions if p.group == group] for predictions in readable]
        answers = np.array([[score_answer(p, settings.scores[group]) for p in part] for part in parts])
        ious = _ious(parts, settings.gold_rule)
        for kind, values in (("answer", answers), ("box", (ious > POSITIVE_IOU).astype(float))):
            if values.shape[1]:
                key = keyed_seed(settings.seed, "bootstrap", group, kind)
                draws[kind].append(resampled_means(values, settings.resamples, key))
        for i, part in enumerate(parts):
            scored[i][group] = _group_figures(part, steps[i], settings.scores[group], answers[i], ious[i])
        boxes = draws["box"][-1] if ious.size else None
        _add_intervals([of_model[group] for of_model in scored], draws["answer"][-1], boxes)
    for of_model in scored:
        of_model[ALL] = _macro_mean(list(of_model.values()))
    # The macro mean of each resample, so that its interval is the macro mean's own.
    answer, boxes = (np.mean(draws[kind], axis=0) if draws[kind] else None for kind in ("answer", "box"))
    _add_intervals([of_model[ALL] for of_model in scored], answer, boxes)
    return scored


def _ious(parts: list[list[Prediction]], gold_rule: str) -> np.ndarray:
    """Return the IoUs with the labels: (models, labelled questions)."""
    rows = [[iou for iou in (box_iou(p, gold_rule) for p in part) if iou is not None] for part in parts]
    return np.array(rows, dtype=float).reshape(len(parts), -1)


def _group_figures(
    part: list[Prediction], steps: int, score: str, answers: np.ndarray, ious: np.ndarray
) -> GroupFigures:
    """Return one model's figures on one group, without intervals."""
    unparsed = Counter(p.focus_state for p in part if p.focus_state != "ok")
    if steps == 1:  # it has no box that could be unreadable; only a refusal leaves it without an answer
        unparsed = Counter({reason: n for reason, n in unparsed.items() if reason in REFUSAL_REASONS})
    has_boxes = steps == 2 and ious.size > 0
    return {
        "score": score,
        "questions": len(part),
        "labelled": ious.size,
        "valid": None if steps == 1 else 1 - unparsed.total() / len(part),
        "unparsed": dict(sorted(unparsed.items())),
        "unread_verdicts": sum(p.verdict_state.startswith("unparsed") for p in part) if score == "critic" else 0,
        "answer": float(answers.mean()),
        "answer_interval": None,
        "answer_difference": None,
        "box_accuracy": float((ious > POSITIVE_IOU).mean()) if has_boxes else None,
        "box_accuracy_interval": None,
        "box_accuracy_difference": None,
        "mean_iou": float(ious.mean()) if has_boxes else None,
    }


def _macro_mean(groups: list[GroupFigures]) -> GroupFigures:
    """Return all groups as one: counts are added up, shares are averaged over the groups that have them."""
    scores = {group["score"] for group in groups}
    return {
        "score": scores.pop() if len(scores) == 1 else "mixed",
        "questions": sum(group["questions"] for group in groups),
        "labelled": sum(group["labelled"] for group in groups),
        "valid": _mean_of_known([group["valid"] for group in groups]),
        "unparsed": dict(sorted(sum((Counter(group["unparsed"]) for group in groups), Counter()).items())),
        "unread_verdicts": sum(group["unread_verdicts"] for group in groups),
        "answer": float(np.mean([group["answer"] for group in groups])),
        "answer_interval": None,
        "answer_difference": None,
        "box_accuracy": _mean_of_known([group["box_accuracy"] for group in groups]),
        "box_accuracy_interval": None,
        "box_accuracy_difference": None,
        "mean_iou": _mean_of_known([group["mean_iou"] for group in groups]),
    }


def _mean_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _add_intervals(models: list[GroupFigures], answer: np.ndarray | None, box: np.ndarray | None) -> None:
    """Add the intervals of each model's own figures, and of its difference to the first model.

    answer, box: means of the resamples, (resamples, models); None where the group has no label.
    """
    first = models[0]
    for i, own in enumerate(models):
        own["answer_interval"], own["answer_difference"] = _intervals(answer, i, own["answer"], first["answer"])
        own["box_accuracy_interval"], own["box_accuracy_difference"] = _intervals(
            box, i, own["box_accuracy"], first["box_accuracy"]
        )


def _intervals(
    means: np.ndarray | None, i: int, value: float | None, first: float | None
) -> tuple[Interval | None, ScoreDifference | None]:
    if means is None or value is None:
        return None, None
    if i == 0 or first is None:
        return interval(means[:, i]), None
    low, high = interval(means[:, i] - means[:, 0])
    return interval(means[:, i]), {"mean": value - first, "low": low, "high": high}


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the means of bootstrap resamples of the questions, the same resamples for every model.

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


def interval(draws: np.ndarray) -> Interval:
    """Return the 95 % percentile interval, rounded to 9 decimals, so that the last bits of a sum decide nothing."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return round(float(low), 9), round(float(high), 9)
