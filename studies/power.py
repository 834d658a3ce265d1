"""Print how many questions and seeds each claim needs: python -m studies.power [--results results]

Variance is that of the cells at hand: over questions (the paired bootstrap interval, whose width falls with the root
of the questions) and between seeds (the t interval). A claim is confirmed when both intervals lie above 0; each column
gives the least that does so in 80 % of the studies if the true difference is the one seen. The last column is the
smallest difference, in points, that the questions of the cells show with that power over questions and with five
seeds. The spread of three seeds is itself known only within a factor of about three: read the seeds as an order of
magnitude.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from scipy import stats

from studies.claims import CLAIMS, LOSS_CLAIMS, PAPER_CLAIMS
from studies.comparison import Comparison, compare
from studies.values import Seeds, load, table
from studies.workspace import RESULTS

POWER = 0.8
SEEDS = 5
MOST_SEEDS, MOST_QUESTIONS = 50, 100_000
NEEDED = float(stats.norm.ppf(0.975) + stats.norm.ppf(POWER))
"""Standard errors that a difference must have."""


def questions_needed(difference: float, interval: tuple[float, float], questions: int) -> float:
    """Return the questions for the power, from the 95 % interval over so many."""
    if difference == 0:
        return math.inf
    return questions * (NEEDED * _standard_error(interval) / difference) ** 2


def seeds_needed(difference: float, spread: float) -> int | None:
    """Return the seeds for the power, from the standard deviation between seeds; None for more than MOST_SEEDS."""
    return next((n for n in range(2, MOST_SEEDS + 1) if seeds_power(abs(difference), spread, n) >= POWER), None)


def seeds_power(difference: float, spread: float, seeds: int) -> float:
    """Return the chance that the t interval over so many seeds lies above 0."""
    if spread == 0:
        return float(difference > 0)
    bound = stats.t.ppf(0.975, seeds - 1)
    return float(stats.nct.sf(bound, seeds - 1, difference * math.sqrt(seeds) / spread))


def spread_of(half: float, seeds: int) -> float:
    """Return the standard deviation between seeds, from half of the t interval."""
    return half * math.sqrt(seeds) / float(stats.t.ppf(0.975, seeds - 1))


def smallest(found: Comparison, planned: int) -> float:
    """Return the smallest difference that the planned questions and SEEDS seeds show with the power."""
    over_questions = NEEDED * _standard_error(found.over_questions) * math.sqrt(found.questions / planned)
    if found.half is None:
        return over_questions
    spread = spread_of(found.half, found.seeds)
    steps = (spread * k / 50 for k in range(1, 500))
    return max(over_questions, next((step for step in steps if seeds_power(step, spread, SEEDS) >= POWER), 0.0))


def _standard_error(interval: tuple[float, float]) -> float:
    low, high = interval
    return (high - low) / (2 * float(stats.norm.ppf(0.975)))


def row(cells: dict[str, Seeds], text: str, above: str, below: str, figure: str) -> tuple[str, ...]:
    """Return the row of a claim, empty when its cells are not there."""
    found = compare(cells, above, below, figure)
    if found is None:
        return ()
    questions = questions_needed(found.mean, found.over_questions, found.questions)
    seeds = None if found.half is None else seeds_needed(found.mean, spread_of(found.half, found.seeds))
    return (
        text,
        f"{found.mean:+.1f}",
        f"{found.questions} x {found.seeds}",
        f"{math.ceil(questions):,}" if questions <= MOST_QUESTIONS else f"> {MOST_QUESTIONS:,}",
        "" if found.half is None else str(seeds or f"> {MOST_SEEDS}"),
        "" if figure == "pairs" else f"{smallest(found, found.questions):.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    cells = load(parser.parse_args().results)
    head = ("claim", "difference", "questions x seeds", "questions needed", "seeds needed", "smallest shown")
    rows = [row(cells, *claim) for claim in (*CLAIMS, *PAPER_CLAIMS, *LOSS_CLAIMS)]
    print(table(head, [line for line in rows if line]))


if __name__ == "__main__":
    main()
