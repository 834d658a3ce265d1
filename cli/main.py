"""The `visrl` command: one file a noun; errors become one message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated

import typer

from visrl_data.errors import UsageError, VisRLError

from . import doctor, eval, evolve, export, filter, gen, inspect, join, merge, push, rebuild, train

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
        from visrl_data.factory import versions

        print("\n".join(f"{name} {version}" for name, version in versions().items()))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and leave.")
    ] = False,
) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about their own next version
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


_PAIRS, _MODELS, _MACHINE = "Pairs", "Models", "This machine"

app.command(rich_help_panel=_PAIRS)(gen.gen)
app.command(rich_help_panel=_PAIRS)(join.join)
app.command(rich_help_panel=_PAIRS)(filter.filter)
app.command(rich_help_panel=_PAIRS)(inspect.inspect)
app.command(rich_help_panel=_PAIRS)(push.push)
app.command(rich_help_panel=_PAIRS)(rebuild.rebuild)
app.command(rich_help_panel=_PAIRS)(export.export)
app.add_typer(train.app, name="train", rich_help_panel=_MODELS)
app.command(rich_help_panel=_MODELS)(merge.merge)
app.command(rich_help_panel=_MODELS)(eval.eval)
app.command(rich_help_panel=_MODELS)(evolve.evolve)
app.command(rich_help_panel=_MACHINE)(doctor.doctor)


def main() -> None:
    """Entry point: everything the user can mend is one message on stderr; tracebacks are for bugs."""
    try:
        app()
    except VisRLError as error:
        print(f"visrl: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("visrl: interrupted; run the same command again to go on.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
