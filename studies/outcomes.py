"""Reduce evaluations and runs to one character per question, so that claims can be tested over questions too.

Used by workspace.py to store them in the cells and by tables.py to resample them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from visrl_data.core.boxes import Box
from visrl_data.core.gold_regions import POSITIVE_IOU, gold_iou
from visrl_data.core.seeds import generator, keyed_seed
from visrl_data.evaluation.predictions import parse_prediction
from visrl_data.evaluation.scores import box_iou, score_answer
from visrl_data.report.intervals import interval

RESAMPLES, BLOCKS = 10_000, 20
Outcomes = dict[str, dict[str, str]]
"""level -> figure ("answer", "box_accuracy") -> "1" for right and "0" for wrong, in the order of the questions."""


def outcomes(evaluation: Path, digest: str, steps: int) -> Outcomes:
    """Return the outcomes of one model of an evaluation, identified by its digest and its steps (2 with a box)."""
    for about in sorted(evaluation.glob("predictions/*/about.json")):
        record = json.loads(about.read_text(encoding="utf-8"))
        if (record["model"]["digest"], record["steps"]) == (digest, steps):
            rows = pq.read_table(about.parent / "predictions.parquet").to_pylist()
            break
    else:
        raise FileNotFoundError(f"{evaluation} holds no predictions of model {digest[:12]} in {steps} steps")
    by_level: Outcomes = {}
    for prediction in map(parse_prediction, rows):
        level = by_level.setdefault(
            prediction.group.removeprefix("spotlight-"), dict.fromkeys(("answer", "box_accuracy"), "")
        )
        level["answer"] += str(int(score_answer(prediction, "normalized") == 1))
        level["box_accuracy"] += str(int((box_iou(prediction, "any") or 0) > POSITIVE_IOU))
    return by_level


def first_questions(outcomes: Outcomes, like: Outcomes) -> Outcomes:
    """Return the outcomes of the questions that another evaluation has too: the first ones of each level."""
    sizes = {level: min(len(bits) for bits in figures.values()) for level, figures in like.items()}
    return {level: {name: bits[: sizes[level]] for name, bits in of.items()} for level, of in outcomes.items()}


def accuracy(outcomes: Outcomes, figure: str) -> float:
    """Return the mean of the levels' shares of right answers or boxes, in [0, 1]."""
    return float(np.mean([_bits(level[figure]).mean() for level in outcomes.values()]))


def answers_at_right_boxes(outcomes: Outcomes) -> float:
    """Return the share of right answers among the questions whose box is right, of all levels, in [0, 1]."""
    boxes, answers = (_bits("".join(of[name] for of in outcomes.values())) for name in ("box_accuracy", "answer"))
    return float(answers[boxes == 1].mean())


def difference_interval(above: Sequence[Outcomes], below: Sequence[Outcomes], figure: str) -> tuple[float, float]:
    """Return the 95 % paired bootstrap interval over the questions of the mean difference, in [-1, 1] (macro mean).

    above, below: the outcomes of each seed, on the same questions; the seeds are averaged before the questions are
    drawn, so this is the variation over questions and not over seeds.
    """
    draws = []
    for level in sorted(above[0]):
        seeds = [_bits(a[level][figure]) - _bits(b[level][figure]) for a, b in zip(above, below, strict=True)]
        draws.append(_resampled_means(np.mean(seeds, axis=0)[None], keyed_seed(0, "claim", level, figure)))
    return interval(np.mean(draws, axis=0)[:, 0])


def pair_outcomes(run: Path) -> str:
    """Return one character for each question of a run: "-" no pair, "+" a WP-LN pair, "0" another pair."""
    pairs = {row["question_id"]: row for row in pq.read_table(run / "pairs.parquet").to_pylist()}
    questions = [pq.read_table(part)["id"].to_pylist() for part in sorted((run / "questions").glob("*.parquet"))]
    return "".join(_kind(pairs.get(id)) for part in questions for id in part)


def _kind(pair: dict | None) -> str:
    if pair is None:
        return "-"
    gold = [Box(*box) for box in pair["gold_boxes"]]
    win, lose = (gold_iou(Box(*pair[f"{side}_box"]), gold) > POSITIVE_IOU for side in ("win", "lose"))
    return "+" if win and not lose else "0"


def pair_interval(above: Sequence[str], below: Sequence[str], figure: str) -> tuple[float, float]:
    """Return the 95 % bootstrap interval over the questions of the difference in "WP-LN" (percent) or "pairs" (a run).

    above, below: the outcomes of each seed's run, all on the same questions; a question is drawn with the pairs that
    all seeds made of it.
    """
    counts = [sum(_bits(one, kinds) for one in side) for side in (above, below) for kinds in ("+", "+0")]
    good, total, good_below, total_below = _resampled_means(
        np.array(counts, dtype=float), keyed_seed(0, "claim", figure)
    ).T
    if figure == "pairs":
        return interval((total - total_below) * len(above[0]) / len(above))
    return interval(100 * (good / total - good_below / total_below))


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """Return the means of bootstrap resamples: (rows, n) -> (RESAMPLES, rows), as visrl_data/report/intervals.py.

    The draws are kept: dozens of claims are about the same questions, and drawing takes nearly all the time.
    """
    n = values.shape[1]
    return np.concatenate([block @ values.T / n for block in _draws(n, seed)])


@cache
def _draws(n: int, seed: int) -> list[np.ndarray]:
    """Return how often each of n questions is drawn in each resample, in blocks."""
    rng = generator(seed)
    return [rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES // BLOCKS).astype(np.uint8) for _ in range(BLOCKS)]


def _bits(outcomes: str, kinds: str = "1") -> np.ndarray:
    return np.array([int(one in kinds) for one in outcomes])
