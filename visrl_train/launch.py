"""How a stage is started: its options, from a file, a preset and flags; its recipe; its command in each process."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from visrl_data.models.model_folder import find_model
from visrl_train.config import STAGES, TrainConfig, load_train_config, preset_for
from visrl_train.pairs import read_pairs

# Where a stage's recipe is, when the module is not named like it.
_RECIPES = {
    "sft-answers": "answer_baselines",
    "dpo-answers": "answer_baselines",
    "kto-answers": "answer_baselines",
    "rloo-answers": "rloo",
}


def train(stage: str, output: Path | None = None, config: str | None = None, **options: Any) -> Path:
    """Train a stage as `visrl train STAGE` does; returns the model's folder.

    stage: sft, rl1, rl2, or a baseline such as dpo-answers. config: a TOML file or a preset; options: those of the
    stage (config.py), which win over it. Raises VisRLError; what was done until then goes on at the next call.
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    resolved = resolve(stage, config, given)
    folder: Path = importlib.import_module(f"visrl_train.{_RECIPES.get(stage, stage)}").train(resolved, output)
    return folder


def resolve(stage: str, file: str | None, given: dict[str, Any]) -> TrainConfig:
    """The resolved options of a stage. Without a file, a shipped preset made for the original model is taken."""
    if file is None:
        file = preset_for(_origin(stage, given) or "")
        if file is not None:
            print(f"Options of the preset {file}; --config chooses others.", file=sys.stderr)
    return load_train_config(stage, file, given)


def _origin(stage: str, given: dict[str, Any]) -> str | None:
    """The original model that the stage's chain began with."""
    model = given.get("model") or (STAGES["sft"]().model if stage == "sft" else None)
    return read_pairs(given.get("data")).origin if model is None else find_model(model).origin_base


def main(stage: str) -> None:
    """`accelerate launch -m visrl_train.rl1 ...`: the same as `visrl train rl1 ...`, in each process."""
    sys.argv = ["visrl", "train", stage, *sys.argv[1:]]
    runpy.run_module("visrl_cli", run_name="__main__")
