"""`visrl evolve`: rounds of pairs, training and measuring, each model making the pairs of the next."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_data.core.config import GenConfig
from visrl_train.evolve_config import EvolveConfig

from .console import Bars, Interrupted, hush_libraries, say
from .gen import fetch_needed
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

    from visrl_train import evolve as evolving
    from visrl_train.evolve_curves import table

    hush_libraries()
    evolving.check(rounds, gen)
    fetch_needed(gen)
    with Bars() as bars:
        try:
            report = evolving.evolve(rounds, gen, output, bars.say, bars.update)
        except KeyboardInterrupt:
            raise Interrupted(
                f"Interrupted. What is done is kept in {output}; run the same command again to go on."
            ) from None
    if as_json:
        print(json.dumps({"evolve": str(output), **report}))
        return
    Console().print(table(report))
    say(f"Curves: {output}/curves.svg; predictions side by side: {output}/eval/report.html")
