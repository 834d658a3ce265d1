"""`visrl inspect`: what is in a run or a published version, or how two of them differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import print_result, print_table, say
from .options import Json


def inspect(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run, a dataset folder, or USER/NAME@TAG on the Hub.")
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another one to compare with.", show_default=False)
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the run's report.html in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Print a run's yields, drops by reason, scores and its WP/LN audits; or two of them side by side.

    Of two: the differences in options, models, prompts and versions; all figures; and what became of the questions
    that both have.

    Examples:

      visrl inspect runs/photos

      visrl inspect runs/photos --open

      visrl inspect runs/photos runs/photos-no-diversity

      visrl inspect user/photos@v1.0 user/photos@v1.1 --json
    """
    from visrl_data.core.errors import UsageError
    from visrl_data.runs.opening import open_target

    if other is not None and open_page:
        raise UsageError("--open is for one run: a comparison has no page. Leave out --open.")
    if other is not None:
        _compare(run, other, as_json)
        return
    target = open_target(run, say)
    if open_page:
        _open(run, target.page)
    from visrl_data.report.human_audit import target_audit

    human = target_audit(target)
    if as_json:
        print(json.dumps(target.report if human is None else {**target.report, "human_audit": human}))
        return
    from visrl_data.report.tables import render

    print_table(render(target.report, human))
    if target.page:
        print_result(f"Charts and images: {target.page}")


def _compare(run: str, other: str, as_json: bool) -> None:
    from visrl_data.report.comparison import compare

    comparison = compare(run, other, say)
    if as_json:
        print(json.dumps(comparison))
        return
    from visrl_data.report.comparison_tables import render

    print_table(render(comparison))


def _open(name: str, page: Path | None) -> None:
    """Open a report in the browser. Raises VisRLError where there is no page, or no browser can be started."""
    import webbrowser

    from visrl_data.core.errors import VisRLError

    if page is None:
        raise VisRLError(f"{name} has no page: `visrl gen` and `visrl filter` write one, report.html, for a run.")
    if not webbrowser.open(page.resolve().as_uri()):
        raise VisRLError(f"No browser could be started here. Open this file in one: {page}")
