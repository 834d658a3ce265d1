"""`visrl eval`: models and labelled questions in, one table out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_data.evaluation.config import SCORES, EvalConfig

from .console import ProgressBars, fetch_models, hide_library_bars, print_table, say
from .interruption import interruptible
from .options import ConfigFile, Json, Mix, parse_options, with_options
from .spotlight_note import warn_of_spotlight

_MODEL = r"A Hub id\[@rev], a model or adapter folder, or spotlight. May be repeated; compared with the first one."
_SOURCE = "Questions, as for `visrl gen`, or visual-cot:FILE.json or FOLDER. May be repeated. Default: spotlight."
_SCORE = (
    f"{', '.join(SCORES)}; SET=SCORE for one set. May be repeated. Default: normalized; vqa where annotators answered."
)


@with_options(EvalConfig)
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
    The same command resumes an interrupted evaluation; a model added to the same folder costs its own calls only.

    Examples:

      visrl eval --model spotlight --limit 100

      visrl eval --model models/sft --model models/rl1 --model models/rl2 --source held-out.jsonl --score anls

      visrl eval --model models/rl2 --source visual-cot:benchmark/ --images-root images/ --protocol visual-cot
    """
    from visrl_data.core.config import check_trust, make_config, read_options
    from visrl_data.core.errors import UsageError

    values = parse_options(options)
    options_of_file, where = read_options(config), f"--config {config}"
    check_trust(options_of_file, values, where)
    resolved = make_config(EvalConfig, options_of_file, values, where, command="visrl eval")
    scores = dict(word.rpartition("=")[::2] for word in score or [])  # "" stands for all the others
    if len(scores) < len(score or []):
        raise UsageError(
            f"--score {' --score '.join(score or [])}: a set, or all the others, has two scores; expected one."
        )
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
    from visrl_data.evaluation import evaluate, page
    from visrl_data.evaluation.eval_sources import open_eval_sources
    from visrl_data.evaluation.table import render
    from visrl_data.models.model_folder import is_local

    hide_library_bars()
    target = output or evaluate.default_output(sources, config)
    say(f"Writing the evaluation to {target}")
    warn_of_spotlight(models, sources)
    if config.engine != "openai":
        if not all(map(is_local, models)):  # what can't be asked is refused before a download
            open_eval_sources(sources, config, scores)
        fetch_models(*models, trust_remote_code=config.trust_remote_code)
    with ProgressBars("predictions") as bars, interruptible(target):

        def on_chunk(step: evaluate.EvalProgress) -> None:
            if step.resumed:
                bars.say(f"Resuming: {step.done} of {step.total} predictions done")
            bars.update("predictions", step.done, step.total)

        report = evaluate.evaluate(models, sources, config, target, scores, on_chunk)
    if as_json:
        print(json.dumps({"eval": str(target), **report}))
        return
    print_table(render(report))
    say(f"Predictions side by side: {target}/{page.NAME}")
