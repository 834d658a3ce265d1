"""What every command prints: --quiet and --verbose, progress, interruptions and unexpected errors.

Results go to stdout, everything else to stderr. --quiet leaves stderr to errors. Progress bars are for terminals; a log
gets a line a minute instead.
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

from visrl_data.core.errors import UsageError
from visrl_data.core.library_warnings import ignore_library_warnings
from visrl_data.core.text import visible

from .interruption import interruptible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and errors only.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print warnings of libraries, and the traceback of an unexpected error.")
]
VERBOSITY_OPTIONS = ("quiet", "verbose")  # added to each command by `with_verbosity`

_LOG_INTERVAL = 60.0  # seconds between two lines of progress where there is no terminal
_SECRET_SUFFIXES = ("TOKEN", "API_KEY", "SECRET", "PASSWORD")  # of environment variables that no message may show
_verbosity = {"quiet": False, "verbose": False}


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Store the options that stand before the command's name; each start of the command line begins with these."""
    _verbosity.update(quiet=quiet, verbose=verbose)


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Add --quiet and --verbose to a command, and apply them while it runs."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in zip(VERBOSITY_OPTIONS, (Quiet, Verbose), strict=True)
    ]
    parameters = [*own, *added]
    for parameter in parameters:
        kind, option = get_args(parameter.annotation)
        if kind in (bool, bool | None) and option.metavar is None:
            option.metavar = ""  # a flag takes no value; the help would show <bool>

    def run(**options: Any) -> None:
        set_verbosity(*(options.pop(name) or _verbosity[name] for name in VERBOSITY_OPTIONS))
        with _apply_verbosity(), interruptible():
            command(**options)

    run.__name__, run.__doc__, run.__module__ = command.__name__, _unwrap(command.__doc__ or ""), command.__module__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _unwrap(text: str) -> str:
    """Join the lines of each paragraph: help is wrapped to the width of the terminal, not of the source."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in paragraphs)


@contextlib.contextmanager
def _apply_verbosity() -> Iterator[None]:
    if _verbosity["quiet"] and _verbosity["verbose"]:
        raise UsageError("--quiet with --verbose: expected one of them.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        if _verbosity["verbose"]:
            warnings.simplefilter("default")
        else:
            ignore_library_warnings()
        if _verbosity["quiet"]:
            null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(null))
        yield


def format_unexpected(error: Exception) -> str:
    """Return what to print of an error that no command handles: a bug, or the operating system's refusal."""
    if _verbosity["verbose"]:
        return _mask_secrets("".join(traceback.format_exception(error))).rstrip()
    if isinstance(error, OSError):
        return f"visrl: {_mask_secrets(str(error))}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(__file__).parent.parent)]
    last = (own or frames)[-1]
    return (
        f"visrl: unexpected error: {type(error).__name__}: {_mask_secrets(str(error))} "
        f"(at {Path(last.filename).name}:{last.lineno})\n"
        "Finished work is kept. Run the same command with --verbose for the full traceback."
    )


def _mask_secrets(text: str) -> str:
    secrets = [value for name, value in os.environ.items() if name.upper().endswith(_SECRET_SUFFIXES)]
    with contextlib.suppress(Exception):
        from huggingface_hub import get_token

        secrets.append(get_token() or "")
    for secret in secrets:
        text = text.replace(secret, "***") if len(secret) > 4 else text
    return text


def say(line: str) -> None:
    """Print a note to stderr: paths are not cut, brackets are no markup, and what a stranger wrote does not act."""
    print(visible(line), file=sys.stderr, flush=True)


def print_result(line: str) -> None:
    """Print a line of the result to stdout. What a stranger wrote does not act."""
    print(visible(line))


def print_table(table: RenderableType) -> None:
    """Print a table of rich to stdout."""
    from rich.console import Console

    Console(emoji=False).print(table)


def stderr_console() -> Console:
    """Return stderr as a console of rich."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def hide_library_bars() -> None:
    """Hide the progress bars of libraries, except those of downloads on a terminal."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()  # those of the Hub's client too
    if stderr_console().is_terminal:
        enable_progress_bars()


def fetch_models(*models: str | None, trust_remote_code: bool = False) -> None:
    """Download models of the Hub before our own bars start: the client's bars can't be seen beside them."""
    from visrl_data.models.model_folder import fetch_model

    for model in models:
        if model is not None:
            fetch_model(model, trust_remote_code)


class ProgressBars:
    """Progress of named tasks: a bar for each on a terminal, else a line a minute and one at the end."""

    def __init__(self, *tasks: str) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = stderr_console()
        self._logged: dict[str, float] = {}  # task -> time of its last line
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console) if console.is_terminal else None
        self._tasks = {name: self._bars.add_task(name, total=None) for name in tasks} if self._bars else {}

    def __enter__(self) -> ProgressBars:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Set a task's progress to `done` of `total`."""
        if self._bars:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total)
            self._bars.update(self._tasks[name], total=total, completed=done)
        elif done == total or time.monotonic() - self._logged.setdefault(name, time.monotonic()) >= _LOG_INTERVAL:
            self._logged[name] = time.monotonic()
            say(f"{name}: {done} of {total}")

    def say(self, line: str) -> None:
        """Print a note between the bars."""
        if self._bars:
            self._bars.console.print(visible(line))
        else:
            say(line)
