"""The recipe of Spotlight on the GPU, stage by stage, then the same on one thread of the CPU."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.parts import Row, attempt
from studies.spotlight import train

STAGES = ("eyes", "words", "meet", "talk", "judge", "relate", "firm", "spell", "actor")
FIRST = 4  # steps that warm up, and tell how many fit
SECONDS = {"cuda": 6.0, "cpu": 2.0}


def rows(small: bool) -> Iterator[Row]:
    torch.set_num_threads(1)  # as the recipe has it
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    with tempfile.TemporaryDirectory() as work:
        for device in devices:
            folder = Path(work) / device
            folder.mkdir()
            for name in STAGES[:1] if small else STAGES:
                key = {"device": device, "stage": name}
                yield attempt(key, measure, name, device, folder, 0.0 if small else SECONDS[device])


def measure(name: str, device: str, work: Path, seconds: float) -> Row:
    """The stage for so long, from the checkpoints that the stages before it left in `work`."""
    whole = getattr(train, name.upper())
    if name == "actor":
        train.base(work, torch.device(device))
    each = statistics.median(steps(name, device, work, FIRST)[1:])
    if seconds:
        more = steps(name, device, work, FIRST + max(3, min(whole.steps - FIRST, round(seconds / each))))
        each = statistics.median(more[1:])
    weights = torch.load(work / f"{name}.pt", weights_only=True, map_location="cpu")["weights"]
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise ValueError(f"weights after {name} on {device}: expected finite ones")
    return {"s a step": each, "minutes": whole.steps * each / 60}


def steps(name: str, device: str, work: Path, count: int) -> list[float]:
    """Seconds of each step but the first, up to the stage's step `count`."""
    marks: list[float] = []

    def mark(*_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    whole = getattr(train, name.upper())
    with (
        mock.patch.object(train, name.upper(), dataclasses.replace(whole, steps=count)),
        mock.patch.object(train, "_share_gradients", mark),  # called once a step; there are no other processes
    ):
        getattr(train, name)(work, torch.device(device))
    return [after - before for before, after in zip(marks, marks[1:], strict=False)]
