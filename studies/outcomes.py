"""Which questions a model got right, one character a question, so that claims can be tested over questions too.

Used by desk.py to keep them in the cells and by tables.py to resample them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from visrl_data.evaluation.predictions import parse_prediction
from visrl_data.evaluation.scores import POSITIVE_IOU, answer_score, box_iou, interval, resampled_means
from visrl_data.seeds import keyed_seed

RESAMPLES = 10_000
Outcomes = dict[str, dict[str, str]]
"""level -> figure ("answer", "box_accuracy") -> "1" for right and "0" for wrong, in the order of the questions."""


def outcomes(evaluation: Path, digest: str, steps: int) -> Outcomes:
    """Those of one model of an evaluation's folder, known by its digest and by how it was asked."""
    for about in sorted(evaluation.glob("predictions/*/about.json")):
        known = json.loads(about.read_text(encoding="utf-8"))
        if (known["model"]["digest"], known["steps"]) == (digest, steps):
            rows = pq.read_table(about.parent / "predictions.parquet").to_pylist()
            break
    else:
        raise FileNotFoundError(f"{evaluation} holds no predictions of model {digest[:12]} in {steps} steps")
    found: Outcomes = {}
    for prediction in map(parse_prediction, rows):
        level = found.setdefault(
            prediction.group.removeprefix("spotlight-"), dict.fromkeys(("answer", "box_accuracy"), "")
        )
        level["answer"] += str(int(answer_score(prediction, "normalised") == 1))
        level["box_accuracy"] += str(int((box_iou(prediction, "any") or 0) > POSITIVE_IOU))
    return found


def difference_interval(above: Sequence[Outcomes], below: Sequence[Outcomes], figure: str) -> tuple[float, float]:
    """95 % bootstrap interval over the questions of the mean difference, in [-1, 1]: paired, by level, macro mean.

    above, below: the outcomes of each seed, on the same questions; the seeds are averaged before the questions are
    drawn, so this is what other questions would change and not what other seeds would.
    """
    draws = []
    for level in sorted(above[0]):
        seeds = [_bits(a[level][figure]) - _bits(b[level][figure]) for a, b in zip(above, below, strict=True)]
        draws.append(resampled_means(np.mean(seeds, axis=0)[None], RESAMPLES, keyed_seed(0, "claim", level, figure)))
    return interval(np.mean(draws, axis=0)[:, 0])


def _bits(outcomes: str) -> np.ndarray:
    return np.array([int(one) for one in outcomes])
