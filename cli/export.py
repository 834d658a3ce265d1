"""`visrl export`: pairs in the layouts of other trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|FOLDER", help="A finished run, or a dataset with its images.")],
    form: Annotated[str, typer.Option("--format", metavar="llamafactory|swift", help="Whose layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Empty or new folder.")],
    as_json: Json = False,
) -> None:
    """Write the pairs as files for LLaMA-Factory or ms-swift.

    Example:

      visrl export runs/photos --format llamafactory -o exported
    """
    from visrl_data.publishing.export import export as write

    made = write(source, form, output)
    if as_json:
        print(json.dumps({"output": str(made.folder), "rows": made.rows, "pictures": made.pictures,
                          "left_out": made.left_out, "empty": made.empty}))  # fmt: skip
        return
    for name, rows in made.rows.items():
        print(f"{name}: {rows} rows")
    print(f"{made.pictures} pictures in {made.folder / 'images'}")
    if made.left_out:
        print(f"{made.left_out} pairs have no picture here and were left out; `visrl rebuild` puts pictures back.")
    if made.empty:
        print(f"{made.empty} rows were left out because their win response is empty.")
