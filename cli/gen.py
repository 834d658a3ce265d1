"""`visrl gen`: questions and a model in, a run folder out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import Bars, Interrupted, fetch_models, hush_libraries, say
from .options import ConfigFile, Json, Mix, Output, gen_config, takes_gen_options, with_mix
from .push import HubId, Private, Tag, afterwards, summary


@takes_gen_options
def gen(
    output: Output = None,
    config: ConfigFile = None,
    mix: Mix = None,
    no_diversity: Annotated[bool, typer.Option("--no-diversity", help="The same as --diversity off.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Time the first chunk, print calls, tokens and hours, and stop.")
    ] = False,
    speed: Annotated[
        float | None, typer.Option("--speed", metavar="CALLS/S", help="With --estimate: this speed, run nothing.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Make the I-th of N parts in DIR/shard-I-of-N, for `visrl join`."),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", help="Work on N GPUs, or in N processes on a CPU; same rows."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Work on a Ray cluster: auto, HOST:PORT, or local; same rows."),
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
    Started again after an interruption it goes on where it stopped.

    Examples:

      visrl gen

      visrl gen --source photos.jsonl --limit 500 -o runs/photos

      visrl gen --model Qwen/Qwen2.5-VL-7B-Instruct --source user/questions --columns question=q,answers=a

      visrl gen --mix paper:metadata/ --images-root cot_images.tar --limit 1000

      visrl gen --source photos.jsonl --push-to-hub --private

      visrl gen --source photos.jsonl --devices 8 --shard 2/4 -o runs/photos
    """
    from visrl_data.core.errors import UsageError

    if no_diversity:
        options["diversity"] = "off"
    if speed is not None and (not estimate or speed <= 0):
        raise UsageError("--speed needs --estimate and a number of calls a second above 0.")
    resolved = gen_config(config, with_mix(options, mix))
    target = output or default_output(resolved)
    if shard and push_to_hub:
        raise UsageError("--shard makes a part of a run: publish the whole with `visrl push` after `visrl join`.")
    if estimate:
        if shard or devices or ray:
            raise UsageError("--estimate times one process on the whole: leave --shard, --devices and --ray out.")
        from .estimate import print_estimate

        print_estimate(resolved, target, speed, as_json)
        return
    publish = afterwards(push_to_hub, target, hub_id, tag, private)
    _generate(resolved, target, Spread(shard, devices, ray), as_json, publish)


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """Where the work goes; no row depends on it."""

    shard: str | None
    devices: int | None
    ray: str | None

    def executor(self, config: Any) -> Any:
        """Who makes the chunks; None is this process. Raises UsageError."""
        from visrl_data.core.errors import UsageError
        from visrl_data.executors.multiprocess import MultiprocessExecutor
        from visrl_data.executors.ray_cluster import RayExecutor

        if self.devices is not None and self.ray is not None:
            raise UsageError("--devices with --ray: a cluster's devices are all used. Expected one of them.")
        if self.ray is not None:
            return RayExecutor(config, self.ray)
        return None if self.devices is None else MultiprocessExecutor(config, self.devices)


def default_output(config: Any) -> Path:
    """runs/<source>-<split>-<digest of the options>: the same command finds its run again."""
    from visrl_data.core.config import to_toml

    digest = hashlib.sha256(to_toml(config).encode()).hexdigest()[:8]
    return Path("runs") / f"{Path(config.source).stem or 'run'}-{config.split}-{digest}"


def _generate(config: Any, output: Path, spread: Spread, as_json: bool, publish: Callable[[], Any] | None) -> None:
    from rich.console import Console

    from visrl_data.executors.shards import parse_shard

    shard = parse_shard(spread.shard) if spread.shard else None
    target = shard.folder(output) if shard else output
    executor = spread.executor(config)
    say(f"The run goes to {target}. Reading questions and loading models")
    from visrl_data.executors import generation
    from visrl_data.report.tables import render

    hush_libraries()
    started = time.perf_counter()
    if spread.ray is None:  # a cluster's nodes fetch what they need
        fetch_needed(config)
    with Bars("questions") as bars:

        def on_chunk(step: generation.Progress) -> None:
            if step.resumed and step.done == step.resumed + 1:
                bars.say(f"Going on: {step.resumed} of {step.chunks} chunks were there already.")
            bars.update("questions", min(step.done * config.chunk_size, step.questions), step.questions)
            for event in step.events:
                bars.say(event)

        try:
            run = generation.generate(config, target, on_chunk, executor=executor, shard=shard)
        except KeyboardInterrupt:
            raise Interrupted(
                f"Interrupted. Finished chunks are kept in {target}; run the same command again to go on."
            ) from None
    if shard:
        _tell_shard(run, shard, output, as_json)
        return
    report = run.report()
    if as_json:
        published = {"published": dataclasses.asdict(publish())} if publish else {}
        print(json.dumps({"run": str(run.path), **report, **published}))
        return
    Console().print(render(report))
    say(f"{time.perf_counter() - started:.0f} s. The run is in {run.path}; look at {run.path}/report.html")
    say(_next(config, run.path, report["yields"]["all"]["pairs"]))
    if publish:
        print(summary(publish()))


def fetch_needed(config: Any) -> None:
    """Download models of the Hub, if there are any, once it is known that the questions can be read."""
    from visrl_data.models.model_folder import ALIASES
    from visrl_data.pipeline import factory

    engines = {config.model: config.engine, config.critic: config.critic_engine or config.engine}
    wanted = [m for m, engine in engines.items() if m and engine != "openai" and m not in ALIASES]
    if any(not Path(model).is_dir() for model in wanted):
        factory.open_questions(config)
    fetch_models(*wanted, trust_remote_code=config.trust_remote_code)


def _next(config: Any, run: Path, pairs: int) -> str:
    if pairs:
        return f"Next: visrl train rl1 --data {run}; or other thresholds: visrl filter {run} --sweep"
    if config.model == "spotlight" and config.source != "spotlight":
        return (
            "No pair. Spotlight is a small model of its own drawn world and knows nothing of other pictures. Name a "
            "model with --model; `visrl doctor --model ID` says what one takes."
        )
    return f"No pair: the table of drops says why. Other thresholds: visrl filter {run} --sweep"


def _tell_shard(run: Any, shard: Any, output: Path, as_json: bool) -> None:
    made = len(shard.chunks(run.chunks))
    if as_json:
        print(json.dumps({"run": str(run.path), "shard": str(shard), "chunks": made}))
        return
    print(
        f"Shard {shard} is done: {made} of the run's {run.chunks} chunks, in {run.path}\n"
        f"When all {shard.of} are: visrl join {output}/shard-*-of-{shard.of} -o {output}"
    )
