"""Measure the speed of a preference step: our trainer against TRL's DPOTrainer with TRL's own image collator.

    python -m benchmarks.training [--shapes qwen,llava] [--stages rl1,rl2] [--pairs N] [--steps N] [--output FILE]

The same pairs, adapter, optimizer and type of numbers for all; a method of a stage runs in a process of its own:

    stock      TRL's, on the rows that `visrl push` publishes (configs rl1 and rl2)
    rows       ours, each side of a pair a row of its own, each picture encoded once
    branches   ours as it is: the rows of a pair are one
    cached     the same with --cache-reference; filling the table is not in the step's time

Prints Markdown and writes JSON. A step is one batch of pairs with pictures of several sizes, from the end of the step
before; the first is dropped, the median counts. Peak memory is what the steps need over what the process
held before the first. The adapter has left its reference before the first step, so that the losses say something.
Estimated at six minutes on two idle cores; on a machine with a GPU that is what is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import large, models, photos
from benchmarks.process import alone, forget_peak
from benchmarks.step_profiler import PARTS, StepProfiler, held_mib
from visrl_data.core.prompts import PromptSet
from visrl_data.core.versions import library_versions
from visrl_data.engines.loading import load_processor
from visrl_data.models.model_folder import find_model
from visrl_train.config import Rl2Config
from visrl_train.image_features import shares
from visrl_train.models import load_policy, token_limit
from visrl_train.pairs import Pair

METHODS = ("stock", "rows", "branches", "cached")
SIZES = ((640, 480), (500, 375), (1024, 768))
BETA = 0.1
QUESTIONS = (
    "What number is on the sign?",
    "Who stands next to the old door, and what does she wear?",
    "Where is the dog?",
)
RESPONSES = (("7", "17"), ("a yellow jacket", "blue"), ("next to the old bridge", "on the left, under the tree"))


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One method of one stage. model: a folder that models.py or large.py wrote; pairs: in each of the steps.

    quantize: the frozen weights in 4 bits. checkpointing: of gradients.
    """

    shape: str
    model: Path
    stage: str
    method: str
    pairs: int
    steps: int
    max_pixels: int
    dtype: str = "float32"
    quantize: bool = False
    checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class TrainingTiming:
    """What a job gave. seconds, cpu_seconds: of each step, the latter of all threads together. parts: mean seconds a
    step, without the first. peak_mib: over the start; held_mib: in all.

    losses: of each step; terms: the means of box and response at the first, which stock does not tell.
    """

    shape: str
    stage: str
    method: str
    seconds: list[float]
    cpu_seconds: list[float]
    parts: dict[str, float]
    peak_mib: float
    held_mib: float
    losses: list[float]
    terms: dict[str, float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds[1:])

    @property
    def median_cpu(self) -> float:
        """Told beside the time: on a machine that is busy with other work it is the steadier of the two."""
        return statistics.median(self.cpu_seconds[1:])


def random_pairs(count: int) -> tuple[tuple[Pair, ...], dict[str, bytes]]:
    """So many pairs with boxes at random, the sizes in turn, and their pictures' bytes by sha256."""
    draw, pairs, pictures = np.random.default_rng(0), [], {}
    for i in range(count):
        size, responses = SIZES[i % len(SIZES)], RESPONSES[i % len(RESPONSES)]
        jpeg = io.BytesIO()
        photos.photo(i, size).save(jpeg, "JPEG", quality=90)
        sha = hashlib.sha256(jpeg.getvalue()).hexdigest()
        pictures[sha] = jpeg.getvalue()
        sides: dict[str, Any] = {}
        for side, response in zip(("win", "lose"), responses, strict=True):
            corner, reach = draw.uniform(0.05, 0.5, 2), draw.uniform(0.2, 0.4, 2)
            box = np.concatenate([corner, corner + reach])
            pixels = (box * [*size, *size]).astype(int).tolist()
            text = "[" + ", ".join(f"{edge:.3f}" for edge in box) + "]"
            sides |= {f"{side}_unit": tuple(box.tolist())}
            sides |= {f"{side}_box": text, f"{side}_crop": tuple(pixels), f"{side}_response": response}
        pairs.append(Pair(f"p{i}", QUESTIONS[i % len(QUESTIONS)], (responses[0],), sha, has_response=True, **sides))
    return tuple(pairs), pictures


def measure(job: TrainingJob) -> TrainingTiming:
    """Run a job in this process."""
    models.stand_in_for_videos()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VISRL_CACHE"] = folder
        with large.made_in_place():
            trainer = (stock if job.method == "stock" else ours)(job, folder)
        profiler = StepProfiler(trainer)
        forget_peak()
        before = held_mib()
        trainer.train()
    held = held_mib()
    parts = {name: statistics.mean(step[name] for step in profiler.parts[1:]) for name in PARTS}
    terms = {name: value for name, value in profiler.metrics.items() if name.endswith("/loss")}
    return TrainingTiming(
        job.shape,
        job.stage,
        job.method,
        profiler.seconds,
        profiler.cpu_seconds,
        parts,
        held - before,
        held,
        profiler.losses,
        terms,
    )


def stock(job: TrainingJob, folder: str) -> Any:
    """Return TRL's trainer and collator, with the rows in the layout of a published dataset."""
    import pyarrow as pa
    from datasets import Dataset
    from trl import DPOTrainer

    from visrl_data.publishing.dataset_rows import training_rows
    from visrl_data.runs.dataset_schema import CONFIGS
    from visrl_data.runs.image_fit import ImageFit
    from visrl_data.runs.pair_set import PairTable

    pairs, pictures = random_pairs(job.pairs)
    names = {"image": "image_sha256", "win_box": "win_box_text", "lose_box": "lose_box_text"}
    columns = [
        {names.get(name, name): value for name, value in dataclasses.asdict(pair).items()}
        | {"same_response": not pair.has_response}
        for pair in pairs
    ]
    fit = ImageFit("unit", False, None, ())
    table = PairTable(pa.Table.from_pylist(columns), PromptSet(), pictures.__getitem__, frozenset(pictures), fit)
    rows = [row for _, row in training_rows(table, job.stage)]
    model, processor = policy(job)
    trainer = DPOTrainer(
        model=model, args=arguments(job, folder, len(rows)), processing_class=processor,
        train_dataset=Dataset.from_list(rows, features=CONFIGS[job.stage]),
    )  # fmt: skip
    return leave_reference(trainer)


def ours(job: TrainingJob, folder: str) -> Any:
    """Return the trainer as preference.train_pairs sets it up."""
    from datasets import Dataset

    from visrl_train import branches, reference_cache  # not imported by stock
    from visrl_train.collator import PairCollator
    from visrl_train.preference import LossConfig, PreferenceTrainer
    from visrl_train.tokenization import Turns

    pairs, pictures = random_pairs(job.pairs)
    rl2 = job.stage == "rl2"
    terms = LossConfig(BETA, BETA, 0.5, 0.5, "win") if rl2 else LossConfig(BETA)
    model, processor = policy(job)
    turns = Turns(processor, token_limit(model), shares(model))
    joins = None if job.method == "rows" else branches.branching(model, processor)
    collator = PairCollator(turns, PromptSet(), pictures.__getitem__, terms.response_crop, branches=joins)
    rows = [dataclasses.asdict(pair) for pair in pairs]
    trainer = PreferenceTrainer(
        loss=terms, model=model, args=arguments(job, folder, len(rows)), processing_class=processor,
        data_collator=collator, train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    if job.method == "cached":
        trainer.use_reference(reference_cache.load_table(trainer, collator, rows, (job.stage,)))
    return leave_reference(trainer)


def policy(job: TrainingJob) -> tuple[Any, Any]:
    """Return the model with a new adapter on its language model, and its processor."""
    folder = find_model(str(job.model))
    processor = load_processor(folder, job.max_pixels, False)
    return load_policy(folder, Rl2Config(dtype=job.dtype, quantize=job.quantize)), processor


def arguments(job: TrainingJob, folder: str, rows: int) -> Any:
    """Return the arguments: an epoch is one batch, so that each step has the same pairs."""
    from trl import DPOConfig

    return DPOConfig(
        folder, beta=BETA, max_length=None, num_train_epochs=job.steps, per_device_train_batch_size=rows,
        learning_rate=1e-4, lr_scheduler_type="constant", bf16=job.dtype == "bfloat16",
        gradient_checkpointing=job.checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=not torch.cuda.is_available(), remove_unused_columns=False, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip


def leave_reference(trainer: Any) -> Any:
    """Perturb the adapter: a new one changes nothing, and all losses would be log 2."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter += 0.02 * torch.randn(parameter.shape, generator=draw).to(parameter.device)
    return trainer


def tables(timings: list[TrainingTiming]) -> str:
    """Return Markdown tables: time and memory, where the time goes, and whether the losses agree."""
    names = ("shape", "stage", "method", "seconds a step", "stock / this", "CPU seconds", "stock / this", "peak MiB")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    at = {(timed.shape, timed.stage, timed.method): timed for timed in timings}
    for timed in timings:
        first = at.get((timed.shape, timed.stage, "stock"), timed)
        wall = f"{timed.median:.2f} | {first.median / timed.median:.2f}"
        busy = f"{timed.median_cpu:.2f} | {first.median_cpu / timed.median_cpu:.2f}"
        lines.append(f"| {timed.shape} | {timed.stage} | {timed.method} | {wall} | {busy} | {timed.peak_mib:.0f} |")
    lines += ["", "| shape | stage | method | " + " | ".join(PARTS) + " |", "|---" * (3 + len(PARTS)) + "|"]
    for timed in timings:
        spent = " | ".join(f"{timed.parts[name]:.2f}" for name in PARTS)
        lines.append(f"| {timed.shape} | {timed.stage} | {timed.method} | {spent} |")
    lines += ["", "| shape | loss at the first step | stock | ours | difference |", "|---|---|---|---|---|"]
    for shape, name, stocks, other in agreement(at):
        lines.append(f"| {shape} | {name} | {stocks:.6f} | {other:.6f} | {abs(stocks - other):.1e} |")
    return "\n".join(lines)


def agreement(at: dict[tuple[str, str, str], TrainingTiming]) -> list[tuple[str, str, float, float]]:
    """Return (shape, what, stock's, ours). Stock's rl2 is the mean over box and response rows: twice it less rl1's."""
    losses = []
    for shape in dict.fromkeys(key[0] for key in at):
        runs = [at.get((shape, stage, method)) for method in ("stock", "branches") for stage in ("rl1", "rl2")]
        if all(runs):
            rl1, rl2, our1, our2 = (run.losses[0] for run in runs if run)
            response = at[shape, "rl2", "branches"].terms["response/loss"]
            losses += [(shape, "rl1", rl1, our1), (shape, "rl2", rl2, our2)]
            losses.append((shape, "rl2, the response term", 2 * rl2 - rl1, response))
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="qwen,llava")
    parser.add_argument("--stages", default="rl1,rl2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--max-pixels", type=int, default=500_000)
    parser.add_argument("--output", type=Path, default=Path("training.json"))
    args = parser.parse_args()
    load, start, timings = os.getloadavg(), time.perf_counter(), []
    models.stand_in_for_videos()
    with tempfile.TemporaryDirectory() as work:
        for shape in args.shapes.split(","):
            folder = getattr(models, shape)(Path(work) / shape)
            for stage in args.stages.split(","):
                for method in args.methods.split(","):
                    timings.append(
                        alone(
                            measure, TrainingJob(shape, folder, stage, method, args.pairs, args.steps, args.max_pixels)
                        )
                    )
                    print(f"{shape} {stage} {method}: {timings[-1].median:.2f} s a step", file=sys.stderr, flush=True)
    about = {
        "arguments": {name: value for name, value in vars(args).items() if name != "output"},
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": torch.cuda.is_available(),
        "load": [load, os.getloadavg()], "seconds": round(time.perf_counter() - start), "versions": library_versions(),
    }  # fmt: skip
    text = tables(timings)
    args.output.write_text(
        json.dumps({"about": about, "runs": [dataclasses.asdict(run) for run in timings], "tables": text}, indent=1)
    )
    print(text)
    print(f"\n{about['seconds']} s; load average before and after: {load[0]:.1f}, {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
