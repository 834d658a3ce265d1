"""Fill results/: every cell of every table, for every seed. Killed at any moment and started again, it goes on.

    python -m studies [--seeds 0,1,2] [--cells stages,rounds,...] [--work studies-work] [--jobs 2]

A cell that is done is one file, results/CELL-SEED.json: its figures, the commands that made them, the digests of
the runs and models behind them, and the seconds it took (commands that it shares with an earlier cell not counted
again). Delete the file to make the cell again. One seed of everything took 125 to 142 minutes where three shared two
busy cores; --jobs runs so many seeds side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studies.cells import CELLS
from studies.desk import Desk

RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cells", default=",".join(CELLS), help="which, in this order")
    parser.add_argument("--work", type=Path, default=Path("studies-work"), help="folder of runs and models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    given = parser.parse_args()
    names = given.cells.split(",")
    unknown = sorted(set(names) - set(CELLS))
    if unknown:
        parser.error(f"no cell {unknown[0]!r}; there are {', '.join(CELLS)}")

    def one(seed: int) -> None:
        desk = Desk((given.work / f"seed{seed}").resolve(), seed)
        for name in names:
            fill(desk, name, given.results)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(one, [int(seed) for seed in given.seeds.split(",")]))


def fill(desk: Desk, name: str, results: Path) -> None:
    """Make one cell, unless its file is there."""
    path = results / f"{name}-{desk.seed}.json"
    if path.exists():
        return
    desk.commands, begun = {}, time.monotonic()
    figures = CELLS[name](desk)
    cell = {
        "cell": name,
        "seed": desk.seed,
        "figures": figures,
        "commands": list(desk.commands.values()),
        "digests": desk.digests(),
        "seconds": round(time.monotonic() - begun),
    }
    results.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(cell, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(path)
    print(f"{path.name}: {cell['seconds']} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
