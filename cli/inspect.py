"""`visrl inspect`: what a run holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")], as_json: Json = False
) -> None:
    """Print a run's yields, drops by reason, scores and its WP/LN audit.

    Example:

      visrl inspect runs/photos
    """
    from visrl_data.store import Run

    opened = Run(run)
    opened.manifest()
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps(report))
        return
    from rich.console import Console

    from visrl_data.inspecting import render

    Console().print(render(report))
