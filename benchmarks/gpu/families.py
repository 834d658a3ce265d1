"""Every family's tiny model on the GPU: the CPU's boxes in float32, and all stages in bfloat16."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.parts import Row, attempt
from benchmarks.process import quiet
from tests.helpers.tiny_families import TINY, stand_ins
from tests.tools.family_table import GEN, TRAIN, first_loss, model_folder, pick_thresholds, questions
from visrl_data.core.config import GenConfig
from visrl_data.executors import generation
from visrl_data.runs.run_folder import Run
from visrl_train import rl1, rl2, sft
from visrl_train.config import Rl1Config, Rl2Config, SftConfig

SMALL = ("qwen2_5_vl",)
COLUMNS = ("box_text", "response", "box_score", "response_score")


def rows(small: bool) -> Iterator[Row]:
    """A family each, in the order in which they are done; each in a process of its own, but for the small run."""
    if small:
        yield from map(_row, SMALL)
        return
    workers = min(len(TINY), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, quiet, max_tasks_per_child=1) as pool:
        todo = {pool.submit(_row, model_type): model_type for model_type in TINY}
        for done in as_completed(todo):
            yield attempt({"family": todo[done]}, done.result)


def _row(model_type: str) -> Row:
    return attempt({"family": model_type}, measure, model_type)


def measure(model_type: str) -> Row:
    began = time.perf_counter()
    torch.set_num_threads(1)  # several families at once, and each is tiny
    torch.backends.cudnn.allow_tf32 = False  # convolutions take it otherwise, in float32
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        stand_ins(patch)
        figures = _through(model_type, Path(folder))
    return figures | {"seconds": round(time.perf_counter() - began, 1)}


def _through(model_type: str, work: Path) -> Row:
    """Generation three times, then the stages. Where luck gives no pair, other random weights are tried."""
    source, device = str(questions(work / "photos")), "cuda" if torch.cuda.is_available() else "cpu"

    def generate(device: str, dtype: str) -> Run:
        config = GenConfig(model=str(base), source=source, device=device, dtype=dtype, **GEN)
        return generation.generate(config, work / f"{base.name}-{device}-{dtype}")

    for seed in range(6):
        base = model_folder(model_type, work / f"base{seed}", seed)
        run = generation.generate(GenConfig(model=str(base), source=source, device="cpu", **GEN), work / f"run{seed}")
        pick_thresholds(run.path)
        pairs = run.manifest()["counts"]["pairs"]
        if pairs:
            break
    exact, half = (_candidates(generate(device, dtype)) for dtype in ("float32", "bfloat16"))
    expected = _candidates(run)
    scored = sum(None not in row[2:] for row in half.values())
    figures = {
        "candidates": len(expected),
        "boxes": _same(expected, exact, 1),
        "all": _same(expected, exact, len(COLUMNS)),
        "bf16 candidates": len(half),
        "bf16 scored": scored,
    }
    return figures | _losses(base, source, run if pairs else None, work)


def _candidates(run: Run) -> dict[str, tuple[Any, ...]]:
    table = run.table("candidates", ["question_id", "index", *COLUMNS]).to_pylist()
    return {f"{row['question_id']}/{row['index']}": tuple(row[name] for name in COLUMNS) for row in table}


def _same(expected: dict[str, tuple[Any, ...]], other: dict[str, tuple[Any, ...]], columns: int) -> float:
    """The share of the expected candidates whose first columns the other run has too."""
    same = [key in other and other[key][:columns] == row[:columns] for key, row in expected.items()]
    return sum(same) / len(same) if same else 0.0


def _losses(base: Path, source: str, run: Run | None, work: Path) -> dict[str, float]:
    """First losses of the stages. Those of RL1 and RL2 are log 2 of a fresh adapter, a little off after a step."""
    train: dict[str, Any] = TRAIN | {"device": "auto"}
    figures = {}
    for dtype in ("float32", "bfloat16"):
        warm = sft.train(SftConfig(model=str(base), source=source, dtype=dtype, **train), work / f"sft-{dtype}")
        figures[f"{dtype} sft"] = first_loss(warm)
    if run is not None:
        data = {"data": str(run.path), "dtype": "bfloat16", **train}
        first = rl1.train(Rl1Config(model=str(base), **data), work / "rl1")
        second = rl2.train(Rl2Config(model=str(first), **data), work / "rl2")
        figures |= {"bfloat16 rl1": first_loss(first), "bfloat16 rl2": first_loss(second)}
    return figures
