"""Compute the small numeric measures of the report: numpy arrays in, plain numbers out.

None means that there are too few rows to say; it is never replaced by a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
_FOLDS = 5
_LEAST_OF_A_CLASS = 20
_MOST_GROUPS = 4_000
_RIDGE = 1e-2
_NEWTON_STEPS = 15


def wilson(count: float, total: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a share (Wilson 1927). 8 of 10 gives (0.490, 0.943), 0 of 10 (0, 0.278)."""
    if total == 0:
        return None
    share, z2 = count / total, _Z95**2
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, center - half), min(1.0, center + half)


def finite_wilson(count: float, total: int, drawn: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a share in a finite population, of which the share `drawn` was drawn without repeats.

    Wilson's interval of as many draws with repeats as are worth the same, total * (N - 1) / (N - total) for the N that
    `total` is that share of. 25 of 50 from very many gives (0.366, 0.634), from 60 (0.443, 0.557), from 50 0.5 alone.
    """
    if total == 0:
        return None
    if drawn >= 1:
        return count / total, count / total
    worth = (total - drawn) / (1 - drawn)
    return wilson(count / total * worth, worth)


def cohen_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return how far two people agree beyond chance (Cohen 1960), of what they said of the same things, yes or no.

    20 times both yes, 15 both no, 5 and 10 apart gives 0.4. None where both said the same of everything.
    """
    if not first.size:
        return None
    agreement, (p, q) = float((first == second).mean()), (float(first.mean()), float(second.mean()))
    chance = p * q + (1 - p) * (1 - q)
    return None if chance == 1 else (agreement - chance) / (1 - chance)


def share_difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float, float] | None:
    """Return the second share minus the first, each (count, total), with its 95 % interval (Newcombe 1998, method 10).

    Assumes independent samples. 48 of 80 after 56 of 70 gives -0.2, from -0.334 to -0.052.
    """
    before, after = wilson(*first), wilson(*second)
    if before is None or after is None:
        return None
    p, q = first[0] / first[1], second[0] / second[1]
    down, up = math.hypot(q - after[0], before[1] - p), math.hypot(after[1] - q, p - before[0])
    return q - p, q - p - down, q - p + up


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the chance that a positive scores above a negative, a tie counting half (Mann-Whitney U / n+ n-).

    Scores [1, 2, 2, 3] with positives [no, no, yes, yes]: of 4 comparisons 3 are won and 1 is tied,
    so 0.875. None without both classes.
    """
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        return None
    _, level, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[level]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_interval(value: float, positives: int, negatives: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUC from that many independent observations (Newcombe 2006, method 5).

    Like Wilson's, it has a width also where the AUC is 1: from 20 against 20 it is (0.899, 1).
    """
    half = (positives + negatives) / 2 - 1

    def excess(true: float) -> float:
        """Return how much farther a true AUC is from the value than its error allows (Hanley and McNeil 1982)."""
        spread = 1 + half * ((1 - true) / (2 - true) + true / (1 + true))
        return (value - true) ** 2 - _Z95**2 * true * (1 - true) * spread / (positives * negatives)

    return _root(excess, 0.0, value), _root(excess, 1.0, value)


def _root(excess: Callable[[float], float], outside: float, inside: float) -> float:
    """Bisect between a point where `excess` is positive, or 0 at the end of the range, and one where it is not."""
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (outside, middle) if excess(middle) <= 0 else (middle, inside)
    return outside


def histogram(values: np.ndarray, step: float) -> dict[str, int]:
    """Count at the multiples of step in [0, 1] (the nearest one), keyed by the multiple.

    1 / step may be as far from a whole number as that of a --score-step may.
    """
    bins = np.round(values[~np.isnan(values)] / step).astype(int)
    counts = np.bincount(bins, minlength=math.ceil(1 / step - 1e-6) + 1)
    return {f"{min(i * step, 1.0):.6g}": int(n) for i, n in enumerate(counts)}


def iou_histogram(values: np.ndarray) -> dict[str, int]:
    """Count in ten bins of [0, 1], keyed by the lower edge; 1 belongs to the last."""
    counts, _ = np.histogram(values, bins=np.arange(11) / 10)
    return {f"{i / 10:.1f}": int(n) for i, n in enumerate(counts)}


def pairs_within(groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of rows with the same value in `groups` (equal ones adjacent), in batches of equal distance."""
    for lag in range(1, groups.size):
        first = np.flatnonzero(groups[lag:] == groups[:-lag])
        if not first.size:
            return
        yield first, first + lag


def shape_auc(boxes: np.ndarray, positive: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the AUC of a classifier that sees only width, height and position of two kinds of boxes.

    Mean AUC over 5 folds of a logistic regression, quadratic in (center x, center y, log width, log
    height). Rows of one group (a question) share a fold; at most 4,000 groups, evenly spaced, are used.
    boxes: unit xyxy, shape (n, 4). None with fewer than 20 rows of either kind.
    """
    if min(positive.sum(), (~positive).sum()) < _LEAST_OF_A_CLASS:
        return None
    _, group = np.unique(groups, return_inverse=True)
    stride = -(-(group.max() + 1) // _MOST_GROUPS)
    kept = group % stride == 0
    features, label, fold = _shape_features(boxes[kept]), positive[kept], (group[kept] // stride) % _FOLDS
    aucs = []
    for held_out in range(_FOLDS):
        test = fold == held_out
        if label[~test].any() and not label[~test].all():
            weights = _logistic(features[~test], label[~test])
            # rounded, so that the last bits of a dot product order nothing
            aucs.append(auc(np.round(features[test] @ weights, 6), label[test]))
    known = [value for value in aucs if value is not None]
    return sum(known) / len(known) if known else None


def _shape_features(boxes: np.ndarray) -> np.ndarray:
    """Return for (n, 4) boxes (n, 15): a constant, 4 standardized coordinates, their 10 products."""
    low, high = boxes[:, :2], boxes[:, 2:]
    base = np.concatenate([(low + high) / 2, np.log(high - low)], axis=1)
    base = (base - base.mean(axis=0)) / np.maximum(base.std(axis=0), 1e-9)
    i, j = np.triu_indices(4)
    return np.concatenate([np.ones((len(base), 1)), base, base[:, i] * base[:, j]], axis=1)


def _logistic(features: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Fit a ridge logistic regression by Newton's method; the ridge bounds the weights of separable data."""
    weights = np.zeros(features.shape[1])
    ridge = _RIDGE * len(label) * np.eye(features.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (chance - label) + ridge @ weights
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return weights
