"""The whole of `visrl gen` on models of seven billion parameters, by the benchmark that measures small ones."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
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
CROP = 0.6


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
                yield attempt({"attention": attention, "batch": batch}, measure, name, config, attention, sizes)


def tiny(name: str, work: Path) -> Path:
    """A tiny model in place of a large one."""
    from tests.tools.family_table import model_folder

    return model_folder({"qwen7b": "qwen2_5_vl", "llava7b": "llava"}[name], work / name, 0)


def measure(name: str, config: GenConfig, attention: str, sizes: Sequence[tuple[int, int]]) -> Row:
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
        "estimate": estimate(config, sizes, 2 if torch.cuda.is_available() else 4) / GIB,
        "halved": len(run.events),
    }


def estimate(config: GenConfig, sizes: Sequence[tuple[int, int]], number: int) -> int:
    """Return the bytes that `visrl doctor` estimates with a run's options and pictures. number: bytes of one.

    Pictures of one length run together (engines/batching.py), so the largest batch of each length counts. The boxes of
    methods.listed_grammar have at most CROP of a picture's sides.
    """
    folder = find_model(config.model)
    processor = load_processor(folder, config.max_pixels, False)
    shape = memory.shape_of(folder, 16)

    def tokens(size: tuple[int, int], scale: float) -> int:
        return picture_tokens(processor, Image.new("RGB", (round(scale * size[0]), round(scale * size[1]))))

    lengths = [tokens(size, 1) for size in sizes]
    estimates = []
    for size, picture in zip(sizes, lengths, strict=True):
        alike = -(-config.chunk_size * lengths.count(picture) // len(lengths))
        chunk = dataclasses.replace(config, chunk_size=alike)
        estimates.append(memory.generation(shape, number, picture, tokens(size, CROP), chunk))
    return max(estimates)
