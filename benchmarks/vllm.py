"""Compare the speed of `visrl gen --engine vllm` with a script on vLLM, and with the transformers engine.

    python -m benchmarks.vllm [--models spotlight,qwen] [--methods script,vllm,transformers] [--questions N]

prints a table in Markdown and writes every round with its settings as JSON. Needs vLLM (docs/engines.md). Each method
has a process of its own, which loads the model once; the methods take turns, R times, with N new questions in each
round, so that another program on the machine slows all of them. vllm and transformers are the whole of `visrl gen`,
run folder, pairs and report included; the script (vllm_chat.py) ends with its pairs in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import methods, models, photos
from benchmarks.generation import markdown
from benchmarks.process import alone, peak_mib, quiet
from visrl_data.core import versions
from visrl_data.core.config import GenConfig
from visrl_data.pipeline import factory

METHODS = ("script", "vllm", "transformers")
QUESTIONS = {"spotlight": 32, "qwen": 16}  # of a round, and of a chunk
OPTIONS: dict[str, Any] = {}  # of every method, besides those of a model
CACHE = 2**30  # bytes of vLLM's key-value cache


@dataclass(frozen=True, slots=True)
class Round:
    """What a method did with its questions of a round. seconds: of the clock and of this process's CPU."""

    model: str
    method: str
    questions: int
    pairs: int
    calls: int
    prompt_tokens: int
    cached_prompt_tokens: int
    seconds: float
    cpu_seconds: float
    peak_mib: float


Generate = Callable[[GenConfig], tuple[int, int, int, int]]  # pairs, calls, prompt tokens, of them cached
_generate: Generate  # of this process's method, once it is loaded


def load(method: str, config: GenConfig, threads: int | None) -> None:
    """Load the model for the rounds that this process will run."""
    global _generate
    quiet()
    if threads:
        torch.set_num_threads(threads)
    _generate = _script(config) if method == "script" else _factory(config)


def run_round(model: str, method: str, config: GenConfig) -> Round:
    """Run the questions that `config` names."""
    started, busy = time.perf_counter(), time.process_time()
    counts = _generate(config)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    assert config.limit
    return Round(model, method, config.limit, *counts, seconds, busy, peak_mib())


def _script(config: GenConfig) -> Generate:
    from benchmarks.vllm_chat import ChatScript, Counts

    script = ChatScript(config)

    def generate(some: GenConfig) -> tuple[int, int, int, int]:
        script.counts = Counts()
        source = factory.open_questions(some)
        pairs = script.pairs([source.read(i) for i in range(len(source))])
        return pairs, *dataclasses.astuple(script.counts)

    return generate


def _factory(config: GenConfig) -> Generate:
    built = factory.build(config)

    def generate(some: GenConfig) -> tuple[int, int, int, int]:
        parts = dataclasses.replace(built, config=some, source=factory.open_questions(some))
        with methods.crutches(parts), tempfile.TemporaryDirectory() as folder:
            made = methods.whole_factory(parts, Path(folder) / "run")
        return made.pairs, made.calls, made.prompt_tokens, made.cached_prompt_tokens

    return generate


def make_configs(model: str, questions: int | None, rounds: int, work: Path) -> tuple[int, dict[str, Any]]:
    """Return how many questions a round has, and a model's options; the untrained one is written under `work`."""
    count = questions or QUESTIONS[model]
    options: dict[str, Any] = OPTIONS | {"chunk_size": count}
    if model == "qwen":
        source = photos.questions(work / "photos", count * (rounds + 1))
        options |= {"model": str(alone(write_qwen, work / model)), "source": str(source), "constrain": True}
    return count, options


def write_qwen(folder: Path) -> Path:
    """Write the untrained model, with the processor of videos for which vLLM asks."""
    from transformers import Qwen2VLVideoProcessor

    Qwen2VLVideoProcessor().save_pretrained(folder)
    models.stand_in_for_videos()  # in a process of its own
    return models.qwen(folder)


def measure(model: str, names: Sequence[str], args: argparse.Namespace, work: Path) -> Iterator[Round]:
    """Yield the rounds of a model's methods, in turn; the first questions, which warm up, are not among them."""
    count, options = make_configs(model, args.questions, args.rounds, work)
    config = GenConfig(**options, device=args.device, limit=count)
    cache = {"kv_cache_memory_bytes": CACHE} if args.device == "cpu" else None
    in_vllm = dataclasses.replace(config, engine="vllm", vllm_options=cache)
    configs = {name: config if name == "transformers" else in_vllm for name in names}
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, spawn, load, (name, config, args.threads)))
            for name, config in configs.items()
        }
        for number in range(args.rounds + 1):
            for name, pool in pools.items():
                config = dataclasses.replace(configs[name], skip=number * count)
                done = pool.submit(run_round, model, name, config).result()
                print(f"{model} {name} {number}: {done.seconds:.1f} s", file=sys.stderr, flush=True)
                if number:
                    yield done


def table(rounds: Sequence[Round]) -> str:
    """Return a row for each method of each model: the sum of its rounds."""
    names = ("model", "method", "questions", "calls a question", "prompt tokens a question", "of them cached",
             "s a question", "CPU s a question", "questions an hour", "pairs an hour", "of a CPU hour: questions",
             "pairs", "peak MiB")  # fmt: skip
    rows = []
    for model, method in dict.fromkeys((done.model, done.method) for done in rounds):
        mine = [done for done in rounds if (done.model, done.method) == (model, method)]
        total = {
            spec.name: sum(getattr(done, spec.name) for done in mine)
            for spec in dataclasses.fields(Round)
            if spec.type in ("int", "float")
        }
        n, read = total["questions"], total["prompt_tokens"]
        cached = "" if method == "transformers" else f"{total['cached_prompt_tokens'] / read:.0%}"  # it doesn't say
        hours, cpu_hours = total["seconds"] / 3600, total["cpu_seconds"] / 3600
        rows.append([model, method, str(n), f"{total['calls'] / n:.1f}", f"{read / n:.0f}",
                     cached, f"{total['seconds'] / n:.2f}",
                     f"{total['cpu_seconds'] / n:.2f}", f"{n / hours:.0f}", f"{total['pairs'] / hours:.0f}",
                     f"{n / cpu_hours:.0f}", f"{total['pairs'] / cpu_hours:.0f}",
                     f"{max(done.peak_mib for done in mine):.0f}"])  # fmt: skip
    return markdown(names, rows)


def about(rounds: Sequence[Round], args: argparse.Namespace) -> dict[str, Any]:
    """Return the content of the JSON file."""
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "versions": versions.library_versions()}
    settings = {"rounds": args.rounds, "threads": args.threads, "device": args.device, "cache": CACHE}
    return {"machine": machine, "settings": settings, "rounds": [dataclasses.asdict(done) for done in rounds]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="spotlight,qwen")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--questions", type=int, help=f"of a round; default: {QUESTIONS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path("vllm.json"), help="file of the rounds")
    args = parser.parse_args()
    for option, known in (("models", set(QUESTIONS)), ("methods", {*METHODS})):
        if unknown := set(getattr(args, option).split(",")) - known:
            parser.error(f"--{option} {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(known))}")
    rounds: list[Round] = []
    for model in args.models.split(","):
        with tempfile.TemporaryDirectory() as work:
            for done in measure(model, args.methods.split(","), args, Path(work)):
                rounds.append(done)
                args.json.write_text(json.dumps(about(rounds, args), indent=2) + "\n", encoding="utf-8")
    print(table(rounds))


if __name__ == "__main__":
    main()
