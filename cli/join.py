"""`visrl join`: the shards of a job array become one finished run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from .console import print_table, say
from .gen import check_rows
from .options import Json


def join(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD...", help="Folders RUN/shard-I-of-N, all of them, in any order.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")],
    as_json: Json = False,
) -> None:
    """Finish a run from the shards that `visrl gen --shard` made. No model, no GPU.

    The result is what one process would have made. The shards are not changed, and not needed afterwards.

    Example:

      visrl join runs/photos/shard-*-of-8 -o runs/photos
    """
    from visrl_data.executors.shards import join
    from visrl_data.report.tables import render
    from visrl_data.runs.calibrations import attach_last

    run = join(shards, output)
    attach_last(run)
    report = run.report()
    if as_json:
        print(json.dumps({"run": str(run.path), **report}))
        check_rows(run)
        return
    print_table(render(report))
    check_rows(run)
    say(
        f"The run is in {run.path}; see {run.path}/report.html\n"
        f"The {len(shards)} shards are no longer needed. Next: visrl inspect {shlex.quote(str(run.path))}"
    )
