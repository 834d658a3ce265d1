"""What decides, from the scores alone, which of a question's candidates may win or lose and which of them is best.

Used by the filter (pipeline/pairing.py), which draws one pair a question from it, and by the report. PairRule is the
seam for another rule: `rule_from` makes the rule that a run's settings name, JointExtremes is the paper's (Eq. 4).

Several candidates of a question may be its worst: with one decimal of scores most are tied at 0. The paper does not say
which of them is the lose. `lose`, which is ours:

    uniform      any of them
    actor-first  a box that the actor wrote before one that the diversity controller drew
    hardest      the box that the actor gave the highest likelihood when it sampled it. A box of the controller was
                 not sampled and ranks last; where an engine gave no likelihood, this is actor-first
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.config import LOSES, Thresholds
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

Scores = tuple[np.ndarray, ...]
"""Response scores, then box scores if the rule uses them; one number a candidate, NaN where unparsed."""

_DECIMALS = 9  # scores and thresholds meet as decimals: 0.1 * 3 and 0.3 are the same score


class PairRule(Protocol):
    """Decide which candidates may pair. Settings: the four tau of Eq. 4, whether box scores count, and `lose`."""

    @property
    def thresholds(self) -> Thresholds: ...

    @property
    def box_critic(self) -> bool: ...

    @property
    def lose(self) -> str: ...

    def members(self, scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each candidate whether it has all its scores, is in W, and is in L."""
        ...

    def best(
        self, scores: Scores, question: np.ndarray, in_win: np.ndarray, in_lose: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of W that may be their question's win, and those of L that may be its lose, ascending.

        question: the number of each row's question, ascending. Among the rows of one question the filter draws.
        """
        ...

    def lose_priority(self, candidates: pa.Table) -> np.ndarray:
        """Return a number for each row: the filter draws the lose among those with their question's highest."""
        ...


@dataclass(frozen=True, slots=True)
class JointExtremes:
    """The paper's rule (Eq. 4): the win is the best member of W by every score at once, the lose the worst of L."""

    thresholds: Thresholds
    box_critic: bool
    lose: str = "uniform"

    def members(self, scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tau = self.thresholds
        bounds = ((tau.response_win, tau.response_lose), (tau.box_win, tau.box_lose))
        scored = np.ones(scores[0].size, bool)
        in_win, in_lose = scored.copy(), scored.copy()
        for score, (win, lose) in zip(scores, bounds[: len(scores)], strict=True):
            scored &= ~np.isnan(score)
            in_win &= score >= win
            in_lose &= score <= lose
        return scored, in_win & scored, in_lose & scored

    def best(
        self, scores: Scores, question: np.ndarray, in_win: np.ndarray, in_lose: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return _joint(scores, question, in_win, np.maximum), _joint(scores, question, in_lose, np.minimum)

    def lose_priority(self, candidates: pa.Table) -> np.ndarray:
        if self.lose == "uniform":
            return np.zeros(candidates.num_rows)
        is_actors = pc.equal(candidates["box_origin"], "actor").to_numpy()
        if self.lose == "actor-first":
            return np.where(is_actors, 1.0, 0.0)
        logprob = candidates["box_logprob"].to_numpy()
        return np.where(is_actors, np.nan_to_num(logprob, nan=np.finfo(np.float64).min), -np.inf)


def _joint(scores: Scores, question: np.ndarray, members: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Return the members at which every score is its question's extreme over the members, all at once."""
    rows = np.flatnonzero(members)
    joint = np.ones(rows.size, bool)
    for score in scores:
        joint &= is_extreme(score[rows], question[rows], extreme)
    return rows[joint]


def is_extreme(values: np.ndarray, question: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Return for each value whether it is its question's extreme: np.maximum or np.minimum. question: ascending."""
    if not values.size:  # reduceat takes no empty array
        return np.zeros(0, bool)
    starts, lengths = group_bounds(question)
    found: np.ndarray = values == np.repeat(extreme.reduceat(values, starts), lengths)
    return found


def group_bounds(question: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each run of equal values starts, and how long it is."""
    starts = np.flatnonzero(np.append(True, question[1:] != question[:-1])) if question.size else np.zeros(0, np.int64)
    return starts, np.diff(np.append(starts, question.size))


def rule_from(settings: Mapping[str, Any]) -> PairRule:
    """Return the rule of a run's options, of a manifest's "filter" or of a report's settings.

    Those of older runs have no `lose`, which is uniform. Raises ValueError for thresholds that do not belong together,
    and for an unknown `lose`.
    """
    thresholds = Thresholds(**{spec.name: settings[spec.name] for spec in dataclasses.fields(Thresholds)})
    lose = settings.get("lose") or "uniform"
    if lose not in LOSES:
        raise ValueError(f"--lose {lose}: expected one of {', '.join(LOSES)}")
    return JointExtremes(thresholds, settings["box_critic"], lose)


def rule_settings(rule: PairRule) -> dict[str, Any]:
    """Return what `rule_from` reads, without a `lose` that is uniform."""
    settings = dataclasses.asdict(rule.thresholds) | {"box_critic": rule.box_critic}
    return settings if rule.lose == "uniform" else settings | {"lose": rule.lose}


def membership(candidates: pa.Table, rule: PairRule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each row of a candidate table whether it has all its scores, is in W, and is in L."""
    return rule.members(read_scores(candidates, rule.box_critic))


def read_scores(candidates: pa.Table, box_critic: bool) -> Scores:
    """Read the columns of scores. Raises VisRLError when box scores are to count and the run has none."""
    if not box_critic:
        return (np.round(candidates["response_score"].to_numpy(), _DECIMALS),)
    if pc.any(pc.equal(candidates["box_score_state"], "off")).as_py():
        raise VisRLError("These candidates have no box scores (made without a box critic); add --no-box-critic.")
    response, box = (np.round(candidates[name].to_numpy(), _DECIMALS) for name in ("response_score", "box_score"))
    # A lazy run has no response where the box score lies between the thresholds: any number will do there, since
    # the box score alone keeps such a candidate out of W and L.
    skipped = pc.equal(candidates["response_score_state"], "skipped").to_numpy()
    return np.where(skipped, 0.5, response), box
