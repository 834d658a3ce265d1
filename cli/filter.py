"""`visrl filter`: another rule for the pairs of a stored pool; no model, no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import print_result, print_table
from .options import Json


def filter(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    box_win: Annotated[float | None, typer.Option(metavar="X", help="Minimum box score of a win.")] = None,
    box_lose: Annotated[float | None, typer.Option(metavar="X", help="Maximum box score of a lose.")] = None,
    response_win: Annotated[float | None, typer.Option(metavar="X", help="Minimum response score of a win.")] = None,
    response_lose: Annotated[float | None, typer.Option(metavar="X", help="Maximum response score of a lose.")] = None,
    box_critic: Annotated[
        bool | None,
        typer.Option("--box-critic/--no-box-critic", help="Use both scores, or the response score alone."),
    ] = None,
    lose: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The lose among equally bad ones: uniform, actor-first or hardest."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Print the yields over a grid of thresholds; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pick the pairs of a run again, by another rule. Options that are left out keep their values.

    Examples:

      visrl filter runs/photos --sweep

      visrl filter runs/photos --box-win 0.7 --response-win 0.9

      visrl filter runs/photos --lose actor-first
    """
    from visrl_data.core.errors import UsageError
    from visrl_data.pipeline import finalize

    options = {"box_win": box_win, "box_lose": box_lose, "response_win": response_win, "response_lose": response_lose}
    thresholds = {name: value for name, value in options.items() if value is not None}
    if sweep:
        if others := [*thresholds, *(["lose"] if lose else [])]:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            raise UsageError(f"--sweep with {flags}: a sweep has its own thresholds. Expected one of the two.")
        grid = finalize.sweep_run(run, box_critic)
        print(json.dumps(grid.to_pylist())) if as_json else _print_sweep(grid)
        return
    before, after = finalize.filter_run(run, thresholds, box_critic, lose)
    if as_json:
        print(json.dumps({"before": before, "after": after}))
        return
    print_result(f"Pairs: {before['pairs']} -> {after['pairs']} of {after['questions']} questions.")
    for reason in sorted({*before["drops"], *after["drops"]}):
        was, now = before["drops"].get(reason, 0), after["drops"].get(reason, 0)
        if was or now:
            print_result(f"  {reason}: {was} -> {now}")


def _print_sweep(grid: Any) -> None:
    from visrl_data.core.pair_rule import DROP_REASONS
    from visrl_data.report.formats import make_table

    columns = ("box", "response", "pairs", "both steps", "no pair")
    table = make_table("Win / lose thresholds", columns, left=("response", "no pair"))
    for row in grid.to_pylist():
        reasons = ", ".join(f"{reason} {row[reason]}" for reason in DROP_REASONS if row[reason])
        table.add_row(
            f"{row['box_win']:g} / {row['box_lose']:g}",
            f"{row['response_win']:g} / {row['response_lose']:g}",
            str(row["pairs"]),
            str(row["response_pairs"]),
            reasons,
        )
    print_table(table)
