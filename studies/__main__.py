"""Fill results/: every cell of every table, for every seed. Interrupted, the same command resumes.

    python -m studies [--seeds 0,1,2] [--cells stages,rounds,...] [--work studies-work] [--jobs 2]

A finished cell is one file, results/CELL-SEED.json: its figures, the commands that produced them, the digests of
the runs and models behind them, and the seconds it took (commands shared with an earlier cell count there). Delete the
file to compute the cell again. One seed of everything took 125 to 142 minutes where three shared two busy cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studies.cells import CELLS
from studies.workspace import Workspace

RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cells", default=",".join(CELLS), help="cells, in this order")
    parser.add_argument("--work", type=Path, default=Path("studies-work"), help="folder of runs and models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="seeds in parallel")
    args = parser.parse_args()
    names = args.cells.split(",")
    unknown = sorted(set(names) - set(CELLS))
    if unknown:
        parser.error(f"no cell {unknown[0]!r}; there are {', '.join(CELLS)}")

    def fill_all(seed: int) -> None:
        workspace = Workspace((args.work / f"seed{seed}").resolve(), seed)
        for name in names:
            fill(workspace, name, args.results)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(fill_all, [int(seed) for seed in args.seeds.split(",")]))


def fill(workspace: Workspace, name: str, results: Path) -> None:
    """Compute one cell, unless its file exists."""
    path = results / f"{name}-{workspace.seed}.json"
    if path.exists():
        return
    workspace.commands, start = {}, time.monotonic()
    figures = CELLS[name](workspace)
    cell = {
        "cell": name,
        "seed": workspace.seed,
        "figures": figures,
        "commands": list(workspace.commands.values()),
        "digests": workspace.digests(),
        "seconds": round(time.monotonic() - start),
    }
    results.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(cell, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"{path.name}: {cell['seconds']} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
