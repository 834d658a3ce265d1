"""`visrl audit`: a person looks at a sample of pairs, on a page of this machine."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from .console import print_table, say


def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run, or USER/NAME@TAG on the Hub.")],
    annotator: Annotated[
        str, typer.Option("--annotator", metavar="NAME", help="Who marks. The name is published with the marks.")
    ] = "annotator",
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, help="Pairs to look at.")] = 50,
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port of the page; 0: any that is free.")] = 7861,
) -> None:
    """Look at a sample of pairs and mark what is right: WP/LN by human eyes, where there are no labels.

    Opens a page on this machine alone. It shows each pair blind: two boxes, their crops and responses, in random order.
    Each mark is on disk at once; the same command continues. `visrl inspect` then shows what the pairs are worth, how
    far the critics agree with people, and people with each other.

    Needs: pip install '.[audit]'.

    Examples:

      visrl audit runs/photos

      visrl audit runs/photos --annotator kim --sample 100

      visrl audit user/photos@v1.0
    """
    from visrl_data.core.errors import VisRLError

    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise VisRLError("visrl audit needs Starlette and uvicorn: pip install '.[audit]'.")
    from visrl_data.evaluation.audit import open_audit
    from visrl_data.evaluation.audit_page import serve
    from visrl_data.runs.marks import check_annotator

    check_annotator(annotator)
    target = open_audit(run, say)
    if serve(target, annotator, sample, port, say) and target.run is not None:
        from visrl_data.pipeline.finalize import rewrite_page

        say(f"Writing {rewrite_page(target.run)}")
    _print_audit(run)


def _print_audit(name: str) -> None:
    """Print what has been marked so far, by all annotators."""
    from visrl_data.report.human_audit import target_audit
    from visrl_data.report.tables import render_human
    from visrl_data.runs.opening import open_target

    human = target_audit(open_target(name, say))
    if human is None:
        say("Nothing was marked. The same command shows the same pairs.")
    else:
        print_table(render_human(human))
