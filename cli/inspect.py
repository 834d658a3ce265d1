"""`visrl inspect`: what a run holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the run's page, report.html, in the browser.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print a run's yields, drops by reason, scores and its WP/LN audit; name or open its page.

    Examples:

      visrl inspect runs/photos

      visrl inspect runs/photos --open
    """
    from visrl_data.store import Run

    opened = Run(run)
    opened.manifest()
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    page = run / "report.html"
    if open_page:
        _open(page)
    if as_json:
        print(json.dumps(report))
        return
    from rich.console import Console

    from visrl_data.report.inspecting import render

    Console().print(render(report))
    print(f"With charts and pictures: {page}")


def _open(page: Path) -> None:
    """Raises VisRLError where no browser can be started."""
    import webbrowser

    from visrl_data.errors import VisRLError

    if not webbrowser.open(page.resolve().as_uri()):
        raise VisRLError(f"No browser could be started here. Open this file in one: {page}")
