"""Decide which candidates are in W and in L (Eq. 4), for the filter and for the report."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.config import Thresholds
from visrl_data.core.errors import VisRLError

# What becomes of a question: a pair, or the first of these reasons that holds.
DROP_REASONS = (
    "no_candidates",  # every attempt was lost earlier
    "all_unparsed",  # no candidate has all its scores
    "neither",  # W and L are both empty
    "no_win",  # W is empty: too hard
    "no_lose",  # L is empty: too easy
    "win_not_joint",  # no member of W is the best by both scores at once
    "lose_not_joint",  # no member of L is the worst by both scores at once
    "same_box",  # the best and the worst have one and the same box
)


OUTCOMES = ("pair", *DROP_REASONS)


# Scores and thresholds meet as decimals: 0.1 * 3 and 0.3 are the same score.
_DECIMALS = 9


def membership(
    candidates: pa.Table, thresholds: Thresholds, box_critic: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each candidate: has all its scores, is in W, is in L (Eq. 4)."""
    return members(read_scores(candidates, box_critic), thresholds)


def read_scores(candidates: pa.Table, box_critic: bool) -> tuple[np.ndarray, ...]:
    if not box_critic:
        return (np.round(candidates["response_score"].to_numpy(), _DECIMALS),)
    if pc.any(pc.equal(candidates["box_score_state"], "off")).as_py():
        raise VisRLError("These candidates have no box scores (made without a box critic); add --no-box-critic.")
    response, box = (np.round(candidates[name].to_numpy(), _DECIMALS) for name in ("response_score", "box_score"))
    skipped = pc.equal(candidates["response_score_state"], "skipped").to_numpy()
    return np.where(skipped, 0.5, response), box  # any number will do: the box score decides


def members(scores: tuple[np.ndarray, ...], thresholds: Thresholds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    taus = ((thresholds.response_win, thresholds.response_lose), (thresholds.box_win, thresholds.box_lose))
    scored = np.ones(scores[0].size, bool)
    in_win, in_lose = scored.copy(), scored.copy()
    for score, (win, lose) in zip(scores, taus[: len(scores)], strict=True):
        scored &= ~np.isnan(score)
        in_win &= score >= win
        in_lose &= score <= lose
    return scored, in_win & scored, in_lose & scored
