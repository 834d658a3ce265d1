"""`visrl filter`: other thresholds on a stored pool; no model, no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Json


def filter(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    box_win: Annotated[float | None, typer.Option(metavar="X", help="Box score that a win needs at least.")] = None,
    box_lose: Annotated[float | None, typer.Option(metavar="X", help="Box score that a lose may have at most.")] = None,
    response_win: Annotated[
        float | None, typer.Option(metavar="X", help="Response score that a win needs at least.")
    ] = None,
    response_lose: Annotated[
        float | None, typer.Option(metavar="X", help="Response score that a lose may have at most.")
    ] = None,
    box_critic: Annotated[
        bool | None,
        typer.Option("--box-critic/--no-box-critic", help="Let both scores decide, or the response score alone."),
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Print a table over thresholds; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Pick the pairs of a run again, under other thresholds. What is not given stays as it is.

    Examples:

      visrl filter runs/photos --sweep

      visrl filter runs/photos --box-win 0.7 --response-win 0.9
    """
    from visrl_data.pipeline import finalize

    given = {
        name: value
        for name, value in (
            ("box_win", box_win),
            ("box_lose", box_lose),
            ("response_win", response_win),
            ("response_lose", response_lose),
        )
        if value is not None
    }
    if sweep:
        table = finalize.sweep_run(run, box_critic)
        print(json.dumps(table.to_pylist())) if as_json else _print_sweep(table)
        return
    before, after = finalize.filter_run(run, given, box_critic)
    if as_json:
        print(json.dumps({"before": before, "after": after}))
        return
    print(f"Pairs: {before['pairs']} -> {after['pairs']} of {after['questions']} questions.")
    for reason in sorted({*before["drops"], *after["drops"]}):
        was, now = before["drops"].get(reason, 0), after["drops"].get(reason, 0)
        if was or now:
            print(f"  {reason}: {was} -> {now}")


def _print_sweep(table: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from visrl_data.pipeline.pairing import DROP_REASONS

    shown = Table("box", "response", "pairs", "both steps", "without a pair", title="Win / lose thresholds")
    for row in table.to_pylist():
        reasons = ", ".join(f"{reason} {row[reason]}" for reason in DROP_REASONS if row[reason])
        shown.add_row(
            f"{row['box_win']:g} / {row['box_lose']:g}",
            f"{row['response_win']:g} / {row['response_lose']:g}",
            str(row["pairs"]),
            str(row["response_pairs"]),
            reasons,
        )
    Console().print(shown)
