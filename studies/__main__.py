"""Fill results/: every cell of every table, for every seed. Interrupted, the same command resumes.

    python -m studies [--seeds 0,1,2,3,4] [--cells stages,rounds,...] [--work studies-work] [--jobs 2]

A finished cell is one file, results/CELL-SEED.json: its figures, the commands that produced them, the digests of
the runs and models behind them, the versions of the libraries, and the seconds it took (commands shared with an earlier
cell count there). Delete the file to compute the cell again; a cell of other weights than the shipped ones is computed
again without that. The cell `grid` chooses hyperparameters with seed 0, for all seeds; the other cells named grid have
that seed alone too.
`--cells central` are those that the claims about the stages and the loss stand on: expect 50 minutes a seed on one
core, and 26 more for the grids; all cells, 6 to 7 hours a seed, most of it rounds by other schedules.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studies.cells import CELLS
from studies.weights import shipped_weights
from studies.workspace import RESULTS, Workspace
from visrl_data.core.versions import library_versions

CENTRAL = ("grid", "grid-both", "grid-win", "stages", "losses", "rl2-alone", "rounds")
"""Cells that need all five seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--cells", default=",".join(CELLS), help="cells, in this order; central: the main ones")
    parser.add_argument("--work", type=Path, default=Path("studies-work"), help="folder of runs and models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="seeds in parallel")
    args = parser.parse_args()
    names = list(CENTRAL) if args.cells == "central" else args.cells.split(",")
    unknown = sorted(set(names) - set(CELLS))
    if unknown:
        parser.error(f"no cell {unknown[0]!r}; there are {', '.join(CELLS)}")

    work = args.work / shipped_weights()["actor"][:8]  # what other weights made is never used again

    def fill_all(seed: int, names: list[str]) -> None:
        workspace = Workspace((work / f"seed{seed}").resolve(), seed, results=args.results)
        for name in names:
            fill(workspace, name, args.results)

    grids = [name for name in names if name.startswith("grid")]
    fill_all(0, grids)
    others = [name for name in names if name not in grids]

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: fill_all(int(seed), others), args.seeds.split(",")))


def fill(workspace: Workspace, name: str, results: Path) -> None:
    """Compute one cell, unless its file exists and is of the shipped weights."""
    path = results / f"{name}-{workspace.seed}.json"
    weights = shipped_weights()
    if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("weights") == weights:
        return
    workspace.commands, start = {}, time.monotonic()
    figures = CELLS[name](workspace)
    cell = {
        "cell": name,
        "seed": workspace.seed,
        "figures": figures,
        "commands": list(workspace.commands.values()),
        "digests": workspace.digests(),
        "weights": weights,
        "versions": library_versions(),
        "seconds": round(time.monotonic() - start),
    }
    results.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(cell, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"{path.name}: {cell['seconds']} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
