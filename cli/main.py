"""The `visrl` command: one file a command; an error becomes one message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import platform
import re
import sys
from typing import Annotated

import typer

from visrl_data.core.errors import VisRLError
from visrl_data.core.text import visible
from visrl_data.core.versions import DISTRIBUTION, visrl_version

from . import (
    ask,
    audit,
    calibrate,
    doctor,
    eval,
    evolve,
    export,
    filter,
    gen,
    inspect,
    join,
    merge,
    push,
    rebuild,
    train,
)
from .console import Quiet, Verbose, format_unexpected, set_verbosity, with_verbosity
from .help import Command

_EXAMPLES = (  # one after the other they work as they are
    "visrl gen -o runs/spotlight",
    "visrl inspect runs/spotlight",
    "visrl train rl1 -o models/rl1",
    "visrl ask --model models/rl1",
)
app = typer.Typer(
    name="visrl",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Preference data for visual reasoning, made without box labels.",
    epilog="\n\n".join(("Examples:", *_EXAMPLES, "`visrl COMMAND --help` shows every option, with examples.")),
)


def _print_versions(is_set: bool) -> None:
    if not is_set:
        return
    print(f"visrl {visrl_version()}\npython {platform.python_version()}")
    needed = [text for text in importlib.metadata.requires(DISTRIBUTION) or [] if 'extra == "test"' not in text]
    for name in dict.fromkeys(re.findall(r"^[\w.-]+", "\n".join(needed), re.MULTILINE)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an extra that is not installed
            print(name, importlib.metadata.version(name))
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_print_versions, is_eager=True, help="Print versions and exit."),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    set_verbosity(quiet, verbose)


_PAIRS = (
    gen.gen, calibrate.calibrate, join.join, filter.filter, inspect.inspect, audit.audit,
    push.push, rebuild.rebuild, export.export,
)  # fmt: skip
for _command in _PAIRS:
    app.command(cls=Command, rich_help_panel="Pairs")(with_verbosity(_command))
app.add_typer(train.app, name="train", rich_help_panel="Models")
for _command in (merge.merge, ask.ask, eval.eval, evolve.evolve):
    app.command(cls=Command, rich_help_panel="Models")(with_verbosity(_command))
app.command(cls=Command, rich_help_panel="This machine")(with_verbosity(doctor.doctor))


def main() -> None:
    """Run the command line. What the user can fix is one message on stderr; tracebacks are for bugs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no result is lost to a locale without a name's letters
    try:
        app()
    except VisRLError as error:
        print(visible(f"visrl: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        print(visible(format_unexpected(error)), file=sys.stderr)
        sys.exit(1)
