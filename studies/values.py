"""Read results/*.json, and show a value over its seeds: its mean, with half of the width of a 95 % t interval.

Used by tables.py, comparison.py and claims.py.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from studies.weights import shipped_weights

Seeds = dict[int, Any]
"""A cell's figures, by seed. Cells may have different seeds: each table says how many it is made of."""


def load(folder: Path) -> dict[str, Seeds]:
    """Read results/*.json as cell -> seed -> figures: the cells of the shipped weights."""
    cells: dict[str, Seeds] = defaultdict(dict)
    for cell in _read(folder):
        cells[cell["cell"]][cell["seed"]] = cell["figures"]
    return dict(cells)


def by_torch(folder: Path) -> dict[str, list[str]]:
    """Return the version of torch -> the cells made with it, as CELL-SEED; that of most cells comes first."""
    made: dict[str, list[str]] = defaultdict(list)
    for cell in _read(folder):
        made[cell["versions"]["torch"]].append(f"{cell['cell']}-{cell['seed']}")
    return dict(sorted(made.items(), key=lambda item: -len(item[1])))


def _read(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the cells of the shipped weights, in the order of their names."""
    weights = shipped_weights()
    for path in sorted(folder.glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["weights"] == weights:
            yield cell


def value_at(figures: Any, place: Sequence[str]) -> Any:
    """Return the value at a path: names of fields, and indices in a list."""
    for step in place:
        figures = figures[int(step) if isinstance(figures, list) else step]
    return figures


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and half of the 95 % t interval (None for a single value)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))


def show(seeds: Seeds, place: str, scale: float = 100.0, digits: int = 1) -> str:
    """Return mean ± half of the interval of a value over the seeds; "-" when one has none, as shares of no pairs."""
    values = [value_at(figures, place.split()) for figures in seeds.values()]
    return "-" if None in values else show_values([scale * value for value in values], digits)


def questions(seeds: Seeds) -> str:
    """Return the number of questions of a run, the same for all seeds."""
    return str(next(iter(seeds.values()))["questions"])


def percent(seeds: Seeds, place: str) -> str:
    """Return the mean of a share over the seeds, in whole percent."""
    mean, _ = mean_and_half([value_at(figures, place.split()) for figures in seeds.values()])
    return f"{100 * mean:.0f}"


def show_values(values: Sequence[float], digits: int = 1) -> str:
    """Return mean ± half of the interval of values, one of each seed."""
    mean, half = mean_and_half(values)
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def count(seeds: Seeds) -> str:
    """Return "1 seed", "2 seeds", and so on."""
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))
