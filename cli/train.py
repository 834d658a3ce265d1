"""`visrl train sft | rl1 | rl2`: pairs (or labelled questions) and a model in, a better model out.

`visrl train *-answers` are the paper's baselines, which learn the answer alone.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_train.config import (
    DpoAnswersConfig,
    KtoAnswersConfig,
    Rl1Config,
    Rl2Config,
    RlooAnswersConfig,
    SftAnswersConfig,
    SftConfig,
)

from .console import hush_libraries, say, takes_volume
from .options import Json, Mix, given_options, takes_options, with_mix

_BASELINES = "Baselines that learn the answer alone (the paper's Table 5)"

app = typer.Typer(no_args_is_help=True, help="Train a model: the warm-up, then two stages of preferences.")

ModelOutput = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the model (default: under models/).")
]
Preset = Annotated[
    str | None, typer.Option("--config", metavar="FILE.toml", help="Options from a file or a shipped preset.")
]


@app.command()
@takes_volume
@takes_options(SftConfig)
def sft(
    output: ModelOutput = None, config: Preset = None, mix: Mix = None, as_json: Json = False, **options: Any
) -> None:
    """Teach a model to answer the focus request with a box, from questions with labelled boxes.

    Examples:

      visrl train sft --source labelled.jsonl --model llava-hf/llava-1.5-7b-hf

      visrl train sft --config llava-1.5-7b --source labelled.jsonl -o models/llava-sft

      visrl train sft --config llava-1.5-7b --mix paper:metadata/ --images-root cot_images.tar
    """
    _train("sft", output, config, as_json, given_options(with_mix(options, mix, split="sft")))


@app.command()
@takes_volume
@takes_options(Rl1Config)
def rl1(output: ModelOutput = None, config: Preset = None, as_json: Json = False, **options: Any) -> None:
    """Train the focus box on preference pairs. With no option: the latest run, and the actor that made it.

    Examples:

      visrl train rl1

      visrl train rl1 --data runs/cars -o models/cars-rl1
    """
    _train("rl1", output, config, as_json, options)


@app.command()
@takes_volume
@takes_options(Rl2Config)
def rl2(output: ModelOutput = None, config: Preset = None, as_json: Json = False, **options: Any) -> None:
    """Train box and response together. With no option: the latest run, and the rl1 model made from it.

    Examples:

      visrl train rl2

      visrl train rl2 --data runs/cars --model models/cars-rl1 -o models/cars-rl2

      visrl train rl2 --without-rl1
    """
    _train("rl2", output, config, as_json, options)


@app.command(rich_help_panel=_BASELINES)
@takes_volume
@takes_options(SftAnswersConfig)
def sft_answers(output: ModelOutput = None, config: Preset = None, as_json: Json = False, **options: Any) -> None:
    """Answer-only SFT: the wins' responses from image and question alone; no crop, no box.

    Examples:

      visrl train sft-answers

      visrl train sft-answers --data runs/cars -o models/cars-sft-answers
    """
    _train("sft-answers", output, config, as_json, options)


@app.command(rich_help_panel=_BASELINES)
@takes_volume
@takes_options(DpoAnswersConfig)
def dpo_answers(output: ModelOutput = None, config: Preset = None, as_json: Json = False, **options: Any) -> None:
    """Answer-only DPO: the win's response against the lose's; no crop, no box.

    Examples:

      visrl train dpo-answers

      visrl train dpo-answers --data runs/cars -o models/cars-dpo-answers
    """
    _train("dpo-answers", output, config, as_json, options)


@app.command(rich_help_panel=_BASELINES)
@takes_volume
@takes_options(KtoAnswersConfig)
def kto_answers(output: ModelOutput = None, config: Preset = None, as_json: Json = False, **options: Any) -> None:
    """Answer-only KTO: each response on its own, wanted or not; no crop, no box.

    Examples:

      visrl train kto-answers

      visrl train kto-answers --data runs/cars -o models/cars-kto-answers
    """
    _train("kto-answers", output, config, as_json, options)


@app.command(rich_help_panel=_BASELINES)
@takes_volume
@takes_options(RlooAnswersConfig)
def rloo_answers(output: ModelOutput = None, config: Preset = None, as_json: Json = False, **options: Any) -> None:
    """Answer-only online RL: replies that the model samples, judged by a reward model of half of the pairs.

    Examples:

      visrl train rloo-answers

      visrl train rloo-answers --reward exact -o models/cars-rloo-exact
    """
    _train("rloo-answers", output, config, as_json, options)


def _train(name: str, output: Path | None, file: str | None, as_json: bool, options: dict[str, Any]) -> None:
    from visrl_train.launch import train

    hush_libraries()
    folder = train(name, output, file, **{key: value for key, value in options.items() if value is not None})
    if as_json:
        print(json.dumps({"model": str(folder), **json.loads((folder / "visrl.json").read_text(encoding="utf-8"))}))
        return
    print(folder)
    if name in _NEXT:
        learnt_from = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8")).get("data")
        say(f"Next: {_NEXT[name].format(model=folder, data=learnt_from)}")


_NEXT = {
    "sft": "visrl gen --model {model}",
    "rl1": "visrl train rl2 --data {data} --model {model}",
    "rl2": "visrl eval --model {model}; or the next round: visrl gen --model {model} --round 1",
}
