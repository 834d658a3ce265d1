"""Measure what adaptive attempts are worth: pairs for 1,000 calls and for a second, with the audit beside them.

    python -m benchmarks.attempts [--questions 200] [--seeds 0,1,2] [--json FILE]      about a minute a run

`visrl gen` on Spotlight under each plan of PLANS, once a seed. Seconds are the processor's, in the stages that call
the model, on one thread; the plans of a seed take turns, so that other work on the machine disturbs them alike.
WP-LN is of all audited pairs of the seeds together, with Wilson's interval.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.process import alone
from visrl_data.core.config import GenConfig

PLANS: dict[str, dict[str, Any]] = {
    "N = 3 (the paper)": {},
    "N = 6": {"attempts": 6},
    "`--max-attempts 6`": {"max_attempts": 6},
    "`--max-attempts 12`": {"max_attempts": 12},
    "`--stop-early`": {"stop_early": True},
    "`--stop-early --max-attempts 6`": {"stop_early": True, "max_attempts": 6},
    "`--stop-early --max-attempts 12`": {"stop_early": True, "max_attempts": 12},
}


@dataclass(frozen=True, slots=True)
class PlanCell:
    """A run. on_label: its audited pairs whose win looks at the right place and whose lose does not."""

    plan: str
    seed: int
    questions: int
    calls: int
    seconds: float
    pairs: int
    audited: int
    on_label: int


def measure(plan: str, seed: int, questions: int) -> PlanCell:
    """Make one run in this process."""
    from visrl_data.executors import generation
    from visrl_data.runs import run_folder

    torch.set_num_threads(1)
    config = GenConfig(limit=questions, seed=seed, **PLANS[plan])
    with tempfile.TemporaryDirectory() as scratch:
        started = time.process_time()
        run = generation.generate(config, Path(scratch) / "run")
        seconds = time.process_time() - started
        report = run.report()
        audit = report["audit"]["pairs"] or {"audited": 0, "cells": {"WP-LN": {"count": 0}}}
        return PlanCell(
            plan, seed, questions, sum(record["calls"] for record in run_folder.times(run)), seconds,
            report["yields"]["all"]["pairs"], audit["audited"], audit["cells"]["WP-LN"]["count"],
        )  # fmt: skip


def table(cells: list[PlanCell]) -> str:
    """Return the Markdown table, a row a plan, over all seeds."""
    from visrl_data.report.measures import wilson

    lines = [
        "| plan | calls a question | pairs a question | pairs for 1,000 calls | pairs a second | WP-LN, 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for plan in PLANS:
        rows = [cell for cell in cells if cell.plan == plan]
        questions, calls, pairs, audited, on_label = (
            sum(getattr(cell, name) for cell in rows) for name in ("questions", "calls", "pairs", "audited", "on_label")
        )
        interval = wilson(on_label, audited)
        share = "-"
        if interval:
            share = f"{100 * on_label / audited:.1f} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
        seconds = sum(cell.seconds for cell in rows)
        lines.append(
            f"| {plan} | {calls / questions:.1f} | {pairs / questions:.2f} | {1000 * pairs / calls:.1f} "
            f"| {pairs / seconds:.2f} | {share} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", type=Path, help="also write the figures of every run")
    arguments = parser.parse_args()
    cells = []
    for seed in map(int, arguments.seeds.split(",")):
        for plan in PLANS:
            cells.append(alone(measure, plan, seed, arguments.questions))
            if arguments.json:
                arguments.json.write_text(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1) + "\n")
    print(table(cells))


if __name__ == "__main__":
    main()
