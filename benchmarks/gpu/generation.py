"""The whole of `visrl gen` on models of seven billion parameters, by the benchmark that measures small ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from benchmarks import generation, large, models, photos
from benchmarks.gpu.parts import Row, attempt
from visrl_data.core.config import GenConfig
from visrl_data.engines.image_processing import picture_tokens
from visrl_data.engines.loading import load_processor
from visrl_data.models.model_folder import find_model
from visrl_train import memory

BATCHES = (32, 96)
QUESTIONS = 32  # two chunks
GIB = 2**30


def qwen(small: bool) -> Iterator[Row]:
    return _rows("qwen7b", large.qwen7b, small)


def llava(small: bool) -> Iterator[Row]:
    return _rows("llava7b", large.llava7b, small)


def _rows(name: str, shape: Callable[[Path], Path], small: bool) -> Iterator[Row]:
    models.stand_in_for_videos()
    with tempfile.TemporaryDirectory() as work:
        folder = tiny(name, Path(work)) if small else shape(Path(work) / name)
        attentions = ["sdpa"] + ["flash_attention_2"] * (is_flash_attn_2_available() and not small)
        options: dict[str, Any] = {"chunk_size": 1, "attempts": 1} if small else {}
        sizes = [(120, 90), (90, 120)] if small else photos.SIZES
        count = 2 if small else QUESTIONS
        source = photos.questions(Path(work) / "photos", count, sizes)
        for attention in attentions:
            for batch in BATCHES:
                config = GenConfig(
                    model=str(folder), source=str(source), limit=count, constrain=True, batch_size=batch, **options
                )
                yield attempt({"attention": attention, "batch": batch}, measure, name, config, attention, max(sizes))


def tiny(name: str, work: Path) -> Path:
    """A tiny model in place of a large one."""
    from tests.tools.family_table import model_folder

    return model_folder({"qwen7b": "qwen2_5_vl", "llava7b": "llava"}[name], work / name, 0)


def measure(name: str, config: GenConfig, attention: str, largest: tuple[int, int]) -> Row:
    timed = generation.measure(generation.GenerationJob(name, "factory", config, None, attention))
    run = timed.made
    warm = run.chunks[-1]
    peak = None if timed.gpu_peak_mib is None else timed.gpu_peak_mib / 1024
    return {
        "questions": run.questions,
        "calls/question": run.calls / run.questions,
        "first, s": run.chunks[0],
        "warm, s": warm,
        "questions/s": min(config.chunk_size, run.questions) / warm,
        "read tokens/s": run.prompt_tokens / timed.seconds,
        "written tokens/s": run.completion_tokens / timed.seconds,
        "in the model": round(timed.in_model, 3),
        **{part: round(seconds / timed.seconds, 3) for part, seconds in timed.parts.items()},
        "GiB": peak,
        "estimate": estimate(config, largest) / GIB,
        "halved": len(run.events),
    }


def estimate(config: GenConfig, largest: tuple[int, int]) -> int:
    """As `visrl doctor` reckons, with this run's options and its largest picture."""
    folder = find_model(config.model)
    processor = load_processor(folder, config.max_pixels, False)
    number = 2 if torch.cuda.is_available() else 4
    tokens = picture_tokens(processor, photos.photo(0, largest)) or 0
    return memory.generation(memory.shape_of(folder, 16), number, tokens, config)
