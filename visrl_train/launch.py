"""How a stage is started: its options, from a file, a preset and flags; its recipe; its command in each process.

A TOML file may serve all stages: what stands at its top counts for each, a table such as [rl1] or [dpo-answers] for
one. The shipped presets/ are such files.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from visrl_data.core.config import check_trust, make_config, read_options
from visrl_data.core.errors import UsageError
from visrl_data.models.model_folder import find_model
from visrl_train.config import TrainConfig
from visrl_train.pairs import read_pairs
from visrl_train.stages import STAGES

PRESETS = Path(__file__).parent / "presets"


def train(stage: str, output: Path | None = None, config: str | None = None, **options: Any) -> Path:
    """Train a stage as `visrl train STAGE` does; return the model's folder.

    stage: sft, rl1, rl2, or a baseline such as dpo-answers. config: a TOML file or a preset; options: those of the
    stage (config.py), which win over it. Raises VisRLError; the next call resumes from the last checkpoint.
    """
    flags = {name: _as_text(value) for name, value in options.items()}
    recipe = importlib.import_module(f"visrl_train.{STAGES[stage].recipe}")
    folder: Path = recipe.train(resolve(stage, config, flags), output)
    return folder


def _as_text(value: Any) -> Any:
    """Return paths as the texts that options hold."""
    if isinstance(value, (list, tuple)):
        return [_as_text(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def resolve(stage: str, file: str | None, flags: dict[str, Any]) -> TrainConfig:
    """Return the resolved options of a stage. Without a file, use the shipped preset of the original model."""
    if file is None:
        file = preset_for(_origin(stage, flags) or "")
        if file is not None:
            print(f"Options of the preset {file}; --config chooses others.", file=sys.stderr)
    return load_train_config(stage, file, flags)


def load_train_config(stage: str, file: str | None, flags: dict[str, Any]) -> TrainConfig:
    """Return the resolved options of a stage: its defaults, overridden by the file's, then by the flags.

    file: a TOML file, or the name of a shipped preset. Raises UsageError.
    """
    values = read_options(None if file is None else _find_file(file))
    tables = {name: values.pop(name) for name in STAGES if name in values}
    own = tables.get(stage, {})
    if not isinstance(own, dict):
        raise UsageError(f"--config {file}: {stage} = {own!r}: expected a table [{stage}].")
    source = f"--config {file}"
    check_trust(values | own, flags, source)
    return make_config(STAGES[stage].config, values | own, flags, where=source, command=f"visrl train {stage}")


def preset_for(origin: str) -> str | None:
    """Return the shipped preset whose chain starts from this original model; None where there is none."""
    name = origin.partition("@")[0]
    for path in sorted(PRESETS.glob("*.toml")):
        if read_options(path).get("sft", {}).get("model", "").partition("@")[0] == name:
            return path.stem
    return None


def _find_file(file: str) -> Path:
    for path in (Path(file), PRESETS / f"{file}.toml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
    raise UsageError(f"--config {file}: no such file, and no preset of that name. Presets: {names}.")


def _origin(stage: str, flags: dict[str, Any]) -> str | None:
    """Return the id of the original model that the stage's chain began with."""
    model = flags.get("model") or (STAGES["sft"].config().model if stage == "sft" else None)
    if model is None:
        return read_pairs(flags.get("data")).origin
    return find_model(model, flags.get("trust_remote_code", False)).origin_base


def main(stage: str) -> None:
    """Run `visrl train STAGE` in each process of `accelerate launch -m visrl_train.rl1 ...`."""
    sys.argv = ["visrl", "train", stage, *sys.argv[1:]]
    runpy.run_module("visrl_cli", run_name="__main__")
