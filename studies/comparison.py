"""Compare two values of the cells seed by seed and, accuracies and pairs, question by question.

Used by claims.py, tables.py and power.py. A side is a cell and the path of a model or run in it: "stages rl1".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studies.outcomes import Outcomes, accuracy, difference_interval, first_questions, pair_interval
from studies.values import Seeds, mean_and_half, value_at

ACCURACIES = ("box_accuracy", "answer")
"""Figures of an evaluation; the others are of the pairs of a run."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two sides, in the unit shown: its mean, and its two intervals.

    half: half of the interval over the seeds, None for one seed. questions: those that the other interval is over.
    """

    mean: float
    half: float | None
    over_questions: tuple[float, float]
    seeds: int
    questions: int

    @property
    def over_seeds(self) -> tuple[float, float] | None:
        """The interval over the seeds."""
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)

    @property
    def over_both(self) -> tuple[float, float]:
        """The smallest interval that holds both."""
        lows, highs = zip(*filter(None, (self.over_seeds, self.over_questions)), strict=True)
        return min(lows), max(highs)

    @property
    def gain(self) -> str:
        """The difference as text, with the interval that holds both."""
        return f"{self.mean:+.1f} ({span(self.over_both)})"

    @property
    def verdict(self) -> str:
        """The verdict on a difference that is claimed to be positive. One seed confirms and refutes nothing."""
        if self.half is None:
            return "one seed: no verdict"
        low, high = self.over_both
        return "confirmed" if low > 0 else "refuted" if high < 0 else "open"


def span(interval: tuple[float, float]) -> str:
    """Return an interval as text."""
    low, high = interval
    return f"{low:+.1f} to {high:+.1f}"


def compare(cells: dict[str, Seeds], above: str, below: str, figure: str) -> Comparison | None:
    """Compare two sides over the seeds that both have; None when there is none, or when a side has no such figure.

    Of evaluations of different sizes the questions that both have are compared. A model that was asked for no box has
    no box accuracy, and a run without pairs no share of good ones.
    """
    (cell, *place), (other, *elsewhere) = above.split(), below.split()
    seeds = sorted(set(cells.get(cell, {})) & set(cells.get(other, {})))
    if not seeds:
        return None
    ones = [value_at(cells[cell][seed], place) for seed in seeds]
    twos = [value_at(cells[other][seed], elsewhere) for seed in seeds]
    if None in [(side["all"] if figure in ACCURACIES else side)[figure] for side in ones + twos]:
        return None
    return (_compare_accuracies if figure in ACCURACIES else _compare_pairs)(ones, twos, figure)


def _compare_accuracies(ones: list[Any], twos: list[Any], figure: str) -> Comparison:
    cut: list[tuple[Outcomes, Outcomes]] = [
        (first_questions(one["outcomes"], two["outcomes"]), first_questions(two["outcomes"], one["outcomes"]))
        for one, two in zip(ones, twos, strict=True)
    ]
    mean, half = mean_and_half([100 * (accuracy(one, figure) - accuracy(two, figure)) for one, two in cut])
    low, high = difference_interval([one for one, _ in cut], [two for _, two in cut], figure)
    questions = sum(len(level[figure]) for level in cut[0][0].values())
    return Comparison(mean, half, (100 * low, 100 * high), len(cut), questions)


def _compare_pairs(ones: list[Any], twos: list[Any], figure: str) -> Comparison:
    mean, half = mean_and_half([one[figure] - two[figure] for one, two in zip(ones, twos, strict=True)])
    over_questions = pair_interval(
        [one["pair_outcomes"] for one in ones], [two["pair_outcomes"] for two in twos], figure
    )
    return Comparison(mean, half, over_questions, len(ones), len(ones[0]["pair_outcomes"]))
