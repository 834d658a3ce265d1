"""The power of the studies: known cases of the normal and the t test."""

from __future__ import annotations

import pytest

from studies import power
from studies.comparison import Comparison
from studies.values import mean_and_half


def test_questions_needed_follow_the_normal_test():
    """A difference of 2.8 standard errors has a power of 80 %: as many as there are; of half of that, four times."""
    interval = (1.8 - 1.96, 1.8 + 1.96)  # a standard error of 1
    assert power.questions_needed(2.8016, interval, 500) == pytest.approx(500, rel=1e-3)
    assert power.questions_needed(-1.4008, interval, 500) == pytest.approx(2000, rel=1e-3)
    assert power.questions_needed(0, interval, 500) == float("inf")


def test_seeds_needed_are_those_of_the_t_test():
    """By the tables of the one-sample t test: an effect of one standard deviation needs 10, of two needs 5."""
    assert (power.seeds_needed(1, 1), power.seeds_needed(-2, 1)) == (10, 5)
    assert power.seeds_needed(1, 0) == 2 and power.seeds_needed(0, 1) is None


def test_the_spread_between_seeds_is_that_of_the_interval():
    _, half = mean_and_half([1.0, 2.0, 3.0])
    assert power.spread_of(half, 3) == pytest.approx(1)


def test_the_smallest_difference_falls_with_the_questions():
    found = Comparison(1.0, 0.0, (-0.96, 2.96), 3, 500)
    assert power.smallest(found, 500) == pytest.approx(2.8, abs=0.01)
    assert power.smallest(found, 2000) == pytest.approx(1.4, abs=0.01)
