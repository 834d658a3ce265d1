"""`visrl evolve`: rounds of pairs, training and measuring, each model making the pairs of the next."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_data.config import GenConfig
from visrl_train.evolve_config import EvolveConfig

from .options import ConfigFile, Json, gen_config, takes_options


@takes_options(GenConfig, without=("round",))
@takes_options(EvolveConfig)
def evolve(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the rounds.")] = Path(
        "evolve"
    ),
    config: ConfigFile = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Let a model improve itself: it makes pairs, learns from them, and makes the pairs of the next round.

    The critic is the original model in every round. Each round is a run folder, DIR/round0, DIR/round1, ...:
    publish it with `visrl push DIR/round1 --tag v2.0`. Started again after an interruption it goes on; with more
    --rounds it goes on from the last one.

    Examples:

      visrl evolve --rounds 2 --limit 200

      visrl evolve --rounds 4 --stages rl1 --source train.jsonl --eval-source held-out.jsonl -o runs/evolve
    """
    own = {spec.name for spec in dataclasses.fields(EvolveConfig)}
    given = {name: value for name, value in options.items() if value is not None}
    rounds = EvolveConfig(**{name: value for name, value in given.items() if name in own})
    gen = gen_config(config, {name: value for name, value in given.items() if name not in own})
    _run(rounds, gen, output, as_json)


def _run(rounds: EvolveConfig, gen: GenConfig, output: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from transformers.utils import logging

    from visrl_train import evolve as evolving
    from visrl_train.evolve_curves import table
    from visrl_train.stage import Terminated

    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # what the libraries tell each other is not for the user
    stderr = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], total=total, completed=done)

        def say(line: str) -> None:
            bar.console.print(line)

        try:
            report = evolving.evolve(rounds, gen, output, say, progress)
        except KeyboardInterrupt:
            stderr.print(f"Interrupted. What is done is kept in {output}; run the same command again to go on.")
            sys.exit(130)
        except Terminated as stop:
            print(f"visrl: {stop}", file=sys.stderr)
            raise typer.Exit(143) from None
    if as_json:
        print(json.dumps({"evolve": str(output), **report}))
        return
    Console().print(table(report))
    stderr.print(f"Curves: {output}/curves.svg; predictions side by side: {output}/eval/report.html")
