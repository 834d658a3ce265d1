"""How every command talks: --quiet and --verbose, progress, and what becomes of an interruption or a bug.

Results go to stdout, all else to stderr. --quiet leaves stderr to errors. Bars are for terminals; a log gets a line
a minute instead.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from visrl_data.core.errors import UsageError, VisRLError

if TYPE_CHECKING:
    from rich.console import Console

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and errors, nothing else.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print warnings of libraries, and the traceback of a bug.")
]
ALWAYS = ("quiet", "verbose")  # what `takes_volume` adds to each command

_LINE_EVERY = 60.0  # seconds between two lines of progress where there is no terminal
_SECRET = ("TOKEN", "API_KEY", "SECRET", "PASSWORD")  # ends of the names of variables that no message may show
_volume = {"quiet": False, "verbose": False}


class Interrupted(VisRLError):
    """Ctrl-C. Exit code 130."""

    exit_code = 130


def set_volume(quiet: bool, verbose: bool) -> None:
    """What was asked for before the command's name; each start of the command line begins with it."""
    _volume.update(quiet=quiet, verbose=verbose)


def takes_volume(command: Callable[..., None]) -> Callable[..., None]:
    """The command with --quiet and --verbose, run as they say."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in zip(ALWAYS, (Quiet, Verbose), strict=True)
    ]

    for parameter in [*own, *added]:
        kind, option = get_args(parameter.annotation)
        if kind in (bool, bool | None) and option.metavar is None:
            option.metavar = ""  # a flag takes no value; the help would show <bool>

    def run(**given: Any) -> None:
        set_volume(*(given.pop(name) or _volume[name] for name in ALWAYS))
        with _at_volume():
            try:
                command(**given)
            except KeyboardInterrupt:
                raise Interrupted("Interrupted. Run the same command again to go on.") from None

    run.__name__, run.__doc__, run.__module__ = command.__name__, _unwrapped(command.__doc__ or ""), command.__module__
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    return run


def _unwrapped(text: str) -> str:
    """Help with a line for each paragraph: it is wrapped to the terminal's width, which is seldom the source's."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in paragraphs)


@contextlib.contextmanager
def _at_volume() -> Iterator[None]:
    if _volume["quiet"] and _volume["verbose"]:
        raise UsageError("--quiet with --verbose: expected one of them.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        if _volume["verbose"]:
            warnings.simplefilter("default")
        else:
            warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about their own next version
        if _volume["quiet"]:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def unexpected(error: Exception) -> str:
    """What to print of an error that no command foresaw."""
    if isinstance(error, OSError) and not _volume["verbose"]:
        return f"visrl: {_masked(str(error))}"
    if _volume["verbose"]:
        return _masked("".join(traceback.format_exception(error))).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(__file__).parent.parent)]
    place = f" at {Path((ours or frames)[-1].filename).name}:{(ours or frames)[-1].lineno}"
    return (
        f"visrl: an error that it did not foresee: {type(error).__name__}: {_masked(str(error))}{place}\n"
        "What was finished is kept. Run the same command with --verbose for the whole traceback."
    )


def _masked(text: str) -> str:
    secrets = [value for name, value in os.environ.items() if name.upper().endswith(_SECRET)]
    with contextlib.suppress(Exception):
        from huggingface_hub import get_token

        secrets.append(get_token() or "")
    for secret in secrets:
        text = text.replace(secret, "***") if len(secret) > 4 else text
    return text


def say(line: str) -> None:
    """A note, to stderr, as it is: paths are not cut, brackets are no markup."""
    print(line, file=sys.stderr, flush=True)


def terminal() -> Console:
    """stderr as a console."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def hush_libraries() -> None:
    """No bars of libraries but those of downloads, and these on a terminal only."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()  # those of the Hub's client too
    if terminal().is_terminal:
        enable_progress_bars()


def fetch_models(*models: str | None, trust_remote_code: bool = False) -> None:
    """Download models of the Hub now, with the client's own bars, which can't be seen beside ours."""
    from visrl_data.models.model_folder import fetch_model

    for model in models:
        if model is not None:
            fetch_model(model, trust_remote_code)


class Bars:
    """How far named things are: a bar each on a terminal, else a line a minute and one at the end."""

    def __init__(self, *begun: str) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = terminal()
        self._shown: dict[str, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console) if console.is_terminal else None
        self._tasks = {what: self._bars.add_task(what, total=None) for what in begun} if self._bars else {}

    def __enter__(self) -> Bars:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def update(self, what: str, done: int, total: int) -> None:
        if self._bars:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], total=total, completed=done)
        elif done == total or time.monotonic() - self._shown.setdefault(what, time.monotonic()) >= _LINE_EVERY:
            self._shown[what] = time.monotonic()
            say(f"{what}: {done} of {total}")

    def say(self, line: str) -> None:
        """A note between the bars."""
        if self._bars:
            self._bars.console.print(line)
        else:
            say(line)
