"""Say what is wrong with a critic, from its figures: one sentence for each finding, with what helps.

A share is called too large when the whole of its interval is above the limit, so that a few questions raise no alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from visrl_data.calibration.calibration_report import BestThresholds, CriticFigures, Share, Shift
from visrl_data.report.formats import format_share

MOST_FALSE = 0.1  # of the wrong cases that win, of the right cases that lose
MOST_UNPARSED = 0.05
MOST_CHANGED = 0.2  # of the cases that change sides when they are asked again
MOST_PERSUADED = 0.1  # of the cases that a text behind the response brings to the other side

LEAST_IMPROVEMENT = 0.1  # in the two gains together, from which other thresholds are worth a word


def find_warnings(critic: str, figures: CriticFigures, scores: Sequence[float]) -> list[str]:
    """Return the warnings about one critic. scores: the distinct ones that it gave, ascending."""
    if not scores:
        return [
            "None of its verdicts could be read. Change the prompt (--prompts), or take expected scores "
            "(--score-mode expected)."
        ]
    return [
        *_constant(scores),
        *_unparsed(figures),
        *_separation(figures),
        *_false(critic, figures),
        *_thresholds(critic, figures),
        *(line for shift in figures["shifts"] for line in _persuaded(shift)),
        *_inconsistent(figures),
    ]


def _constant(scores: Sequence[float]) -> Iterator[str]:
    if len(scores) == 1:
        yield f"It gave {scores[0]:g} to every case, right or wrong: its score says nothing."


def _unparsed(figures: CriticFigures) -> Iterator[str]:
    if _exceeds(figures["unparsed"], MOST_UNPARSED):
        reasons = ", ".join(f"{reason} {n}" for reason, n in figures["unparsed_reasons"].items())
        yield (
            f"{format_share(figures['unparsed']['share'])} of its verdicts could not be read ({reasons}). Change the "
            "prompt (--prompts), or take expected scores (--score-mode expected)."
        )


def _separation(figures: CriticFigures) -> Iterator[str]:
    separation = figures["separation"]
    if separation is not None and separation["low"] <= 0.5:
        yield f"It does not tell right from wrong: AUC {separation['auc']:.3f}, where 0.5 is chance."


def _false(critic: str, figures: CriticFigures) -> Iterator[str]:
    win, lose = figures["thresholds"]
    if _exceeds(figures["false_wins"], MOST_FALSE):
        yield (
            f"{format_share(figures['false_wins']['share'])} of the cases that are wrong for certain score at least "
            f"{win:g} (--{critic}-win): such candidates win."
        )
    if _exceeds(figures["false_loses"], MOST_FALSE):
        yield (
            f"{format_share(figures['false_loses']['share'])} of the cases that are right for certain score at most "
            f"{lose:g} (--{critic}-lose): such candidates lose."
        )


def _thresholds(critic: str, figures: CriticFigures) -> Iterator[str]:
    best = figures["best"]
    if best is None:
        return
    if not best["separates"]:
        gains = [format_share(best["win_gain"]), format_share(best["lose_gain"])]
        yield (
            f"No threshold separates right from wrong: the best gain {gains[0]} for a win and {gains[1]} for a lose, "
            "where 0 % can't tell and 100 % never errs."
        )
    elif _improvement(best) >= LEAST_IMPROVEMENT:
        yield f"Other thresholds separate better: --{critic}-win {best['win']:g} --{critic}-lose {best['lose']:g}."


def _improvement(best: BestThresholds) -> float:
    return best["win_gain"] + best["lose_gain"] - best["current_win_gain"] - best["current_lose_gain"]


def _persuaded(shift: Shift) -> Iterator[str]:
    is_wrong = shift["verdict"] == "wrong"
    moved, side = (shift["to_win"], "win") if is_wrong else (shift["to_lose"], "lose")
    push = shift["low"] if is_wrong else shift["high"]  # a critic that errs at random moves both ways
    is_pushed = push is not None and (push > 0 if is_wrong else push < 0)
    if is_pushed and moved > MOST_PERSUADED * shift["cases"]:
        yield (
            f'A text can move its verdict: "{shift["label"]}" made {moved} of {shift["cases"]} verdicts a {side} that '
            "were none without it."
        )


def _inconsistent(figures: CriticFigures) -> Iterator[str]:
    names = {"wording": "asked in other words", "repeat": "asked again as they were"}
    for name, how in names.items():
        agreement = figures["wording"] if name == "wording" else figures["repeat"]
        if agreement is not None and _exceeds(agreement["changed"], MOST_CHANGED):
            yield f"{format_share(agreement['changed']['share'])} of its verdicts change sides when {how}."


def _exceeds(share: Share, limit: float) -> bool:
    return share["low"] is not None and share["low"] > limit
