"""Compute the figures of a calibration from its verdicts: no model, no image.

Cases of one question are not independent, so every interval counts questions: a share over several cases of 64
questions has the interval of 64 observations, which is on the safe side. A verdict that can't be read is neither a win
nor a lose; it counts among the unparsed and in no score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from visrl_data.calibration.calibration_report import (
    Agreement,
    BestThresholds,
    CriticFigures,
    KindFigures,
    Separation,
    Share,
    Shift,
)
from visrl_data.calibration.cases import KINDS
from visrl_data.calibration.findings import find_warnings
from visrl_data.calibration.verdicts import CaseVerdict
from visrl_data.core.seeds import keyed_seed
from visrl_data.report.intervals import difference_interval, resampled_means
from visrl_data.report.measures import auc, auc_interval, wilson

LEAST_GAIN = 0.5
"""A threshold separates when at least this share more of the right cases pass it than of the wrong ones: our choice."""
_RESAMPLES = 2_000
_GRID = 101  # thresholds that are tried: 0, 0.01, ..., 1
_DECIMALS = 9  # scores and thresholds meet as decimals: 0.1 * 3 and 0.3 are the same score


def measure_critic(critic: str, verdicts: Sequence[CaseVerdict], thresholds: tuple[float, float]) -> CriticFigures:
    """Return all figures of one critic. verdicts: of all critics; thresholds: (win, lose)."""
    own = [verdict for verdict in verdicts if verdict.critic == critic]
    first = [verdict for verdict in own if not verdict.variant]
    plain = [verdict for verdict in first if not KINDS[verdict.kind].base]
    right, wrong = (_of_verdict(plain, verdict) for verdict in ("right", "wrong"))
    win, lose = thresholds
    figures: CriticFigures = {
        "cases": len(own),
        "thresholds": thresholds,
        "unparsed": _share(own, [v for v in own if v.score is None]),
        "unparsed_reasons": dict(sorted(Counter(v.state.partition(":")[2] for v in own if v.score is None).items())),
        "separation": _separation(right, wrong),
        "whole_image": _separation([v for v in plain if v.kind == "whole"], wrong),
        "false_wins": _share_of_read(wrong, [v for v in wrong if side_of(v, thresholds) == "win"]),
        "false_loses": _share_of_read(right, [v for v in right if side_of(v, thresholds) == "lose"]),
        "kinds": [_kind(kind, first, thresholds) for kind in _kinds(first)],
        "shifts": [_shift(kind, first, thresholds) for kind in _kinds(first) if KINDS[kind].base],
        "wording": _agreement(own, "wording", thresholds),
        "repeat": _agreement(own, "repeat", thresholds) if any(v.variant == "repeat" for v in own) else None,
        "best": best_thresholds(_scores(right), _scores(wrong), win, lose),
        "warnings": [],
    }
    figures["warnings"] = find_warnings(critic, figures, sorted({v.score for v in own if v.score is not None}))
    return figures


def _of_verdict(verdicts: Iterable[CaseVerdict], verdict: str) -> list[CaseVerdict]:
    return [one for one in verdicts if KINDS[one.kind].verdict == verdict]


def _kinds(verdicts: Sequence[CaseVerdict]) -> list[str]:
    there = {verdict.kind for verdict in verdicts}
    return [kind for kind in KINDS if kind in there]


def _scores(verdicts: Iterable[CaseVerdict]) -> np.ndarray:
    return np.array([round(v.score, _DECIMALS) for v in verdicts if v.score is not None])


def side_of(verdict: CaseVerdict, thresholds: tuple[float, float]) -> str:
    """Return win, lose, neither or unparsed: for the table and for the page."""
    if verdict.score is None:
        return "unparsed"
    score, (win, lose) = round(verdict.score, _DECIMALS), thresholds
    return "win" if score >= win else "lose" if score <= lose else "neither"


def _questions(verdicts: Iterable[CaseVerdict]) -> int:
    return len({verdict.row for verdict in verdicts})


def _share(of: Sequence[CaseVerdict], some: Sequence[CaseVerdict]) -> Share:
    questions = _questions(of)
    share = len(some) / len(of) if of else None
    low, high = (share is not None and wilson(share * questions, questions)) or (None, None)
    return {
        "count": len(some), "of": len(of), "questions": questions, "share": share, "low": low, "high": high,
    }  # fmt: skip


def _share_of_read(of: Sequence[CaseVerdict], some: Sequence[CaseVerdict]) -> Share:
    return _share([verdict for verdict in of if verdict.score is not None], some)


def _separation(right: Sequence[CaseVerdict], wrong: Sequence[CaseVerdict]) -> Separation | None:
    read = [[v for v in side if v.score is not None] for side in (right, wrong)]
    scores = np.concatenate([_scores(read[0]), _scores(read[1])])
    value = auc(scores, np.arange(scores.size) < len(read[0]))
    if value is None:
        return None
    low, high = auc_interval(value, _questions(read[0]), _questions(read[1]))
    return {"auc": value, "low": low, "high": high, "right": len(read[0]), "wrong": len(read[1])}


def _kind(kind: str, verdicts: Sequence[CaseVerdict], thresholds: tuple[float, float]) -> KindFigures:
    own = [verdict for verdict in verdicts if verdict.kind == kind]
    read = [verdict for verdict in own if verdict.score is not None]
    sides = Counter(side_of(verdict, thresholds) for verdict in read)
    return {
        "kind": kind,
        "label": KINDS[kind].label,
        "verdict": KINDS[kind].verdict,
        "cases": len(own),
        "unparsed": len(own) - len(read),
        "mean": float(_scores(read).mean()) if read else None,
        "wins": sides["win"] / len(read) if read else None,
        "loses": sides["lose"] / len(read) if read else None,
    }


def _shift(kind: str, verdicts: Sequence[CaseVerdict], thresholds: tuple[float, float]) -> Shift:
    """Compare the scores with the text and without it, question by question."""
    before = {v.row: v for v in verdicts if v.kind == KINDS[kind].base}
    both = [(before[v.row], v) for v in verdicts if v.kind == kind and v.row in before]
    read = [(a, b) for a, b in both if a.score is not None and b.score is not None]
    shift = low = high = None
    if read:
        scores = np.array([[a.score for a, _ in read], [b.score for _, b in read]], float)
        draws = resampled_means(scores, _RESAMPLES, keyed_seed("calibrate", kind))
        low, high = difference_interval(scores[0], scores[1], (draws[:, 0], draws[:, 1]))
        shift = float((scores[1] - scores[0]).mean())
    changed = [side_of(b, thresholds) for a, b in both if side_of(a, thresholds) != side_of(b, thresholds)]
    return {
        "kind": kind,
        "label": KINDS[kind].label,
        "verdict": KINDS[kind].verdict,
        "cases": len(read),
        "shift": shift,
        "low": low,
        "high": high,
        "to_win": changed.count("win"),
        "to_lose": changed.count("lose"),
    }


def _agreement(verdicts: Sequence[CaseVerdict], variant: str, thresholds: tuple[float, float]) -> Agreement:
    """Compare the cases of a variant with the same ones as they were asked first."""
    again = {(v.row, v.kind): v for v in verdicts if v.variant == variant}
    both = [(v, again[v.row, v.kind]) for v in verdicts if not v.variant and (v.row, v.kind) in again]
    moves = [abs(a.score - b.score) for a, b in both if a.score is not None and b.score is not None]
    changed = [a for a, b in both if side_of(a, thresholds) != side_of(b, thresholds)]
    return {
        "changed": _share([a for a, _ in both], changed),
        "mean_difference": sum(moves) / len(moves) if moves else None,
    }


def best_thresholds(right: np.ndarray, wrong: np.ndarray, win: float, lose: float) -> BestThresholds | None:
    """Return the pair of thresholds, win above lose, with the largest sum of gains; of equal ones the nearest to now.

    right, wrong: the scores of the certain cases. win, lose: the thresholds of now. None without both kinds.
    """
    if not right.size or not wrong.size:
        return None
    grid = np.unique(np.round([*np.linspace(0, 1, _GRID), win, lose], _DECIMALS))
    win_gain = _pass(right, grid) - _pass(wrong, grid)
    lose_gain = _pass(-wrong, -grid) - _pass(-right, -grid)
    total = np.where(grid[:, None] > grid[None, :], win_gain[:, None] + lose_gain[None, :], -np.inf)
    distance = np.abs(grid - win)[:, None] + np.abs(grid - lose)[None, :]
    best = np.lexsort((distance.ravel(), -np.round(total, _DECIMALS).ravel()))[0]
    i, j = divmod(int(best), grid.size)
    now = np.searchsorted(grid, np.round([win, lose], _DECIMALS))
    return {
        "win": float(grid[i]),
        "lose": float(grid[j]),
        "win_gain": float(win_gain[i]),
        "lose_gain": float(lose_gain[j]),
        "current_win_gain": float(win_gain[now[0]]),
        "current_lose_gain": float(lose_gain[now[1]]),
        "separates": bool(min(win_gain[i], lose_gain[j]) >= LEAST_GAIN),
    }


def _pass(scores: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the share of the scores that are at least each threshold."""
    passing: np.ndarray = (scores[:, None] >= grid[None, :]).mean(axis=0)
    return passing
