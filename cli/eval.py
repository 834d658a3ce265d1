"""`visrl eval`: models and labelled questions in, one table out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_data.evaluation.config import EvalConfig

from .options import ConfigFile, Json, Mix, given_options, takes_options

_MODEL = (
    r"A model: a Hub id\[@rev], a model or adapter folder, or spotlight. May be repeated; the first is compared with."
)
_SOURCE = "Questions, as for `visrl gen`, or visual-cot:FILE.json or FOLDER. May be repeated. Default: spotlight."
_SCORE = "exact, normalised, anls or critic; SET=SCORE for one set. May be repeated. Default: normalised."


@takes_options(EvalConfig)
def eval(
    model: Annotated[list[str] | None, typer.Option("--model", metavar="ID", help=_MODEL)] = None,
    source: Annotated[list[str] | None, typer.Option("--source", metavar="SOURCE", help=_SOURCE)] = None,
    mix: Mix = None,
    score: Annotated[list[str] | None, typer.Option("--score", metavar="[SET=]SCORE", help=_SCORE)] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the evaluation (default: under evals/)."),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Measure models on questions with known answers: answer score, box accuracy, format validity.

    Each model looks (a box), then answers from the crop; the original model without a box is the baseline.
    Started again after an interruption it goes on; a model added to the same folder costs its own calls only.

    Examples:

      visrl eval --model spotlight --limit 100

      visrl eval --model models/sft --model models/rl1 --model models/rl2 --source held-out.jsonl --score anls

      visrl eval --model models/rl2 --source visual-cot:benchmark/ --images-root images/ --protocol visual-cot
    """
    from visrl_data.config import make_config, read_options
    from visrl_data.errors import UsageError

    given = given_options(options)
    resolved = make_config(EvalConfig, read_options(config), given, where=f"--config {config}", command="visrl eval")
    scores = dict(word.rpartition("=")[::2] for word in score or [])  # "" stands for all the others
    if len(scores) < len(score or []):
        raise UsageError(f"--score {' --score '.join(score or [])}: a set, or all the others, is given two scores.")
    sources = [*(source or []), *([f"mix:{mix}"] if mix else [])]
    _run(model or ["spotlight"], sources or ["spotlight"], resolved, scores, output, as_json)


def _run(
    models: list[str],
    sources: list[str],
    config: EvalConfig,
    scores: dict[str, str],
    output: Path | None,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from transformers.utils import logging

    from visrl_data.evaluation import evaluate, page
    from visrl_data.evaluation.table import render

    logging.disable_progress_bar()
    target = output or evaluate.default_output(sources, config)
    stderr = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    stderr.print(f"The evaluation goes to {target}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=stderr) as bar:
        task = bar.add_task("questions", total=None)

        def on_chunk(step: evaluate.Progress) -> None:
            if step.resumed:
                bar.console.print(f"Going on: {step.done} of {step.total} predictions were there already.")
            bar.update(task, description=step.model, total=step.total, completed=step.done)

        try:
            report = evaluate.evaluate(models, sources, config, target, scores, on_chunk)
        except KeyboardInterrupt:
            stderr.print(f"Interrupted. Finished chunks are kept in {target}; run the same command again to go on.")
            sys.exit(130)
    if as_json:
        print(json.dumps({"eval": str(target), **report}))
        return
    console = Console()
    console.print(render(report))
    stderr.print(f"Predictions side by side: {target}/{page.NAME}")
