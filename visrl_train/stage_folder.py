"""The folder of a training stage: locked while it trains, resumed after an interruption, published by renames.

    work/begun.json      the options that the stage was started with; other options are refused
    work/rows.sha256     of what it trains on
    work/checkpoints/    weights, optimizer, schedule and random state every --save-steps steps
    metrics.jsonl        a line of metrics every --log-steps steps
    config.toml  README.md  curves.svg
    adapter_model.safetensors | model.safetensors, their configs, the processor's files
    visrl.json           what the pipeline must agree on, and where the model came from; moved in last

The weights appear by renames at the end: a folder without visrl.json is unfinished. trainers.py trains in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import Trainer

from visrl_data.core import files
from visrl_data.core.conditions import check_same
from visrl_data.core.config import current_options, make_config, read_options, to_toml, with_version
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import ImageSettings
from visrl_data.core.text import visible
from visrl_data.core.versions import library_versions
from visrl_data.engines import loading
from visrl_data.models.model_folder import RECORD, ModelFolder, ModelRecord, ModelReference, digest_folder, read_record
from visrl_data.runs.dataset_files import split_of
from visrl_train import card, models
from visrl_train.config import TrainConfig
from visrl_train.limits import explain_limits
from visrl_train.metrics_log import curves
from visrl_train.stages import STAGES

MODELS = Path("models")
_PLACES = ("trained_from.id",)
"""What may differ in a training that is resumed: a model of the same digest may have moved, as with its project."""
_ROWS = "rows.sha256"
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """One training: the model it starts from, the data it learns from, the folder it writes.

    data: the record of the data in visrl.json. image_settings: how pictures are shown.
    """

    name: str
    config: TrainConfig
    output: Path
    folder: ModelFolder
    data: dict[str, Any]
    prompts: dict[str, str]
    box_space: str
    crop_rule: CropRule
    image_settings: ImageSettings

    @property
    def max_pixels(self) -> int | None:
        return self.image_settings["max_pixels"]

    @property
    def work(self) -> Path:
        return self.output / "work"

    @property
    def is_finished(self) -> bool:
        return (self.output / RECORD).is_file()

    def record(self) -> ModelRecord:
        """Return the content of visrl.json. base: the weights under the adapter, None for full weights."""
        weights = self.folder.weights
        base: ModelReference | None = None
        if not self.config.full:
            base = {"id": models.portable_id(weights), "digest": weights.digest}
        return {
            "box_space": self.box_space,
            "crop_rule": self.crop_rule.as_dict(),
            "origin_base": models.origin_record(self.folder),
            "base": base,
            "stage": self.name,
            "steps": STAGES[self.name].model_calls,
            "trained_from": {"id": models.portable_id(self.folder), "digest": self.folder.digest},
            "data": self.data,
            "prompts": self.prompts,
            "max_pixels": self.max_pixels,
            "image_settings": self.image_settings,
            "versions": library_versions(),
        }


def default_output(name: str, data: str, config: TrainConfig, *digests: str) -> Path:
    """Return models/<stage>-<data>-<digest of options, data and model>, so that the same command resumes there."""
    text = "\0".join((to_toml(config), *digests))
    return files.default_folder(MODELS, name, Path(data).stem, hashlib.sha256(text.encode()).hexdigest()[:8])


def split(examples: Sequence[Any], share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split dataclasses into plain rows for training and for validation, by the rule of published splits.

    The image's sha256 alone decides, so that an image is on the same side in every stage and round. Where the
    training side would be empty, everything trains.
    """
    rows = [dataclasses.asdict(example) for example in examples]
    sides = [split_of(row["image"], share) for row in rows]
    train, validation = (
        [row for row, side in zip(rows, sides, strict=True) if side == name] for name in ("train", "validation")
    )
    return (train, validation) if train else (rows, [])


@contextlib.contextmanager
def open_stage(stage: TrainingStage) -> Iterator[bool]:
    """Open the stage's folder and lock it; yield whether the stage is finished already.

    Raises VisRLError when another process holds the lock, when the folder holds something else, or when the stage
    was started with different options.
    """
    if not PartialState(cpu=models.on_cpu(stage.config)).is_main_process:  # the main process holds the lock
        with explain_limits(stage.config, stage.output):
            yield stage.is_finished
        return
    files.make_folder(stage.output)
    what = f"{stage.name}: from {stage.folder.id}, on {stage.data['name']}, to {stage.output}"
    print(visible(what), file=sys.stderr)
    with (
        files.lock_folder(stage.output, lambda: _check_options(stage)),
        explain_limits(stage.config, stage.output),
    ):
        if not stage.is_finished:
            stage.work.mkdir(exist_ok=True)
            files.write_json(stage.work / "begun.json", _options(stage))
            files.write_text(stage.output / "config.toml", to_toml(stage.config))
        else:
            shutil.rmtree(stage.work, ignore_errors=True)  # left by a kill after visrl.json was written
            print(visible(f"{stage.output} is finished: nothing was trained."), file=sys.stderr)
        yield stage.is_finished


def _options(stage: TrainingStage) -> dict[str, Any]:
    """Return all that must be the same for an interrupted training to resume."""
    record: dict[str, Any] = {**stage.record()}
    names = ("stage", "trained_from", "data", "prompts", "box_space", "crop_rule", "image_settings", "versions")
    options = with_version(_as_flags(stage.config))
    plain: dict[str, Any] = json.loads(json.dumps(options | {name: record[name] for name in names}))
    return plain


def _saved_options(stage: TrainingStage) -> dict[str, Any]:
    """Return the options that a finished model was trained with; today's default for one that its version lacked."""
    path = stage.output / "config.toml"
    if not path.is_file():
        return _as_flags(stage.config)
    return _as_flags(make_config(type(stage.config), read_options(path), {}, str(path), f"visrl train {stage.name}"))


def _as_flags(config: TrainConfig) -> dict[str, Any]:
    return {f"--{name.replace('_', '-')}": value for name, value in dataclasses.asdict(config).items()}


def _check_options(stage: TrainingStage) -> None:
    started = stage.work / "begun.json"
    if stage.is_finished:
        before, now = read_record(stage.output), stage.record()
        # The counts of rows were added while it trained and are not known at this point.
        before["data"] = {name: before["data"].get(name) for name in now["data"]}
        old, new = (
            {"stage": record["stage"], "trained_from": record["trained_from"], "data": record["data"]}
            for record in (before, now)
        )
        check_same(str(stage.output), old, new, ignore=_PLACES)
        check_weights(stage.output)
        check_same(str(stage.output), _saved_options(stage), _as_flags(stage.config))
    elif (stage.work / _ROWS).is_file() or (stage.work / "checkpoints").is_dir():
        options, expected = _read_started(started), _options(stage)
        for name in {"versions", "image_settings"} - options.keys():  # a training of an earlier version
            del expected[name]
        advice = "Choose another --output, or go back to what it started with."
        check_same(str(stage.output), current_options(options), expected, advice, _PLACES)
    elif not started.is_file():  # else it ended before it had read its rows, and other options may be what it lacked
        files.check_own(stage.output, {"work"})


def _read_started(path: Path) -> dict[str, Any]:
    """Read begun.json. Raises VisRLError when it is damaged."""
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict) or not {"stage", "trained_from", "data", "--seed"} <= options.keys():
        raise VisRLError(
            f"{path} is damaged, so the training can't be resumed. Start it again: delete {path.parent.parent}, "
            "or choose another --output."
        )
    return options


def check_weights(folder: Path) -> None:
    """Raise VisRLError when the files of a trained model differ from those that the training wrote."""
    written = read_record(folder).get("digest")  # earlier versions recorded none
    if written is not None and digest_folder(folder) != written:
        raise VisRLError(
            f"The model in {folder} has changed since it was trained (a damaged or replaced file). "
            "Delete the folder to train it again, or choose another --output."
        )


def with_rows(stage: TrainingStage, training: Rows, validation: Rows, **others: Any) -> TrainingStage:
    """Return the stage with the counts of its rows in its record; print them, and others, too.

    Raises VisRLError when the rows differ from those that an interrupted training started with.
    """
    counts = {"train": len(training), "validation": len(validation), **others}
    if PartialState().is_main_process:
        _check_rows(stage, [training, validation])
        print(", ".join(_count(name, count) for name, count in counts.items() if count != {}), file=sys.stderr)
    return dataclasses.replace(stage, data=stage.data | counts)


def _count(name: str, count: Any) -> str:
    """Return a count as text, or counts by reason with their reasons."""
    if not isinstance(count, dict):
        return f"{name.replace('_', ' ')} {count}"
    return f"{name.replace('_', ' ')}: " + ", ".join(f"{reason} {number}" for reason, number in count.items())


def _check_rows(stage: TrainingStage, rows: list[Rows]) -> None:
    path, digest = stage.work / _ROWS, hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    if not path.is_file():
        files.write_text(path, digest)
    elif path.read_text(encoding="utf-8", errors="replace") != digest:
        raise VisRLError(
            f"The rows or images of {stage.data['name']} have changed since the training in {stage.output} started. "
            f"Restore them, or start again: delete {stage.output}, or choose another --output."
        )


def load_processor(stage: TrainingStage) -> Any:
    """Load the model's processor with the settings of the engine."""
    processor = loading.load_processor(stage.folder, stage.max_pixels, stage.config.trust_remote_code)
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def save_model(trainer: Trainer, stage: TrainingStage) -> Path:
    """Write the model folder, visrl.json last; delete the work files; return the folder."""
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None  # every process takes part
    if trainer.accelerator.is_main_process:
        _write(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, stage, state)
    trainer.accelerator.wait_for_everyone()
    return stage.output


def _write(model: Any, processor: Any, stage: TrainingStage, state: dict[str, Any] | None) -> None:
    final = stage.work / "final"
    shutil.rmtree(final, ignore_errors=True)
    save = models.save_full if stage.config.full else models.save_adapter
    save(model, stage.folder, final, state)
    processor.save_pretrained(final)
    metrics, record = stage.output / "metrics.jsonl", stage.record()
    (final / "curves.svg").write_text(curves(metrics), encoding="utf-8")
    (final / "README.md").write_text(card.render(record, stage.config, stage.output, metrics), encoding="utf-8")
    # The configs go last of all files: with one of them the folder counts as a model.
    configs = {"config.json", "adapter_config.json"}
    for file in sorted(final.iterdir(), key=lambda path: (path.name in configs, path.name)):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            os.replace(file, stage.output / file.name)
    files.write_json(stage.output / RECORD, record | {"digest": digest_folder(stage.output)})
    shutil.rmtree(stage.work, ignore_errors=True)
