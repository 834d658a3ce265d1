"""The parts of the GPU benchmark, and the process that each runs in.

    python -m benchmarks.gpu.parts NAME FILE [--small]

runs one part and writes FILE, a line of JSON for each row as soon as there is one: first a row about the machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """function: module.name of what yields the rows; seconds: the most it may take of nine minutes."""

    function: str
    seconds: float
    about: str


_WORK = (
    "Random weights write no valid boxes and never stop, so boxes are held to a list of 200 valid ones a picture, "
    "scores to their form (`--constrain`), and responses are cut at 8 tokens: the work is that of a model that writes "
    "a box, a short phrase and a score. `warm` is the last chunk of 16 questions, `first` the one that also warms up; "
    "GiB is the peak of the run, the estimate that of `visrl doctor` at this batch size, for the largest picture."
)
_STEPS = (
    "A step is {pairs} pairs with pictures of three sizes, LoRA of rank 16 that has left its reference, in bfloat16; "
    "the first is dropped, the median counts. `stock` is TRL's `DPOTrainer` with its own collator on the published "
    "rows, in a process of its own. The loss is that of the first step. GiB is the peak of the steps, weights "
    "included, the estimate that of `visrl doctor`, which reckons with checkpointing."
)
# What says most comes first: all of them take longer than nine minutes.
PARTS = {
    "generation-qwen": Part("generation.qwen", 110, f"`visrl gen` on Qwen2.5-VL-7B's shape, N = 3. {_WORK}"),
    "training": Part("training.rows", 190, f"RL1 and RL2 on Qwen2.5-VL-7B's shape. {_STEPS.format(pairs=3)}"),
    "losses": Part(
        "training.losses", 180,
        "The first loss of RL1 and of RL2 on Qwen2.5-VL-7B's shape in float32, where rounding hides nothing: ours and "
        "TRL's.",
    ),
    "families": Part(
        "families.rows", 180,
        "Every family, tiny and untrained: the same questions in float32 on the CPU and on the GPU (TF32 off), and in "
        "bfloat16 on the GPU; then SFT, RL1 and RL2 on the GPU. `boxes` and `all` are shares of the CPU's candidates "
        "with the same box, and with the same box, response and scores.",
    ),
    "generation-llava": Part("generation.llava", 80, f"`visrl gen` on LLaVA-1.5-7B's shape, N = 3. {_WORK}"),
    "quantized": Part("training.quantized", 45, "RL2 on Qwen2.5-VL-7B's shape, the frozen weights in 4 bits (QLoRA)."),
    "decoding": Part(
        "decoding.rows", 70,
        "One token for each row of a batch, Qwen2.5-VL-7B's shape, 1,100 tokens in a cache of fixed size: as the "
        "engine decodes (`eager`), the same step as a CUDA graph, and compiled (`reduce-overhead`). Sampling and "
        "grammars are left out.",
    ),
    "spotlight": Part(
        "spotlight.rows", 90,
        "The recipe that made Spotlight, every stage for a few seconds on the GPU, then on one thread of the CPU: "
        "median seconds of a step, and the minutes that the whole stage would take.",
    ),
}  # fmt: skip


def attempt(key: Row, measure: Callable[..., Row], *arguments: Any) -> Row:
    """A row: key and what measure(*arguments) returns, or why there is nothing."""
    try:
        return key | measure(*arguments)
    except Exception as error:  # whatever it was, it costs this row alone
        traceback.print_exc()
        return key | {"failed": reason(str(error) or type(error).__name__)}


def reason(text: str) -> str:
    """The last line that says something, short enough for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200].replace("|", "/") if lines else "no word"


def machine() -> Row:
    """What the figures were measured on."""
    import torch

    from visrl_data.core.versions import library_versions

    about: Row = {"cpus": os.cpu_count(), "device": "CPU", "versions": library_versions()}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        about |= {"device": torch.cuda.get_device_name(), "gib": round(total / 2**30, 1), "cuda": torch.version.cuda}
        about["free_gib"] = round(free / 2**30, 1)
    return about


def rows_of(name: str, small: bool) -> Iterator[Row]:
    module, _, function = PARTS[name].function.partition(".")
    run = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)
    yield from run(small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    from benchmarks.process import quiet

    quiet()
    with options.file.open("w", encoding="utf-8") as out:
        print(json.dumps({"machine": machine()}), file=out, flush=True)
        for row in rows_of(options.name, options.small):
            print(json.dumps(row), file=out, flush=True)
            print(f"{options.name}: {row}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
