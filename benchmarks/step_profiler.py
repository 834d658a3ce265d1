"""Profile the parts of a training step. Used by training.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from benchmarks.process import peak_mib
from visrl_train.image_features import encoder

PARTS = ("collating", "vision", "language model", "output layer", "backward", "rest")


class StepProfiler(TrainerCallback):
    """Times the steps of a trainer and their parts.

    vision: tower and projector; language model: its layers; output layer: the rest of the forwards, which is the
    output layer and what joins the others; backward: of all; rest: the optimizer, reading the rows, bookkeeping.
    """

    def __init__(self, trainer: Any) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.metrics: dict[str, float] = {}
        self._spent = dict.fromkeys(PARTS, 0.0)
        inner = encoder(trainer.model)
        for name, module in inner.named_children():
            self._on(module, "language model" if name == "language_model" else "vision")
        self._on(trainer.model, "output layer")
        trainer.data_collator = self._of(trainer.data_collator, "collating")
        trainer.accelerator.backward = self._of(trainer.accelerator.backward, "backward")
        trainer.compute_loss = partial(self._loss, trainer, trainer.compute_loss)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last, self._busy = now(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        duration, self._last = now() - self._last, now()
        parts, self._spent = self._spent, dict.fromkeys(PARTS, 0.0)
        parts["output layer"] -= parts["vision"] + parts["language model"]
        parts["rest"] = duration - sum(parts.values())
        self.seconds.append(duration)
        self.cpu_seconds.append(time.process_time() - self._busy)
        self._busy = time.process_time()
        self.parts.append(parts)

    def _loss(self, trainer: Any, compute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        loss = compute(*args, **options)
        self.losses.append(loss.item())
        if not self.metrics and hasattr(trainer, "metric_means"):
            self.metrics = trainer.metric_means("train")
        return loss

    def _on(self, module: Any, part: str) -> None:
        start: list[float] = []
        module.register_forward_pre_hook(lambda *_: start.append(now()))
        module.register_forward_hook(lambda *_: self._add(part, now() - start.pop()))

    def _of(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            start = now()
            result = function(*args, **options)
            self._add(part, now() - start)
            return result

        return timed

    def _add(self, part: str, seconds: float) -> None:
        self._spent[part] += seconds


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def held_mib() -> float:
    """Return the peak memory so far, MiB: of the GPU where there is one, else of this process."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_mib()
