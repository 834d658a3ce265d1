"""`visrl gen`: questions and a model in, a run folder out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visrl_data.core.config import GenConfig

from .calibration_note import note_calibration
from .console import ProgressBars, fetch_models, hide_library_bars, print_result, print_table, say
from .interruption import interruptible
from .options import Json, Mix, parse_options, resolve_mix, with_options
from .push import HubId, Private, Tag, prepare_push, summarize
from .spotlight_note import NOTE, is_out_of_its_world, warn_of_spotlight

if TYPE_CHECKING:
    from visrl_data.executors.generation import RunProgress
    from visrl_data.executors.protocol import Executor
    from visrl_data.executors.shards import Shard
    from visrl_data.publishing.release import PushResult
    from visrl_data.runs.run_folder import Run

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run (default: under runs/).")
]
Options = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Options from a file, a URL, or a published dataset (USER/NAME@TAG); flags win over it.",
    ),
]


@with_options(GenConfig)
def gen(
    output: Output = None,
    config: Options = None,
    mix: Mix = None,
    no_diversity: Annotated[bool, typer.Option("--no-diversity", help="The same as --diversity off.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Time the first chunk, print calls, tokens and hours, and exit.")
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option("--speed", metavar="CALLS/S", help="With --estimate: assume this speed and run nothing."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Make the I-th of N shards in DIR/shard-I-of-N, for `visrl join`."),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", help="Use N GPUs, or N processes on a CPU; same rows."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Use a Ray cluster: auto, HOST:PORT, or local; same rows."),
    ] = None,
    push_to_hub: Annotated[
        bool, typer.Option("--push-to-hub", help="Publish the finished run, as `visrl push` does.")
    ] = False,
    hub_id: HubId = None,
    tag: Tag = None,
    private: Private = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Make scored candidates and preference pairs from questions and their answers.

    With no option: 200 questions of the shipped Spotlight world, on its shipped model, in minutes on a CPU.
    The same command resumes an interrupted run; with a larger --limit it lets the run in --output grow.

    Examples:

      visrl gen

      visrl gen --source photos.jsonl --limit 500 -o runs/photos

      visrl gen --model Qwen/Qwen2.5-VL-7B-Instruct --source user/questions --columns question=q,answers=a

      visrl gen --mix paper:metadata/ --images-root cot_images.tar --limit 1000

      visrl gen --engine openai --base-url http://localhost:8000/v1 --model actor --source photos.jsonl

      visrl gen --source photos.jsonl --push-to-hub --private

      visrl gen --config user/photos@v1.0 --source photos.jsonl

      visrl gen --source photos.jsonl --devices 8 --shard 2/4 -o runs/photos
    """
    from visrl_data.core.errors import UsageError
    from visrl_data.runs.published_options import resolve_options

    if no_diversity:
        options["diversity"] = "off"
    if speed is not None and (not estimate or speed <= 0):
        raise UsageError("--speed needs --estimate and a number of calls a second above 0.")
    resolved = resolve_options(config, parse_options(resolve_mix(options, mix)), say)
    target = output or default_output(resolved)
    if shard and push_to_hub:
        raise UsageError("--shard makes a part of a run: publish the whole run with `visrl push` after `visrl join`.")
    if estimate:
        if shard or devices or ray:
            raise UsageError("--estimate times one process: leave out --shard, --devices and --ray.")
        from .estimate import print_estimate

        warn_of_spotlight([resolved.model], [resolved.source])
        print_estimate(resolved, target, speed, as_json)
        return
    publish = prepare_push(push_to_hub, target, hub_id, tag, private)
    if publish:
        check_license(resolved)
    _generate(resolved, target, Execution(shard, devices, ray), as_json, publish)


@dataclasses.dataclass(frozen=True, slots=True)
class Execution:
    """Which part of a run is made, and by what; no row depends on it."""

    shard: str | None
    devices: int | None
    ray: str | None

    def executor(self, config: GenConfig) -> Executor | None:
        """Return what runs the chunks; None is this process. Raises UsageError."""
        from visrl_data.core.errors import UsageError
        from visrl_data.executors.multiprocess import MultiprocessExecutor
        from visrl_data.executors.ray_cluster import RayExecutor

        if self.devices is not None and self.ray is not None:
            raise UsageError("--devices with --ray: a cluster uses all of its devices. Expected one of the two.")
        if self.ray is not None:
            return RayExecutor(config, self.ray)
        return None if self.devices is None else MultiprocessExecutor(config, self.devices)


def default_output(config: GenConfig) -> Path:
    """Return runs/<source>-<split>-<digest of the options>, by which the same command finds its run again."""
    from visrl_data.core.config import to_toml
    from visrl_data.core.files import default_folder

    digest = hashlib.sha256(to_toml(config).encode()).hexdigest()[:8]
    return default_folder(Path("runs"), Path(config.source).stem or "run", config.split, digest)


def _generate(
    config: GenConfig, output: Path, execution: Execution, as_json: bool, publish: Callable[[], PushResult] | None
) -> None:
    from visrl_data.core.config import to_toml
    from visrl_data.executors.shards import parse_shard
    from visrl_data.runs.calibrations import attach_last
    from visrl_data.runs.run_folder import Run, check_files, check_place

    shard = parse_shard(execution.shard) if execution.shard else None
    target = shard.folder(output) if shard else output
    executor = execution.executor(config)
    is_finished = Run(target).is_finished
    say(
        f"A finished run is in {target}. Checking its options, questions and models"
        if is_finished
        else f"Writing the run to {target}. Reading questions and loading models"
    )
    warn_of_spotlight([config.model], [config.source])
    hide_library_bars()
    check_place(target, to_toml(config))  # before models are fetched and loaded
    started = time.perf_counter()
    if execution.ray is None:  # a cluster's nodes fetch what they need
        fetch_needed(config)
    run, is_new = _run_chunks(config, target, executor, shard)
    if shard:
        _print_shard(run, shard, output, as_json)
        return
    if not is_new:
        check_files(run)
    attach_last(run)
    from visrl_data.report.accounting import lost_before_boxes

    report = run.report()
    if as_json:
        publishes = publish if not lost_before_boxes(report) else None
        published = {"published": dataclasses.asdict(publishes())} if publishes else {}
        print(json.dumps({"run": str(run.path), **report, **published}))
        check_rows(run)
        return
    from visrl_data.report.tables import render

    print_table(render(report))
    check_rows(run)
    how = f"{time.perf_counter() - started:.0f} s." if is_new else "Already complete: nothing was generated."
    say(f"{how} The run is in {run.path}; see {run.path}/report.html")
    say(_next_step(config, run.path, report["yields"]["all"]["pairs"]))
    if publish:
        print_result(summarize(publish()))


def _run_chunks(config: GenConfig, target: Path, executor: Executor | None, shard: Shard | None) -> tuple[Run, bool]:
    """Run the chunks with progress bars. Return the run, and whether it was still unfinished."""
    from visrl_data.executors import generation
    from visrl_data.runs.run_folder import Run

    starts = []
    with ProgressBars("questions") as bars, interruptible(target):

        def on_chunk(step: RunProgress) -> None:
            starts.append(step.done)
            if len(starts) == 1 and (note := note_calibration(Run(target))):
                bars.say(note)
            if step.resumed and step.done == step.resumed:
                bars.say(f"Resuming: {step.resumed} of {step.chunks} chunks done")
            bars.update("questions", min(step.done * config.chunk_size, step.questions), step.questions)
            for event in step.events:
                bars.say(event)

        run = generation.generate(config, target, on_chunk, executor=executor, shard=shard)
    return run, bool(starts)


def fetch_needed(config: GenConfig) -> None:
    """Download the models of the Hub that a run needs, once it is known that its questions can be read."""
    from visrl_data.models.model_folder import is_local
    from visrl_data.pipeline import factory

    engines = {config.model: config.engine, config.critic: config.critic_engine or config.engine}
    models = [m for m, engine in engines.items() if m and engine != "openai"]
    if not all(map(is_local, models)):
        factory.open_questions(config)
    fetch_models(*models, trust_remote_code=config.trust_remote_code)


def check_rows(run: Run) -> None:
    """Raise VisRLError when every row, or every question, of a run was dropped before the actor wrote a box."""
    from visrl_data.core.errors import VisRLError
    from visrl_data.report.accounting import lost_before_boxes
    from visrl_data.report.tables import drop_lines

    report = run.report()
    if what := lost_before_boxes(report):
        examples = [one for one in report["drops"].get("examples", []) if one["stage"] != "filter"]
        lines = "\n".join(f"  {line}" for line in drop_lines(examples))
        raise VisRLError(
            f"{what} of this source came through.\n{lines}\nCorrect them, delete {run.path} and run the same command."
        )


def check_license(config: GenConfig) -> None:
    """Raise UsageError when the first rows state no license, which publishing would ask for after the run."""
    from visrl_data.core.errors import UsageError
    from visrl_data.core.records import Question
    from visrl_data.pipeline.factory import open_questions

    source = open_questions(config)
    rows = [source.read(i) for i in range(min(len(source), config.chunk_size))]
    if any(isinstance(row, Question) and not row.license for row in rows):
        raise UsageError(
            "--push-to-hub: rows of this source state no license, and a published dataset needs one. Add --license ID, "
            "for example --license cc-by-4.0 (--license unknown says openly that you don't know)."
        )


def _next_step(config: GenConfig, run: Path, pairs: int) -> str:
    name = shlex.quote(str(run))
    if pairs:
        return f"Next: visrl train rl1 --data {name}; or other thresholds: visrl filter {name} --sweep"
    if is_out_of_its_world(config.model, config.source):
        return f"No pairs. {NOTE}"
    return f"No pairs: the table of drops says why. Other thresholds: visrl filter {name} --sweep"


def _print_shard(run: Run, shard: Shard, output: Path, as_json: bool) -> None:
    chunks = len(shard.chunks(run.chunks))
    if as_json:
        print(json.dumps({"run": str(run.path), "shard": str(shard), "chunks": chunks}))
        return
    name = shlex.quote(str(output))
    print_result(
        f"Shard {shard} is done: {chunks} of the run's {run.chunks} chunks, in {run.path}\n"
        f"When all {shard.of} are done: visrl join {name}/shard-*-of-{shard.of} -o {name}"
    )
