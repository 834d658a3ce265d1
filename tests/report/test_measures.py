"""The measures against scipy, against the scalar IoU, and against values worked out by hand."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from visrl_data.report.measures import (
    auc,
    auc_interval,
    cohen_kappa,
    finite_wilson,
    histogram,
    iou_histogram,
    pairs_within,
    shape_auc,
    wilson,
)


def test_wilson_by_hand():
    """z = 1.96: for 8 of 10, z^2 = 3.8415, centre (0.8 + 0.19207) / 1.38415 = 0.71674,
    half width 1.95996 / 1.38415 * sqrt(0.016 + 0.0096037) = 0.22658: 0.49016 to 0.94332.
    For 0 of 10: centre = half width = 0.19207 / 1.38415 = 0.13877: 0 to 0.27753.
    """
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert wilson(0, 0) is None


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_wilson_agrees_with_scipy(counts):
    expected = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_auc_by_hand():
    """Positives 2, 3 against negatives 1, 2: won 2>1, 3>1, 3>2, tied 2=2, so 3.5 of 4."""
    assert auc(np.array([1, 2, 2, 3]), np.array([False, False, True, True])) == 0.875
    assert auc(np.array([1.0, 2.0]), np.array([True, True])) is None


@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=60))
@settings(max_examples=60, deadline=None)
def test_auc_agrees_with_mann_whitney(rows):
    scores, positive = np.array([s for s, _ in rows]) / 10, np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        assert auc(scores, positive) is None
        return
    u = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert auc(scores, positive) == pytest.approx(u / (positive.sum() * (~positive).sum()))


def test_histograms():
    values = np.array([0.0, 0.1, 0.3, 0.1 * 3, 1.0, np.nan])
    assert histogram(values, 0.1) == {f"{i / 10:.6g}": n for i, n in enumerate([1, 1, 0, 2, 0, 0, 0, 0, 0, 0, 1])}
    assert list(histogram(values[:0], 0.25)) == ["0", "0.25", "0.5", "0.75", "1"]
    assert list(histogram(np.array([0.9]), 0.3).items())[3] == ("0.9", 1)
    assert histogram(np.array([0.0, 1.0, 1.0]), 0.3333333) == {"0": 1, "0.333333": 0, "0.666667": 0, "1": 2}
    assert list(iou_histogram(np.array([0.0, 0.05, 0.1, 0.95, 1.0])).values()) == [2, 1] + [0] * 7 + [2]


def test_pairs_within_groups():
    groups = np.array([0, 0, 0, 2, 3, 3])
    found = {(int(i), int(j)) for first, second in pairs_within(groups) for i, j in zip(first, second, strict=True)}
    assert found == {(i, j) for i, j in itertools.combinations(range(6), 2) if groups[i] == groups[j]}


def some_boxes(n, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.4, (n, 2))
    low = rng.random((n, 2)) * (1 - size)
    return np.concatenate([low, low + size], axis=1), rng


def test_shape_auc_finds_a_difference_in_size_or_in_place_and_no_other():
    boxes, rng = some_boxes(2000)
    groups = np.arange(2000) // 2
    chance = shape_auc(boxes, rng.random(2000) < 0.5, groups)
    wide = shape_auc(boxes, boxes[:, 2] - boxes[:, 0] > 0.25, groups)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    outer = shape_auc(boxes, np.abs(centre - 0.5).max(axis=1) > 0.2, groups)
    assert abs(chance - 0.5) < 0.04
    assert wide > 0.97 and outer > 0.9
    assert shape_auc(boxes, np.arange(2000) < 19, groups) is None


def test_shape_auc_does_not_learn_a_group_by_heart():
    """Both boxes of a group are the same and their class is the group's, by chance: nothing to learn."""
    boxes, rng = some_boxes(300)
    label = np.repeat(rng.random(300) < 0.5, 2)
    assert abs(shape_auc(np.repeat(boxes, 2, axis=0), label, np.repeat(np.arange(300), 2)) - 0.5) < 0.12


def test_shape_auc_of_many_rows_is_quick():
    boxes, rng = some_boxes(200_000)
    start = time.process_time()
    assert abs(shape_auc(boxes, rng.random(200_000) < 0.5, np.arange(200_000) // 6) - 0.5) < 0.02
    assert time.process_time() - start < 3


@given(st.integers(0, 40), st.integers(2, 80), st.integers(2, 80))
@settings(max_examples=60, deadline=None)
def test_the_interval_of_an_auc_solves_newcombes_equation(steps, positives, negatives):
    """(value - true)^2 = z^2 Var(true), solved by scipy on each side of the value."""
    value = steps / 40

    def excess(true):
        q1, q2 = true / (2 - true), 2 * true**2 / (1 + true)  # Hanley and McNeil 1982, with n* for both sizes
        half = (positives + negatives) / 2 - 1
        variance = (true * (1 - true) + half * (q1 - true**2) + half * (q2 - true**2)) / (positives * negatives)
        return (value - true) ** 2 - stats.norm.ppf(0.975) ** 2 * variance

    low, high = auc_interval(value, positives, negatives)
    assert low <= value <= high
    below = optimize.brentq(excess, 1e-12, value) if excess(1e-12) > 0 > excess(value) else 0.0
    above = optimize.brentq(excess, value, 1 - 1e-12) if excess(1 - 1e-12) > 0 > excess(value) else 1.0
    if value == 0:
        below, above = 0.0, optimize.brentq(excess, 1e-6, 1 - 1e-9)
    if value == 1:
        below, above = optimize.brentq(excess, 1e-9, 1 - 1e-6), 1.0
    assert (low, high) == pytest.approx((below, above), abs=1e-6)


@pytest.mark.parametrize("true", [0.5, 0.8, 0.95])
def test_the_interval_of_an_auc_covers_the_true_one(true):
    """Two normal distributions; 600 samples of 40 and 40, of which about 95 % must cover."""
    rng, shift = np.random.default_rng(0), stats.norm.ppf(true) * np.sqrt(2)
    label = np.arange(80) < 40
    covered = 0
    for _ in range(600):
        scores = np.concatenate([rng.normal(shift, 1, 40), rng.normal(0, 1, 40)])
        low, high = auc_interval(auc(scores, label), 40, 40)
        covered += low <= true <= high
    assert 0.92 <= covered / 600 <= 0.99


def test_an_interval_shrinks_with_the_share_of_the_population_that_was_drawn():
    assert finite_wilson(25, 50, 0.0) == pytest.approx((0.366, 0.634), abs=5e-4)
    assert finite_wilson(25, 50, 50 / 60) == pytest.approx((0.443, 0.557), abs=5e-4)
    assert finite_wilson(20, 50, 1.0) == (0.4, 0.4)
    assert finite_wilson(0, 0, 0.5) is None
    # one draw is worth one draw, whatever the population
    assert finite_wilson(1, 1, 0.5) == pytest.approx(wilson(1, 1))


def test_kappa_is_agreement_beyond_chance():
    """Cohen's own layout: 20 both yes, 15 both no, 5 and 10 apart: (0.7 - 0.5) / 0.5."""
    first = np.repeat([True, False, True, False], [20, 15, 5, 10])
    second = np.repeat([True, False, False, True], [20, 15, 5, 10])
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(first, first) == pytest.approx(1.0)
    assert cohen_kappa(first, ~first) < 0
    assert cohen_kappa(np.ones(3, bool), np.ones(3, bool)) is None
    assert cohen_kappa(np.zeros(0, bool), np.zeros(0, bool)) is None
