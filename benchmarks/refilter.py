"""Measure `visrl filter` on a million candidates; aim: 5 s and 1 GB.

    python -m benchmarks.refilter [--candidates 1000000]

A run on scripted replies is made once and its rows repeated under new ids, so that texts, ties and gold boxes are
those of a run; then the command filters the pool under new thresholds, timed from its start to its end. Making the
pool takes longer than filtering it: a minute or two.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.process import alone
from tests.conftest import scripted_reply
from visrl_data.core.config import GenConfig, to_toml
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors import generation
from visrl_data.pipeline import finalize
from visrl_data.runs import run_folder

QUESTIONS = 500  # of the run that is repeated
IDS = {"questions": "id", "candidates": "question_id", "drops": "id", "images": None}


def build(folder: Path, candidates: int) -> run_folder.Run:
    """Return a finished run of at least so many candidates."""
    engine = ScriptedEngine(scripted_reply)
    config = GenConfig(source="spotlight", limit=QUESTIONS, chunk_size=100)
    small = generation.generate(config, folder / "small", roles=(Role(engine, True), Role(engine, False)))
    tables = {name: small.table(name) for name in run_folder.TABLES}
    copies = -(-candidates // tables["candidates"].num_rows)
    config = dataclasses.replace(config, limit=QUESTIONS * copies, chunk_size=QUESTIONS)
    identity = small.identity()
    identity["source"]["rows"] = QUESTIONS * copies
    with run_folder.open_run(folder / "pool", to_toml(config), identity) as run:
        for i in range(copies):
            run_folder.write_chunk(run, i, {name: _copy(table, IDS[name], i) for name, table in tables.items()})
        finalize.finish(run, config, [run.chunk_path(i) for i in range(copies)])
    return run


def _copy(table: pa.Table, key: str | None, number: int) -> pa.Table:
    if key is None:
        return table
    ids = pc.binary_join_element_wise(f"{number}", table[key].cast(pa.string()), "-")
    return table.set_column(table.schema.get_field_index(key), key, ids)


@dataclass(frozen=True, slots=True)
class FilterTiming:
    """The output of the command, its seconds (wall clock and CPU) and its peak memory."""

    output: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


def refilter(path: Path) -> FilterTiming:
    """Run `visrl filter` with other thresholds and time the whole command."""
    command = [sys.executable, "-m", "visrl_cli", "filter", str(path), "--box-win", "0.7", "--response-lose", "0.1"]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        log.seek(0)
        output = log.read()
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return FilterTiming(output, time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run = alone(build, Path(work), args.candidates)  # a large parent would count as its child's peak
        timing = refilter(run.path)
        print(timing.output)
        print(f"{run.rows('candidates'):,} candidates of {run.rows('questions'):,} questions: {timing.seconds:.1f} s "
              f"({timing.cpu_seconds:.1f} s of the processor), peak {timing.peak_mib:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
