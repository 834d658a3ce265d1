"""A training stage on disk, and how an interrupted one goes on; shared by all recipes.

    work/begun.json      what the stage was begun with; the same command goes on, another one is refused
    work/checkpoints/    weights, optimizer, schedule and random state every --save-steps steps
    metrics.jsonl        a line of metrics every --log-steps steps
    config.toml  README.md  curves.svg
    adapter_model.safetensors | model.safetensors, their configs, the processor's files
    visrl.json           what the pipeline must agree on, and where the model came from; moved in last

The weights appear by renames at the end: a folder without visrl.json is unfinished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback
from trl.trainer import utils

from visrl_data.core import files
from visrl_data.core.boxes import CropRule
from visrl_data.core.config import current_options, to_toml, with_version
from visrl_data.core.errors import VisRLError
from visrl_data.core.versions import versions
from visrl_data.engines import loading
from visrl_data.engines.image_processing import copy_pinpoints
from visrl_data.models.model_folder import RECORD, ModelFolder
from visrl_data.runs.dataset_files import split_of
from visrl_train import card, models
from visrl_train.config import TrainConfig
from visrl_train.image_features import encoded_once
from visrl_train.metrics_log import MetricsLog, curves
from visrl_train.stages import STAGES

Kind = TypeVar("Kind", bound=Trainer)
MODELS = Path("models")
_LARGE = 1_000_000_000  # parameters from which gradient checkpointing is worth its time, on a GPU


class Terminated(VisRLError):
    """The stage was asked to stop (SIGTERM) and has saved a checkpoint."""

    exit_code = 143


@dataclass(frozen=True, slots=True)
class Stage:
    """One training: what it starts from, what it learns from, where it writes.

    data: what visrl.json says about the data. max_pixels: bound of the pictures, as generation had it.
    """

    name: str
    config: TrainConfig
    output: Path
    folder: ModelFolder
    data: dict[str, Any]
    prompts: dict[str, str]
    box_space: str
    crop_rule: CropRule
    max_pixels: int | None

    @property
    def work(self) -> Path:
        return self.output / "work"

    @property
    def finished(self) -> bool:
        return (self.output / RECORD).is_file()

    def record(self) -> dict[str, Any]:
        """The content of visrl.json. base: the weights under the adapter, None for full weights."""
        weights = self.folder.weights
        base = None if self.config.full else {"id": models.portable_id(weights), "digest": weights.digest}
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
            "versions": versions(),
        }


def default_output(name: str, data: str, config: TrainConfig, *digests: str) -> Path:
    """models/<stage>-<data>-<digest of options, data and model>: the same command finds its folder again."""
    text = "\0".join((to_toml(config), *digests))
    return MODELS / f"{name}-{Path(data).stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def split(examples: Sequence[Any], share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records as plain rows, for training and for validation, by the rule that published splits follow.

    An image's sha256 alone decides, so it is never on both sides, in no stage and no round. Too few images
    may leave one side empty; then all of them train.
    """
    rows = [dataclasses.asdict(example) for example in examples]
    sides = [split_of(row["image"], share) for row in rows]
    train, validation = (
        [row for row, side in zip(rows, sides, strict=True) if side == wanted] for wanted in ("train", "validation")
    )
    return (train, validation) if train else (rows, [])


@contextlib.contextmanager
def begin(stage: Stage) -> Iterator[bool]:
    """Open a stage's folder and lock it; yields whether the stage is finished already.

    Raises VisRLError when another process is at work there, when the folder holds something else, or when
    the stage was begun otherwise (the differences are shown).
    """
    if not PartialState(cpu=models.on_cpu(stage.config)).is_main_process:  # the main process keeps the folder
        yield stage.finished
        return
    stage.output.mkdir(parents=True, exist_ok=True)
    print(f"{stage.name}: from {stage.folder.id}, on {stage.data['name']}, to {stage.output}", file=sys.stderr)
    with files.locked(stage.output):
        _check_begun(stage)
        if not stage.finished:
            stage.work.mkdir(exist_ok=True)
            files.write_json(stage.work / "begun.json", _begun(stage))
            files.write_text(stage.output / "config.toml", to_toml(stage.config))
        else:
            shutil.rmtree(stage.work, ignore_errors=True)  # left by a kill after the model was whole
        yield stage.finished


def _begun(stage: Stage) -> dict[str, Any]:
    options = {f"--{k.replace('_', '-')}": v for k, v in dataclasses.asdict(stage.config).items()}
    record = stage.record()
    kept = {name: record[name] for name in ("stage", "trained_from", "data", "prompts", "box_space", "crop_rule")}
    begun: dict[str, Any] = json.loads(json.dumps(with_version(options) | kept))
    return begun


def _check_begun(stage: Stage) -> None:
    begun = stage.work / "begun.json"
    if stage.finished:
        before = json.loads((stage.output / RECORD).read_text(encoding="utf-8"))
        now = stage.record()
        # what was counted while it ran is not known at this start
        before["data"] = {name: before["data"].get(name) for name in now["data"]}
        old, new = ({name: side[name] for name in ("stage", "trained_from", "data")} for side in (before, now))
    elif begun.is_file():
        old, new = current_options(json.loads(begun.read_text(encoding="utf-8"))), _begun(stage)
    else:
        others = [f.name for f in stage.output.iterdir() if f.name not in {".lock", "work"}]
        if others:
            raise VisRLError(f"{stage.output} is not empty (it holds {others[0]}). Choose another --output.")
        return
    changed = [f"  {k}: {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if changed:
        shown = "\n".join(changed)
        raise VisRLError(f"{stage.output} was begun otherwise. It had -> you gave:\n{shown}\nChoose another --output.")


def counted(stage: Stage, **counts: Any) -> Stage:
    """The stage with the counts of its rows in its record; they are told, too."""
    if PartialState().is_main_process:
        print(", ".join(f"{name} {count}" for name, count in counts.items()), file=sys.stderr)
    return dataclasses.replace(stage, data=stage.data | counts)


def load_processor(stage: Stage) -> Any:
    """The processor of the model, set as the engine sets it."""
    processor = loading.load_processor(stage.folder, stage.max_pixels, stage.config.trust_remote_code)
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def arguments(stage: Stage, model: Any, validates: bool) -> dict[str, Any]:
    """What transformers' Trainer is told; the same for all stages."""
    config = stage.config
    cpu = models.on_cpu(config)
    large = model.num_parameters() >= _LARGE
    checkpointing = config.gradient_checkpointing
    return {
        "output_dir": str(stage.work / "checkpoints"),
        "run_name": stage.output.name,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup,  # below 1: a share of all steps
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": cpu,
        "bf16": models.compute_dtype(config) == torch.bfloat16,
        "gradient_checkpointing": large and not cpu if checkpointing is None else checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_num_workers": config.workers,
        "dataloader_pin_memory": not cpu,
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "eval_strategy": "epoch" if validates else "no",
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "logging_steps": config.log_steps,
        "report_to": config.report_to.split(","),
        "disable_tqdm": True,
    }


def ours(trainer: type[Kind]) -> type[Kind]:
    """One of TRL's trainers as all stages use it: pictures are encoded once, and only the stage writes a card."""
    _score_completions_alone()
    base: Any = trainer

    class OurTrainer(base):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            for model in (self.model, getattr(self, "ref_model", None)):
                if model is not None:
                    copy_pinpoints(model, self.processing_class)

        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
            inputs = dict(inputs)
            repeated = inputs.pop("pictures", None)
            with encoded_once(self.model, repeated), encoded_once(getattr(self, "ref_model", None), repeated):
                return super().compute_loss(model, inputs, *args, **options)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            """Full weights are saved under the names of the Hub, which Trainer, unlike from_pretrained, won't map."""
            if hasattr(self.model, "peft_config") or self.is_fsdp_enabled or self.is_deepspeed_enabled:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
                return
            kept = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(kept.state_dict())

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """The stage writes its own card."""

        def _send_telemetry(self) -> None:
            """None is sent."""

    made: type[Kind] = OurTrainer
    return made


@functools.cache
def _score_completions_alone() -> None:
    """On a CPU TRL puts every position through the output layer; on a GPU only those with a label, as here.

    It keeps the shapes fixed for devices that compile each one, which a CPU does not.
    """
    known = getattr(utils, "_use_triton", None)
    if known is not None:
        utils._use_triton = lambda device: device.type == "cpu" or known(device)


def fit(trainer: Trainer, stage: Stage) -> None:
    """Train to the end, from the last whole checkpoint if there is one.

    Raises Terminated after a SIGTERM (a checkpoint is saved first), and VisRLError when memory runs out.
    """
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MetricsLog(stage.output / "metrics.jsonl"))
    asked = _StopWhenAsked(trainer)
    trainer.add_callback(asked)
    before = signal.signal(signal.SIGTERM, asked.ask)
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(stage.work / "checkpoints"))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise VisRLError(
            f"Out of memory with --batch-size {stage.config.batch_size}. Levers: a smaller --batch-size with as much "
            "more --accumulation (the same training), --max-pixels, --gradient-checkpointing, --cache-reference, "
            "--dtype bfloat16, an adapter in place of --full. Then run the same command in another --output."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked.stopped:
        raise Terminated(f"Stopped at step {trainer.state.global_step}; run the same command again to go on.")


class _StopWhenAsked(TrainerCallback):
    """Saves a checkpoint and ends the training at the end of the step in which any process was asked to stop."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._asked = self.stopped = False

    def ask(self, *_: Any) -> None:
        self._asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        asked = self._asked
        if args.world_size > 1:
            flag = torch.tensor(float(asked), device=self._trainer.accelerator.device)
            asked = self._trainer.accelerator.reduce(flag, "sum").item() > 0
        if asked and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error).lower()


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: its state file comes last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        with contextlib.suppress(OSError, ValueError):
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
    return None


def publish(trainer: Trainer, stage: Stage) -> Path:
    """Write the model folder, visrl.json last, and drop the work files."""
    spread = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if spread else None  # every process takes part
    if trainer.accelerator.is_main_process:
        _write(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, stage, state)
    trainer.accelerator.wait_for_everyone()
    return stage.output


def _write(model: Any, processor: Any, stage: Stage, state: dict[str, Any] | None) -> None:
    final = stage.work / "final"
    shutil.rmtree(final, ignore_errors=True)
    save = models.save_full if stage.config.full else models.save_adapter
    save(model, stage.folder, final, state)
    processor.save_pretrained(final)
    metrics = stage.output / "metrics.jsonl"
    (final / "curves.svg").write_text(curves(metrics), encoding="utf-8")
    record = stage.record()
    (final / "README.md").write_text(card.render(record, stage.config, stage.output, metrics), encoding="utf-8")
    entry = {"config.json", "adapter_config.json"}  # what makes a folder a model
    for file in sorted(final.iterdir(), key=lambda path: (path.name in entry, path.name)):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            os.replace(file, stage.output / file.name)
    files.write_json(stage.output / RECORD, record)
    shutil.rmtree(stage.work, ignore_errors=True)
