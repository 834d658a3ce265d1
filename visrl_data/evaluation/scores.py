"""Score predictions: answer score, box accuracy, mean IoU, format validity, and the differences with intervals.

Called by evaluate.py when all predictions are there; needs no model. Scores are broken down by the question's
own `source` (a set of a benchmark, a kind of question); the total is the macro mean: the unweighted mean of the
groups. Unparsable counts as wrong and is counted apart.

Intervals are those of intervals.py, at 95 %.
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
from visrl_data.core.seeds import keyed_seed
from visrl_data.engines.refusals import REFUSAL_REASONS
from visrl_data.evaluation.eval_report import ALL, GroupFigures, ScoreDifference
from visrl_data.evaluation.predictions import Prediction
from visrl_data.report.intervals import Interval, difference_interval, mean_interval, mean_over_groups, resampled_means


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """How predictions are scored. scores: group -> one of SCORES in config.py."""

    scores: Mapping[str, str]
    gold_rule: str
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Resampling:
    """The bootstrap of a group: the same resamples in each evaluation with the same seed."""

    group: str
    settings: ScoreSettings

    def means(self, kind: str, values: np.ndarray) -> np.ndarray:
        key = keyed_seed(self.settings.seed, "bootstrap", self.group, kind)
        return resampled_means(values, self.settings.resamples, key)


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
    for group in sorted({p.group for p in readable[0]}):
        parts = [[p for p in predictions if p.group == group] for predictions in readable]
        answers = np.array([[score_answer(p, settings.scores[group]) for p in part] for part in parts])
        ious = _ious(parts, settings.gold_rule)
        for i, part in enumerate(parts):
            scored[i][group] = _group_figures(part, steps[i], settings.scores[group], answers[i], ious[i])
        hits = (ious > POSITIVE_IOU).astype(float) if ious.size else None
        _add_intervals([of_model[group] for of_model in scored], answers, hits, Resampling(group, settings))
    for of_model in scored:
        of_model[ALL] = _macro_mean(list(of_model.values()))
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
        "answer_interval": _mean_interval([g["answer"] for g in groups], [g["answer_interval"] for g in groups]),
        "answer_difference": _mean_difference([group["answer_difference"] for group in groups]),
        "box_accuracy": _mean_of_known([group["box_accuracy"] for group in groups]),
        "box_accuracy_interval": _mean_interval(
            [group["box_accuracy"] for group in groups], [group["box_accuracy_interval"] for group in groups]
        ),
        "box_accuracy_difference": _mean_difference([group["box_accuracy_difference"] for group in groups]),
        "mean_iou": _mean_of_known([group["mean_iou"] for group in groups]),
    }


def _mean_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mean_interval(values: list[float | None], intervals: list[Interval | None]) -> Interval | None:
    known = [(v, i) for v, i in zip(values, intervals, strict=True) if v is not None and i is not None]
    return mean_over_groups(known) if known else None


def _mean_difference(differences: list[ScoreDifference | None]) -> ScoreDifference | None:
    known = [(d["mean"], (d["low"], d["high"])) for d in differences if d is not None]
    if not known:
        return None
    low, high = mean_over_groups(known)
    return {"mean": float(np.mean([mean for mean, _ in known])), "low": low, "high": high}


def _add_intervals(models: list[GroupFigures], answers: np.ndarray, hits: np.ndarray | None, key: Resampling) -> None:
    """Add the intervals of each model's own figures on a group, and of its difference to the first model.

    answers, hits: (models, questions) scores, and 1 for a box on the label; hits is None where there is no label.
    """
    draws = key.means("answer", answers)
    for i, own in enumerate(models):
        own["answer_interval"], own["answer_difference"] = _intervals(answers, draws, i)
    if hits is None:
        return
    draws, with_boxes = key.means("box", hits), [own["box_accuracy"] is not None for own in models]
    for i, own in enumerate(models):
        if with_boxes[i]:
            own["box_accuracy_interval"], difference = _intervals(hits, draws, i)
            own["box_accuracy_difference"] = difference if with_boxes[0] else None


def _intervals(values: np.ndarray, draws: np.ndarray, i: int) -> tuple[Interval, ScoreDifference | None]:
    own = mean_interval(values[i], draws[:, i])
    if i == 0:
        return own, None
    low, high = difference_interval(values[0], values[i], (draws[:, 0], draws[:, i]))
    return own, {"mean": float(values[i].mean() - values[0].mean()), "low": low, "high": high}
