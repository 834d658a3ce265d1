"""`visrl ask`: a picture and a question in; box, crop and response out. `--web` opens a page for the same."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.evaluation.config import AskConfig

from .console import fetch_models, hide_library_bars, print_result, say
from .options import Json, parse_options, with_options
from .spotlight_note import warn_of_spotlight

if TYPE_CHECKING:
    from visrl_data.core.records import Question
    from visrl_data.evaluation.ask import AskResult
    from visrl_data.evaluation.eval_models import EvalModel
    from visrl_data.evaluation.inference import ModelOutput

_PORT = 7860
_WORDS = "Pictures, then the question. Default: a scene of Spotlight and its question."
_MODEL = r"A Hub id\[@rev], a model or adapter folder, or spotlight (the default). May be repeated."
_OUTPUT = "Write the picture with box and crop drawn: a .png, .jpg or .webp file; a folder where there are several."


@with_options(AskConfig)
def ask(
    words: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE... QUESTION]", help=_WORDS)] = None,
    model: Annotated[list[str] | None, typer.Option("--model", metavar="ID", help=_MODEL)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE|DIR", help=_OUTPUT)] = None,
    with_crop: Annotated[bool, typer.Option("--with-crop", help="Put the enlarged crop beside that picture.")] = False,
    as_json: Json = False,
    web: Annotated[
        bool, typer.Option("--web", help="Open a page for it on this machine alone. Needs: pip install '.\\[web]'.")
    ] = False,
    port: Annotated[int | None, typer.Option("--port", metavar="N", help=f"Port of --web (default: {_PORT}).")] = None,
    **options: Any,
) -> None:
    """Ask a model about a picture: the box where it looks, the crop, and the answer from it.

    Where no box can be read from its reply, it answers from the whole image, and the result says so.

    Examples:

      visrl ask

      visrl ask car.jpg "What is the plate number?" --model Qwen/Qwen2.5-VL-7B-Instruct -o car-box.png

      visrl ask photos/1.jpg photos/2.jpg "How many people are there?" --model models/rl2 --json

      visrl ask --web --model models/sft --model models/rl2
    """
    config = AskConfig(**parse_options(options))
    models = model or ["spotlight"]
    if len(set(models)) < len(models):
        raise UsageError(f"--model {next(m for m in models if models.count(m) > 1)}: given twice.")
    if web:
        if words or output or with_crop or as_json:
            raise UsageError("--web takes pictures and questions on its page. Leave them, -o and --json out.")
        _serve(models, config, _PORT if port is None else port)
        return
    if port is not None:
        raise UsageError("--port needs --web.")
    if with_crop and output is None:
        raise UsageError("--with-crop needs -o FILE, the picture to put the crop beside.")
    _ask(*_parse_words(words or []), models, config, output, with_crop, as_json)


def _parse_words(words: list[str]) -> tuple[list[Path], str]:
    """Return pictures and question; none of both for the example."""
    if not words:
        return [], ""
    *paths, text = words
    if not paths or Path(text).is_file():
        raise UsageError(f'{text}: expected pictures, and after them a question: visrl ask photo.jpg "What is this?"')
    return [Path(path) for path in paths], text


def _ask(
    paths: list[Path],
    text: str,
    models: list[str],
    config: AskConfig,
    output: Path | None,
    with_crop: bool,
    as_json: bool,
) -> None:
    from visrl_data.evaluation import ask, ask_picture

    names = [str(path) for path in paths] or ["scene"]
    targets = ask_picture.picture_paths(output, names, models) if output else None
    questions, failures = _read(paths, text) if paths else ({0: ask.draw_example()}, {})
    warn_of_spotlight(models, map(str, paths))
    eval_models = _find(models, config)
    answers: list[AskResult] = []
    for j, model in enumerate(eval_models):
        say(f"Loading {model.name}")
        role = ask.load(model, config)
        for i, question in questions.items():
            result = ask.answer_question(question, role, model, config)
            answers.append(ask.as_answer(question, model, result))
            if result.response is None:
                failures[question.id] = ask.describe_state(result)
            if not as_json:
                _print_answer(question, model, result, len(models) > 1)
            if targets is not None:
                ask_picture.write_picture(targets[i][j], ask_picture.draw_answer(question, result, with_crop))
                say(f"Picture written: {targets[i][j]}")
        del role  # before the next model is loaded
    if as_json:
        about = [ask.about_model(model) for model in eval_models]
        failed = [{"image": name, "error": error} for name, error in failures.items()]
        [asked] = {question.question for question in questions.values()}
        print(json.dumps({"question": asked, "models": about, "answers": answers, "failed": failed}))
    elif not paths and not output:
        say('The scene: visrl ask -o scene.png. Your own: visrl ask photo.jpg "What is this?" --model ID')
    if failures:
        raise VisRLError(_summary(failures, len(names)))


def _read(paths: list[Path], text: str) -> tuple[dict[int, Question], dict[str, str]]:
    """Return the questions by the place of their picture, and what is wrong with the others, by name.

    Raises VisRLError when none is left.
    """
    from visrl_data.evaluation.ask import read_question

    questions: dict[int, Question] = {}
    failures: dict[str, str] = {}
    for place, path in enumerate(paths):
        try:
            questions[place] = read_question(path, text)
        except UsageError:
            raise
        except VisRLError as error:
            failures[str(path)] = str(error)
            if len(paths) > 1:
                say(f"visrl: {error}")
    if not questions:
        raise VisRLError(_summary(failures, len(paths)))
    return questions, failures


def _summary(failures: dict[str, str], total: int) -> str:
    if total == 1:
        return next(iter(failures.values()))
    return f"{len(failures)} of {total} pictures without an answer: {', '.join(failures)}."


def _find(models: list[str], config: AskConfig) -> list[EvalModel]:
    from visrl_data.evaluation.ask import find_models

    hide_library_bars()
    if config.engine != "openai":
        fetch_models(*models, trust_remote_code=config.trust_remote_code)
    return find_models(models, config)


def _print_answer(question: Question, model: EvalModel, result: ModelOutput, with_model: bool) -> None:
    from visrl_data.evaluation.ask import box_pixels, describe_state

    size = f"{question.width} x {question.height} pixels"
    print_result(f"{question.id} ({size})" + (f", {model.name}" if with_model else ""))
    if question.answers:
        print_result(f"  question  {question.question}")
    if result.box is not None and result.crop is not None:
        box = ", ".join(f"{value:g}" for value in box_pixels(result.box, question))
        print_result(f"  box       {box}")
        print_result(f"  crop      {', '.join(map(str, result.crop))}")
    elif result.state != "ok":
        print_result(f"  box       {describe_state(result)}")
    if result.response is not None:
        print_result("  response  " + result.response.strip().replace("\n", "\n            "))
    if question.answers:
        print_result(f"  expected  {' or '.join(question.answers)}")


def _serve(models: list[str], config: AskConfig, port: int) -> None:
    from visrl_data.evaluation import ask_page

    ask_page.check_installed()
    eval_models = _find(models, config)
    with contextlib.suppress(KeyboardInterrupt):  # the way to close it
        ask_page.serve(eval_models, config, port, say)
    say("Closed. What was uploaded is removed.")
