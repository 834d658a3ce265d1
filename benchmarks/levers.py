"""What each lever of the engine is worth: the factory with one of them taken away, or one more.

    python -m benchmarks.levers [--models qwen,llava] [--questions 8] [--json FILE]      about ten minutes

Seconds are the processor's, on one thread, so that other work on the machine disturbs them little. What is taken
away is put out of action from outside; the engine has no switches for it.
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
    read.cache.batch_select_indices(torch.tensor(rows, device=self.device))
    ids, mask = read.ids[rows], read.mask[rows]
    return self.model.generate(input_ids=ids, attention_mask=mask, past_key_values=read.cache, **options), mask


def in_order(requests: Sequence[Request], size: int, sizes_vary: bool = True) -> list[list[int]]:
    """In place of batching.batches: as large as they may be, whatever the lengths."""
    return batches(requests, size, sizes_vary=False)


@contextlib.contextmanager
def boxes_alone() -> Iterator[None]:
    """The boxes of a question share their prompt; nothing else is shared."""
    with mock.patch.object(engine, "accepts_image_features", lambda inner: False):
        yield


@contextlib.contextmanager
def looked_at_anew() -> Iterator[None]:
    """Features are forgotten after each batch."""
    read = Prefiller.prefill

    def forgetful(self: Prefiller, *args: Any) -> PrefixCache:
        self.clear()
        return read(self, *args)

    with mock.patch.object(Prefiller, "prefill", forgetful):
        yield


LEVERS: dict[str, Callable[[], Any]] = {
    "all of them": contextlib.nullcontext,
    "shared: the prompt of a question's boxes alone": boxes_alone,
    "without keeping pictures' features": looked_at_anew,
    "without shared beginnings": lambda: mock.patch.object(prefix_cache, "group_by_prefix", apart),
    "without a cache of its final size": lambda: mock.patch.object(TransformersEngine, "_decode", growing),
    "without batches of like length": lambda: mock.patch.object(engine, "batches", in_order),
    "with --score-mode expected": contextlib.nullcontext,
    "with --lazy": contextlib.nullcontext,
}


def measure(job: generation.Job, lever: str) -> generation.Timed:
    """A job in this process, with this lever."""
    config = dataclasses.replace(
        job.config,
        lazy=lever == "with --lazy",
        score_mode="expected" if lever == "with --score-mode expected" else "text",
    )
    with LEVERS[lever]():
        return generation.measure(dataclasses.replace(job, config=config))


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: seconds of the processor a question, and how many times those of all levers."""
    names = ["", *(f"{model}, s a question" for model in found), *(f"{model}, times" for model in found)]
    rows = []
    for lever in LEVERS:
        seconds = [each[lever] for each in found.values()]
        times = [each[lever] / each["all of them"] for each in found.values()]
        rows.append([lever, *(f"{value:.2f}" for value in seconds), *(f"{value:.2f}" for value in times)])
    return generation.markdown(names, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="qwen,llava")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path("levers.json"), help="file of the results")
    given = parser.parse_args()
    quiet()
    asked = argparse.Namespace(models=given.models, ways="factory", questions=given.questions, threads=1, device="cpu")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        for job in generation.jobs(asked, Path(work)):
            for lever in LEVERS:
                timed = alone(measure, job, lever)
                found.setdefault(job.model, {})[lever] = timed.cpu_seconds / timed.made.questions
                print(job.model, lever, f"{found[job.model][lever]:.2f}", file=sys.stderr, flush=True)
    about = {"questions": given.questions, "versions": versions.library_versions(), "cpu_seconds_a_question": found}
    given.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
