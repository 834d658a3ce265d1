"""The `visrl` command: one file a noun; errors become one message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 asked to stop.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import sys
from typing import Annotated

import typer

from visrl_data.core.errors import VisRLError
from visrl_data.core.versions import DISTRIBUTION, visrl_version

from . import doctor, eval, evolve, export, filter, gen, inspect, join, merge, push, rebuild, train
from .console import Quiet, Verbose, set_volume, takes_volume, unexpected

app = typer.Typer(
    name="visrl",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Preference data for visual reasoning, made without box labels.",
    epilog="Start with: visrl gen",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"visrl {visrl_version()}\npython {platform.python_version()}")
        for need in importlib.metadata.requires(DISTRIBUTION) or []:
            [name] = re.findall(r"^[\w.-]+", need)
            if 'extra == "test"' not in need:
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an extra that is not here
                    print(name, importlib.metadata.version(name))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print versions and exit.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    set_volume(quiet, verbose)


_PAIRS, _MODELS, _MACHINE = "Pairs", "Models", "This machine"

app.command(rich_help_panel=_PAIRS)(takes_volume(gen.gen))
app.command(rich_help_panel=_PAIRS)(takes_volume(join.join))
app.command(rich_help_panel=_PAIRS)(takes_volume(filter.filter))
app.command(rich_help_panel=_PAIRS)(takes_volume(inspect.inspect))
app.command(rich_help_panel=_PAIRS)(takes_volume(push.push))
app.command(rich_help_panel=_PAIRS)(takes_volume(rebuild.rebuild))
app.command(rich_help_panel=_PAIRS)(takes_volume(export.export))
app.add_typer(train.app, name="train", rich_help_panel=_MODELS)
app.command(rich_help_panel=_MODELS)(takes_volume(merge.merge))
app.command(rich_help_panel=_MODELS)(takes_volume(eval.eval))
app.command(rich_help_panel=_MODELS)(takes_volume(evolve.evolve))
app.command(rich_help_panel=_MACHINE)(takes_volume(doctor.doctor))


def main() -> None:
    """Entry point: everything the user can mend is one message on stderr; tracebacks are for bugs."""
    try:
        app()
    except VisRLError as error:
        print(f"visrl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        print(unexpected(error), file=sys.stderr)
        sys.exit(1)
