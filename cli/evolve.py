"""`visrl evolve`: rounds of pairs, training and measuring, each model making the pairs of the next."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_data.core.config import GenConfig
from visrl_train.evolve_config import EvolveConfig

from .console import ProgressBars, hide_library_bars, print_table, say
from .gen import fetch_needed
from .interruption import interruptible
from .options import ConfigFile, Json, make_gen_config, with_options
from .spotlight_note import warn_of_spotlight


@with_options(GenConfig, without=("round",))
@with_options(EvolveConfig)
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
    publish it with `visrl push DIR/round1 --tag v2.0`. The same command resumes after an interruption; with more
    --rounds it continues from the last one.

    Examples:

      visrl evolve --rounds 2 --limit 200

      visrl evolve --rounds 4 --limit 400 --train-config spotlight-rounds

      visrl evolve --rounds 4 --stages rl1 --source train.jsonl --eval-source held-out.jsonl -o runs/evolve

      visrl evolve --engine vllm --model models/sft --source train.jsonl --eval-source held-out.jsonl -o runs/evolve
    """
    own = {spec.name for spec in dataclasses.fields(EvolveConfig)}
    values = {name: value for name, value in options.items() if value is not None}
    rounds = EvolveConfig(**{name: value for name, value in values.items() if name in own})
    gen = make_gen_config(config, {name: value for name, value in values.items() if name not in own})
    _run(rounds, gen, output, as_json)


def _run(rounds: EvolveConfig, gen: GenConfig, output: Path, as_json: bool) -> None:
    from visrl_train import evolve as evolving
    from visrl_train.evolve_curves import format_warning, table

    hide_library_bars()
    evolving.check(rounds, gen)
    say(f"Writing the rounds to {output}. Reading questions and loading models")
    warn_of_spotlight([gen.model], [gen.source, rounds.eval_source or gen.source])
    fetch_needed(gen)
    with ProgressBars() as bars, interruptible(output):
        report = evolving.evolve(rounds, gen, output, bars.say, bars.update)
    if as_json:
        print(json.dumps({"evolve": str(output), **report}))
        return
    print_table(table(report))
    if warning := format_warning(report):
        say(warning)
    say(f"Curves: {output}/curves.svg; predictions side by side: {output}/eval/report.html")
