"""`visrl calibrate`: is this critic any good on these questions?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visrl_data.calibration.config import CalibrationConfig
from visrl_data.core.config import GenConfig

from .console import ProgressBars, hide_library_bars, print_table, say
from .interruption import interruptible
from .options import ConfigFile, Json, Mix, parse_options, resolve_mix, with_options
from .spotlight_note import warn_of_spotlight

if TYPE_CHECKING:
    from visrl_data.calibration.calibrate import CalibrationProgress


@with_options(CalibrationConfig)
def calibrate(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the calibration (default: under calibrations/)."),
    ] = None,
    config: ConfigFile = None,
    mix: Mix = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Measure how far a critic can be trusted on your own questions, before a run is paid for; no label is needed.

    The critic is asked about cases whose verdict is known: the right answer in several forms, wrong ones, an empty
    reply, orders to the judge; blank crops, crops of other images, and with gold boxes also the right crop.
    Give the options of the run: --model, --critic, --source, prompts and thresholds. `visrl gen` then shows the result.
    The same command resumes; other thresholds need no new call.

    Examples:

      visrl calibrate

      visrl calibrate --model Qwen/Qwen2.5-VL-7B-Instruct --source questions.jsonl

      visrl calibrate --config runs/photos/config.toml

      visrl calibrate --critic-engine openai --critic-base-url https://critic.example/v1 --critic big-model
    """
    from visrl_data.core.config import check_trust, make_config, read_options

    values = parse_options(resolve_mix(options, mix))
    options_of_file, where = read_options(config), f"--config {config}"
    check_trust(options_of_file, values, where)
    own = _without_others(options_of_file)
    _run(make_config(CalibrationConfig, own, values, where, "visrl calibrate"), output, as_json)


def _without_others(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only `visrl gen` has, so that the config.toml of a run can be given as it is."""
    names, of_gen = ({spec.name for spec in dataclasses.fields(kind)} for kind in (CalibrationConfig, GenConfig))
    return {name: value for name, value in options.items() if name in names or name not in of_gen}


def _run(config: CalibrationConfig, output: Path | None, as_json: bool) -> None:
    from visrl_data.calibration import calibrate, page
    from visrl_data.calibration.table import render

    from .gen import fetch_needed

    hide_library_bars()
    gen, target = config.gen_config(), output or calibrate.default_output(config)
    say(f"Writing the calibration to {target}. Reading questions and loading the critic")
    warn_of_spotlight([gen.critic or gen.model], [gen.source])
    fetch_needed(gen)
    steps: list[calibrate.CalibrationProgress] = []
    with ProgressBars("verdicts") as bars, interruptible(target):

        def on_chunk(step: calibrate.CalibrationProgress) -> None:
            if not steps:
                bars.say(_plan(step))
            steps.append(step)
            bars.update("verdicts", step.done, step.total)
            for event in step.events:
                bars.say(event)

        report = calibrate.calibrate(config, target, on_chunk)
    if as_json:
        print(json.dumps({"calibration": str(target), **report}))
        return
    print_table(render(report))
    say(f"{'' if steps else 'Already complete: nothing was asked. '}The cases to look at: {target}/{page.NAME}")


def _plan(step: CalibrationProgress) -> str:
    """Say what will be asked, before it is."""
    dropped = f" ({step.dropped} more rows were dropped)" if step.dropped else ""
    resumed = f" Resuming: {step.done:,} of them done." if step.done else ""
    return f"{step.questions} questions{dropped}: {step.total:,} calls to the critic.{resumed}"
