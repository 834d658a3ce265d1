"""RL1 and RL2 on seven billion parameters, ours and stock TRL's, by the benchmark that measures small models."""

from __future__ import annotations

import gc
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import large, models, photos, training
from benchmarks.gpu.generation import GIB, tiny
from benchmarks.gpu.parts import Row, attempt
from benchmarks.process import alone
from visrl_data.engines.image_processing import picture_tokens
from visrl_data.engines.loading import load_processor
from visrl_data.models.model_folder import find_model
from visrl_train import memory

PAIRS = 3  # the default batch of the stages, for which the estimate is
STEPS = 4
MAX_PIXELS = 500_000
# stage, method, gradient checkpointing
JOBS = [
    ("rl2", "branches", False),
    *((stage, method, True) for stage in ("rl1", "rl2") for method in ("branches", "stock")),
]  # fmt: skip
SMALL_JOBS = [("rl2", "branches", True), ("rl2", "stock", False)]


def rows(small: bool) -> Iterator[Row]:
    return _rows(SMALL_JOBS if small else JOBS, small)


def losses(small: bool) -> Iterator[Row]:
    """Return the rows in float32: in bfloat16 the losses of random weights differ by more than a mistake would."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # for the process of stock: it is read when CUDA starts
    torch.backends.cudnn.allow_tf32 = False  # for this one
    jobs = [(stage, method, True) for stage in ("rl1", "rl2") for method in ("branches", "stock")]
    return _rows(jobs, small, "float32", steps=2)


def quantized(small: bool) -> Iterator[Row]:
    """Without a GPU the product refuses, and so says the row."""
    return _rows([("rl2", "branches", True)], small, quantize=True)


def _rows(
    jobs: Sequence[tuple[str, str, bool]],
    small: bool,
    dtype: str = "bfloat16",
    steps: int = STEPS,
    quantize: bool = False,
) -> Iterator[Row]:
    models.stand_in_for_videos()
    dtype = dtype if torch.cuda.is_available() else "float32"
    losses: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = tiny("qwen7b", Path(work)) if small else large.qwen7b(Path(work) / "qwen7b")
        for stage, method, checkpointing in jobs:
            job = training.TrainingJob(
                "qwen7b", folder, stage, method, PAIRS, 2 if small else steps, 5_000 if small else MAX_PIXELS,
                dtype, quantize, checkpointing,
            )  # fmt: skip
            key = {"stage": stage, "method": method, "checkpointing": "yes" if checkpointing else "no"}
            row = attempt(key, measure, job)
            if "loss" in row:
                first = losses.setdefault(stage, {})
                first.setdefault(method, row["loss"])
                if len(first) == 2:
                    row["ours - stock's"] = first["branches"] - first["stock"]
            yield row


def measure(job: training.TrainingJob) -> Row:
    if job.method == "stock":
        gc.collect()  # our model of the job before, for the process of stock to have its memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        timed = alone(training.measure, job)
    else:
        timed = training.measure(job)
    if not all(map(math.isfinite, timed.losses)):
        raise ValueError(f"losses {timed.losses}: expected finite ones")
    parts: dict[str, Any] = {name: round(seconds, 3) for name, seconds in timed.parts.items()}
    return {"s a step": timed.median, **parts, "GiB": timed.held_mib / 1024, "estimate": estimate(job) / GIB,
            "loss": timed.losses[0]}  # fmt: skip


def estimate(job: training.TrainingJob) -> int:
    """As `visrl doctor` reckons, for the largest picture: with the default batch, and from 1B on checkpointing."""
    folder = find_model(str(job.model))
    processor = load_processor(folder, job.max_pixels, False)
    tokens = picture_tokens(processor, photos.photo(0, max(training.SIZES))) or 0
    number = 2 if job.dtype == "bfloat16" else 4
    tuning = "4 bits" if job.quantize else "lora"
    return memory.training(memory.shape_of(folder, 16), number, tokens, job.stage, tuning)
