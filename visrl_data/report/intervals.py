"""Compute 95 % intervals: of a mean score, of the difference of two on the same questions, of a mean over groups.

Scores of 0 and 1 are counted: Wilson's interval, and for two models on the same questions Newcombe's. Other scores get
the percentile interval of a bootstrap over questions, with the same resamples for all models, so that a difference is
paired. A bootstrap of equal values has no width, however few they are: those are treated as if they were counted, which
is the widest that scores in [0, 1] can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from visrl_data.core.seeds import generator
from visrl_data.report.measures import wilson

Interval = tuple[float, float]  # 95 %: low, high; a list when read from a file
_BLOCK = 2_000_000  # resampling weights held at a time
Estimate = tuple[float, Interval]  # a value and its interval


def mean_interval(values: np.ndarray, draws: np.ndarray) -> Interval:
    """Return the interval of the mean of scores in [0, 1]. draws: means of their resamples."""
    if not (_are_counted(values) or _are_equal(values)):
        return interval(draws)
    low, high = wilson(float(values.sum()), values.size) or (0.0, 1.0)
    return _rounded(low, high)


def difference_interval(first: np.ndarray, second: np.ndarray, draws: tuple[np.ndarray, np.ndarray]) -> Interval:
    """Return the interval of the second mean minus the first, of scores on the same questions.

    draws: means of the resamples of both. 0 of 15 against 0 of 15 gives (-0.204, 0.204).
    """
    if not ((_are_counted(first) and _are_counted(second)) or _are_equal(second - first)):
        return interval(draws[1] - draws[0])
    one, other = ((float(v.mean()), mean_interval(v, d)) for v, d in zip((first, second), draws, strict=True))
    return _paired(one, other, _correlation(first, second))


def mean_over_groups(groups: Sequence[Estimate]) -> Interval:
    """Return the interval of the unweighted mean of independent estimates (Zou and Donner 2008, MOVER)."""
    mean = sum(value for value, _ in groups) / len(groups)
    down = math.hypot(*(value - low for value, (low, _) in groups)) / len(groups)
    up = math.hypot(*(high - value for value, (_, high) in groups)) / len(groups)
    return _rounded(mean - down, mean + up)


def _paired(first: Estimate, second: Estimate, correlation: float) -> Interval:
    """Return the interval of the second share minus the first (Newcombe 1998, paired data, method 10)."""
    (p, (p_low, p_high)), (q, (q_low, q_high)) = first, second

    def width(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    return _rounded(q - p - width(q - q_low, p_high - p), q - p + width(q_high - q, p - p_low))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation with Newcombe's continuity correction; 0 where either has equal scores only."""
    n = first.size
    covariance = float(n * (first @ second) - first.sum() * second.sum())
    scale = float(n * n * first.std() * second.std())
    corrected = max(0.0, covariance - n / 2) if covariance > 0 else covariance
    return corrected / scale if scale > 1e-12 else 0.0


def _are_counted(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _are_equal(values: np.ndarray) -> bool:
    return bool(np.ptp(values) < 1e-9)


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
    """Return the 95 % percentile interval of resamples."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return _rounded(float(low), float(high))


def _rounded(low: float, high: float) -> Interval:
    """Round to 9 decimals, so that the last bits of a sum decide nothing."""
    return round(low, 9), round(high, 9)
