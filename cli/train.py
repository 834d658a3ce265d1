"""`visrl train sft | rl1 | rl2`: pairs (or labeled questions) and a model in, a better model out.

`visrl train *-answers` are the paper's baselines, which learn the answer alone. The commands are made from the table of
stages (visrl_train/stages.py).
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_train.stages import STAGES, StageSpec

from .console import hide_library_bars, say, with_verbosity
from .help import Command
from .interruption import interruptible
from .options import Json, Mix, parse_options, resolve_mix, with_options

_BASELINES = "Baselines that learn the answer alone (the paper's Table 5)"

app = typer.Typer(
    no_args_is_help=True,
    help="Train a model: the warm-up, then two stages on preference pairs.",
    epilog="\n\n".join(("Examples:", *(STAGES[name].examples[0] for name in ("sft", "rl1", "rl2")))),
)

ModelOutput = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the model (default: under models/).")
]
Preset = Annotated[
    str | None, typer.Option("--config", metavar="FILE.toml", help="Options from a file or a shipped preset.")
]


def _make_command(name: str, stage: StageSpec) -> Callable[..., None]:
    """Return the command of a stage, with an option for each field of its config."""

    def on_pairs(output: ModelOutput = None, config: Preset = None, as_json: Json = False, **options: Any) -> None:
        _train(name, output, config, as_json, options)

    def on_questions(
        output: ModelOutput = None, config: Preset = None, mix: Mix = None, as_json: Json = False, **options: Any
    ) -> None:
        _train(name, output, config, as_json, resolve_mix(options, mix, split="sft"))

    command = on_questions if hasattr(stage.config, "source") else on_pairs
    command.__doc__ = "\n\n".join([stage.summary, "Examples:", *(f"  {line}" for line in stage.examples)])
    return with_verbosity(with_options(stage.config)(command))


for _name, _stage in STAGES.items():
    _panel = _BASELINES if _stage.model_calls == 1 else None
    app.command(_name, cls=Command, rich_help_panel=_panel)(_make_command(_name, _stage))


def _train(name: str, output: Path | None, file: str | None, as_json: bool, options: dict[str, Any]) -> None:
    from visrl_train.launch import train
    from visrl_train.pairs import data_flags

    hide_library_bars()
    with interruptible(resumes=True):
        folder = train(name, output, file, **parse_options(options))
    if as_json:
        print(json.dumps({"model": str(folder), **json.loads((folder / "visrl.json").read_text(encoding="utf-8"))}))
        return
    print(folder)
    next_command = STAGES[name].next_command
    if next_command is not None:
        data = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8")).get("data")
        words = {"model": shlex.quote(str(folder)), "data": data_flags(data) if data else ""}
        say(f"Next: {next_command.format(**words)}")
