"""TRL's trainers as all stages use them: their arguments, what we change of them, and the training itself."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl.trainer import utils

from visrl_data.core.errors import Terminated, UsageError
from visrl_data.engines.image_processing import copy_pinpoints
from visrl_train import models
from visrl_train.checkpoints import last_checkpoint, seal
from visrl_train.image_features import encoded_once
from visrl_train.metrics_log import MetricsLog
from visrl_train.stage_folder import TrainingStage

Kind = TypeVar("Kind", bound=Trainer)
_LARGE = 1_000_000_000  # parameters from which gradient checkpointing is worth its time, on a GPU


def training_arguments(stage: TrainingStage, model: Any, validates: bool) -> dict[str, Any]:
    """Return the fields of transformers' TrainingArguments; the same for all stages."""
    config = stage.config
    cpu = models.on_cpu(config)
    large = model.num_parameters() >= _LARGE
    checkpointing = config.gradient_checkpointing
    return {
        "output_dir": str(stage.work / "checkpoints"),
        "run_name": stage.output.name,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup,  # below 1: a ratio of all steps
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
        "report_to": trackers(config.report_to),
        "disable_tqdm": True,
    }


def trackers(report_to: str) -> list[str]:
    """Return the trackers that --report-to names. Raises UsageError for one that transformers does not know."""
    names, known = [name.strip() for name in report_to.split(",")], sorted(INTEGRATION_TO_CALLBACK)
    if not {"none", "all", *known}.issuperset(names):
        raise UsageError(f"--report-to {report_to}: expected none, all, or some of {', '.join(known)}.")
    return names


def make_trainer_class(trainer: type[Kind]) -> type[Kind]:
    """Return a trainer class of TRL with what all stages change of it.

    Each distinct image of a batch is encoded once; only completions go through the output layer; only the stage
    writes a model card; no telemetry is sent.
    """
    base: Any = trainer

    class StageTrainer(base):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            for model in (self.model, getattr(self, "ref_model", None)):
                if model is not None:
                    copy_pinpoints(model, self.processing_class)

        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
            inputs = dict(inputs)
            repeated = inputs.pop("pictures", None)
            with (
                encoded_once(self.model, repeated),
                encoded_once(getattr(self, "ref_model", None), repeated),
                completions_only(),
            ):
                return super().compute_loss(model, inputs, *args, **options)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            # Checkpoints have the Hub's names of weights, which from_pretrained maps to those of the model and
            # Trainer does not.
            if hasattr(self.model, "peft_config") or self.is_fsdp_enabled or self.is_deepspeed_enabled:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
                return
            checkpoint = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(checkpoint.state_dict())

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its own random state
            if self.accelerator.is_main_process:
                seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            # transformers takes 1.0 for one step, and the rate of a first warmup step is 0: alone, it trains nothing.
            warmup = self.args.warmup_steps
            if 0 < warmup <= 1:
                self.args.warmup_steps = min(math.ceil(warmup * num_training_steps), num_training_steps - 1)
            return super().create_scheduler(num_training_steps, optimizer)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Write nothing: save_model writes the card."""

        def _send_telemetry(self) -> None:
            """Send nothing."""

    trainer_class: type[Kind] = StageTrainer
    return trainer_class


@contextlib.contextmanager
def completions_only() -> Iterator[None]:
    """Let TRL put only positions with a label through the output layer on a CPU, too, as it does on a GPU.

    Elsewhere TRL keeps the shapes fixed, for devices that compile each one, which a CPU does not. The losses are
    the same. Without the private function that decides, training is slower and nothing else.
    """
    decide = getattr(utils, "_use_triton", None)
    if decide is None:
        yield
        return
    utils._use_triton = lambda device: device.type == "cpu" or decide(device)
    try:
        yield
    finally:
        utils._use_triton = decide


def fit(trainer: Trainer, stage: TrainingStage) -> None:
    """Train to the end, from the last complete checkpoint if there is one.

    Raises Terminated after a SIGTERM, once a checkpoint is saved.
    """
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # notes on how it orders checkpoints
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MetricsLog(stage.output / "metrics.jsonl"))
    stop = _StopOnSignal(trainer)
    trainer.add_callback(stop)
    handler = signal.signal(signal.SIGTERM, stop.request)
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(stage.work / "checkpoints"))
    finally:
        signal.signal(signal.SIGTERM, handler)
    if stop.has_stopped:
        raise Terminated(f"Stopped at step {trainer.state.global_step}; run the same command again to resume.")


class _StopOnSignal(TrainerCallback):
    """Saves a checkpoint and ends the training after the step in which any process received the signal."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._is_requested = self.has_stopped = False

    def request(self, *_: Any) -> None:
        self._is_requested = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        stops = self._is_requested
        if args.world_size > 1:  # the signal may reach one process only, and all must save together
            flag = torch.tensor(float(stops), device=self._trainer.accelerator.device)
            stops = self._trainer.accelerator.reduce(flag, "sum").item() > 0
        if stops and state.global_step < state.max_steps:
            self.has_stopped = control.should_save = control.should_training_stop = True
