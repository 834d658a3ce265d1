"""Measure what each optimization of the engine is worth: the factory without one of them, or with one more.

    python -m benchmarks.ablations [--models qwen,llava] [--questions 8] [--first N] [--json FILE]   about ten minutes

Seconds are the processor's, on one thread, so that other work on the machine disturbs them little. What is taken
away is patched from outside; the engine has no switches for it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import generation
from benchmarks.process import alone, quiet
from visrl_data.core import versions
from visrl_data.engines import prefix_cache
from visrl_data.engines import transformers as engine
from visrl_data.engines.batching import batches
from visrl_data.engines.prefix_cache import Prefiller, PrefixCache, TokenizedPrompt
from visrl_data.engines.protocol import Request
from visrl_data.engines.transformers import TransformersEngine


def apart(prompts: Sequence[TokenizedPrompt], image_id: int) -> tuple[list[list[int]], list[int]]:
    """In place of prefix_cache.group_by_prefix: nothing in common."""
    return [[u] for u in range(len(prompts))], [len(prompt.ids) - 1 for prompt in prompts]


def growing(
    self: TransformersEngine, read: PrefixCache, n: int, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of TransformersEngine._decode: a cache that is copied at each token."""
    assert self._prefiller is not None
    rows = [row for row in read.rows for _ in range(n)]
    self._prefiller.set_rope_deltas(read, rows)
    read.cache.reorder_cache(torch.tensor(rows, device=self.device))
    ids, mask = read.ids[rows], read.mask[rows]
    return self.model.generate(input_ids=ids, attention_mask=mask, past_key_values=read.cache, **options), mask


def in_order(requests: Sequence[Request], size: int, sizes_vary: bool = True) -> list[list[int]]:
    """In place of batching.batches: as large as they may be, whatever the lengths."""
    return batches(requests, size, sizes_vary=False)


@contextlib.contextmanager
def boxes_alone() -> Iterator[None]:
    """Share the prompt among the boxes of a question, and nothing else."""
    with mock.patch.object(engine, "accepts_image_features", lambda inner: False):
        yield


@contextlib.contextmanager
def without_feature_cache() -> Iterator[None]:
    """Clear the image features after each batch."""
    read = Prefiller.prefill

    def forgetful(self: Prefiller, *args: Any) -> PrefixCache:
        self.images.clear()
        return read(self, *args)

    with mock.patch.object(Prefiller, "prefill", forgetful):
        yield


ABLATIONS: dict[str, Callable[[], Any]] = {
    "all optimizations": contextlib.nullcontext,
    "shared: the prompt of a question's boxes alone": boxes_alone,
    "without keeping pictures' features": without_feature_cache,
    "without shared beginnings": lambda: mock.patch.object(prefix_cache, "group_by_prefix", apart),
    "without a cache of its final size": lambda: mock.patch.object(TransformersEngine, "_decode", growing),
    "without batches of like length": lambda: mock.patch.object(engine, "batches", in_order),
    "with --score-mode expected": contextlib.nullcontext,
    "with --lazy": contextlib.nullcontext,
}


def measure(job: generation.GenerationJob, ablation: str) -> generation.GenerationTiming:
    """Run a job in this process, with this ablation."""
    config = dataclasses.replace(
        job.config,
        lazy=ablation == "with --lazy",
        score_mode="expected" if ablation == "with --score-mode expected" else "text",
    )
    with ABLATIONS[ablation]():
        return generation.measure(dataclasses.replace(job, config=config))


def table(seconds_by_model: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table: CPU seconds a question, and how many times those with all."""
    names = [
        "",
        *(f"{model}, s a question" for model in seconds_by_model),
        *(f"{model}, times" for model in seconds_by_model),
    ]
    rows = []
    for ablation in next(iter(seconds_by_model.values())):
        seconds = [each[ablation] for each in seconds_by_model.values()]
        times = [each[ablation] / each["all optimizations"] for each in seconds_by_model.values()]
        rows.append([ablation, *(f"{value:.2f}" for value in seconds), *(f"{value:.2f}" for value in times)])
    return generation.markdown(names, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="qwen,llava")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument(
        "--first", type=int, default=len(ABLATIONS), help="so many rows of the table, the largest first"
    )
    parser.add_argument("--json", type=Path, default=Path("ablations.json"), help="file of the results")
    args = parser.parse_args()
    quiet()
    options = argparse.Namespace(
        models=args.models, methods="factory", questions=args.questions, threads=1, device="cpu"
    )
    seconds_by_model: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        for job in generation.make_jobs(options, Path(work)):
            for ablation in [*ABLATIONS][: args.first]:
                timed = alone(measure, job, ablation)
                seconds_by_model.setdefault(job.model, {})[ablation] = timed.cpu_seconds / timed.made.questions
                print(job.model, ablation, f"{seconds_by_model[job.model][ablation]:.2f}", file=sys.stderr, flush=True)
    about = {
        "questions": args.questions,
        "versions": versions.library_versions(),
        "cpu_seconds_a_question": seconds_by_model,
    }
    args.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(table(seconds_by_model))


if __name__ == "__main__":
    main()
