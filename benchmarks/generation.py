"""Compare the speed of `visrl gen` with plain methods of calling the same model (methods.py).

    python -m benchmarks.generation [--models spotlight,qwen,llava] [--methods plain,twice,factory] [--questions N]

prints two tables in Markdown (the methods; where their time goes) and writes everything with its settings as JSON. Each
method of each model runs in a process of its own, so that its peak memory is its own. All of it takes about ten
minutes on two cores: the slow methods get few questions, every method a multiple of the four image sizes. The model
is loaded, and called once, before the clock starts. On a GPU, `--device cuda --models qwen7b` measures a random model
of the shape and dtype of a real one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import large, methods, models, photos
from benchmarks.engine_profiler import AROUND, MODEL, profile
from benchmarks.process import alone, forget_peak, peak_mib, quiet
from visrl_data.core import versions
from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.prompts import PromptPart
from visrl_data.engines.protocol import Request, Sampling, Usage
from visrl_data.pipeline import factory

METHODS = ("plain", "twice", "factory")
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "qwen": models.qwen, "qwen3": models.qwen3, "qwen35": models.qwen35, "llava": models.llava,
    "qwen7b": large.qwen7b, "llava7b": large.llava7b,
}  # fmt: skip
# Questions of the slow methods, and of the factory. Few enough for the whole to take some ten minutes.
QUESTIONS = {
    "spotlight": (16, 64), "qwen": (4, 16), "qwen3": (4, 16), "qwen35": (4, 16), "llava": (4, 16), "qwen7b": (8, 32),
    "llava7b": (8, 32),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """One method of one model; config holds the model, the questions and every option. attention: of a 7B alone."""

    model: str
    method: str
    config: GenConfig
    threads: int | None
    attention: str = "sdpa"


@dataclass(frozen=True, slots=True)
class GenerationTiming:
    """Wall-clock and CPU seconds; parts: see engine_profiler.py; peak_mib: of the process; gpu_peak_mib: of the GPU."""

    model: str
    method: str
    made: methods.MethodResult
    seconds: float
    cpu_seconds: float
    parts: dict[str, float]
    peak_mib: float
    gpu_peak_mib: float | None

    @property
    def each(self) -> float:
        """Return the seconds per question."""
        return self.seconds / self.made.questions

    @property
    def in_model(self) -> float:
        """Return the share of the time spent in forwards."""
        return sum(self.parts[name] for name in MODEL) / self.seconds


def measure(job: GenerationJob) -> GenerationTiming:
    """Run a job in this process."""
    if job.threads:
        torch.set_num_threads(job.threads)
    if job.model != "spotlight":
        models.stand_in_for_videos()
    forget_peak()
    with tempfile.TemporaryDirectory() as output, large.made_in_place(job.attention):
        built = factory.build(job.config)
        engine: Any = built.actor.engine
        with methods.crutches(built):
            _warm_up(engine)
            started, busy = time.perf_counter(), time.process_time()
            with profile(engine) as profiler:
                made = _make(job.method, built, Path(output) / "run")
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
    gpu = torch.cuda.max_memory_allocated() / 2**20 if engine.device.type == "cuda" else None
    return GenerationTiming(job.model, job.method, made, seconds, busy, profiler.seconds, peak_mib(), gpu)


def _make(method: str, built: factory.Factory, output: Path) -> methods.MethodResult:
    if method == "factory":
        return methods.whole_factory(built, output)
    return methods.plain(built, times=2 if method == "twice" else 1)


def _warm_up(engine: Any) -> None:
    picture = Image.new("RGB", (64, 64))
    parts = (PromptPart("image"), PromptPart("text", "What is this?"))
    engine.generate([Request(parts, (picture,), (0,), Sampling(max_new_tokens=2))])
    engine.usage = Usage()


def make_jobs(args: argparse.Namespace, work: Path) -> list[GenerationJob]:
    """Return the jobs of a call, with their models and images written under `work`."""
    jobs = []
    models.stand_in_for_videos()
    for model in args.models.split(","):
        options: dict[str, Any] = {"device": args.device}
        if model != "spotlight":
            most = args.questions or max(QUESTIONS[model])
            options["model"] = str(FOLDERS[model](work / model))
            options |= {"source": str(photos.questions(work / f"{model}-photos", most)), "constrain": True}
        for method in args.methods.split(","):
            count = args.questions or QUESTIONS[model][method == "factory"]
            jobs.append(GenerationJob(model, method, GenConfig(**options, limit=count), args.threads))
    return jobs


def run(todo: Sequence[GenerationJob], results: Path) -> list[GenerationTiming]:
    """Run each job in a fresh process, one after the other; write `results` after each."""
    timings: list[GenerationTiming] = []
    for job in todo:
        timings.append(alone(measure, job))
        results.write_text(json.dumps(about(todo[: len(timings)], timings), indent=2) + "\n", encoding="utf-8")
        print(f"{job.model} {job.method}: {timings[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    return timings


def agreement(first: GenerationTiming, second: GenerationTiming) -> dict[str, float]:
    """Return, over the candidates of both, the share with the same box, and that with the same of everything."""
    common = sorted(set(first.made.candidates) & set(second.made.candidates))
    pairs = [(first.made.candidates[key], second.made.candidates[key]) for key in common]
    boxes, whole = sum(a[0] == b[0] for a, b in pairs), sum(a == b for a, b in pairs)
    return {"candidates": len(pairs), "same_box": boxes / len(pairs), "same_everything": whole / len(pairs)}


def summary(timed: Sequence[GenerationTiming]) -> dict[str, Any]:
    """Return, by model, the time of each method relative to the factory's, and how far their candidates agree."""
    comparison: dict[str, Any] = {}
    ours = {row.model: row for row in timed if row.method == "factory"}
    for row in timed:
        if row.method != "factory" and row.model in ours:
            mine = ours[row.model]
            cpu = (row.cpu_seconds / row.made.questions) / (mine.cpu_seconds / mine.made.questions)
            ratios = {"times_factory": row.each / mine.each, "times_factory_cpu": cpu}
            comparison.setdefault(row.model, {})[row.method] = ratios | agreement(row, mine)
    return comparison


def tables(timed: Sequence[GenerationTiming]) -> str:
    """Return the results as Markdown tables."""
    comparison = summary(timed)
    names = ("model", "method", "questions", "s a question", "times factory", "same boxes", "calls a question",
             "tokens read a question", "tokens written a question", "in the model", "peak MiB")  # fmt: skip
    rows, parts = [], []
    for row in timed:
        n = row.made.questions
        against = comparison.get(row.model, {}).get(row.method)
        compared = [f"{against['times_factory']:.1f}", f"{against['same_box']:.0%}"] if against else ["", ""]
        rows.append([row.model, row.method, str(n), f"{row.each:.2f}", *compared, f"{row.made.calls / n:.1f}",
                     f"{row.made.prompt_tokens / n:.0f}", f"{row.made.completion_tokens / n:.0f}",
                     f"{row.in_model:.1%}", f"{row.gpu_peak_mib or row.peak_mib:.0f}"])  # fmt: skip
        seconds = [*row.made.stages.values(), *(row.parts[name] for name in (*MODEL, *AROUND))]
        parts.append([row.model, row.method, *(f"{value / n:.3f}" for value in seconds)])
    parts_names = ("model", "method", "focus", "answer", "judge", *MODEL, *AROUND)
    return (
        markdown(names, rows)
        + "\n\nSeconds a question, by stage and by what they went to:\n\n"
        + markdown(parts_names, parts)
    )


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *rows])


def about(todo: Sequence[GenerationJob], timed: Sequence[GenerationTiming]) -> dict[str, Any]:
    """Return the content of the JSON file."""
    rows = []
    for job, row in zip(todo, timed, strict=True):
        record = dataclasses.asdict(row) | {"in_model": row.in_model, "seconds_a_question": row.each}
        del record["made"]["candidates"]
        rows.append(record | {"config": to_toml(job.config), "threads": job.threads or torch.get_num_threads()})
    machine: dict[str, Any] = {"cpus": os.cpu_count(), "load": os.getloadavg(), "versions": versions.library_versions()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    crutches = {"response_tokens": methods.RESPONSE_TOKENS, "listed_boxes": methods.LISTED, "pictures": photos.SIZES}
    return {"machine": machine, "untrained": crutches, "rows": rows, "summary": summary(timed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="spotlight,qwen,llava", help=f"of spotlight, {', '.join(FOLDERS)}")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--questions", type=int, help="for every method; default: few for the slow ones")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path("generation.json"), help="file of the results")
    args = parser.parse_args()
    for option, names in (("models", {"spotlight", *FOLDERS}), ("methods", {*METHODS})):
        if unknown := set(getattr(args, option).split(",")) - names:
            parser.error(f"--{option} {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(names))}")
    quiet()
    with tempfile.TemporaryDirectory() as work:
        print(tables(run(make_jobs(args, Path(work)), args.json)))


if __name__ == "__main__":
    main()
