"""`visrl export`: pairs in the layouts of other trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import print_result
from .options import Json


def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run, a dataset folder, or USER/NAME@TAG on the Hub.")
    ],
    form: Annotated[str, typer.Option("--format", metavar="llamafactory|swift", help="Layout of which trainer.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Empty or new folder.")],
    as_json: Json = False,
) -> None:
    """Write the pairs as files for LLaMA-Factory or ms-swift.

    Example:

      visrl export runs/photos --format llamafactory -o exported
    """
    from visrl_data.publishing.export import export

    exported = export(source, form, output)
    if as_json:
        print(json.dumps({"output": str(exported.folder), "rows": exported.rows, "pictures": exported.pictures,
                          "left_out": exported.left_out, "empty": exported.empty}))  # fmt: skip
        return
    for name, rows in exported.rows.items():
        print_result(f"{name}: {rows} rows")
    print_result(f"{exported.pictures} images in {exported.folder / 'images'}")
    if exported.left_out:
        print_result(
            f"{exported.left_out} pairs were left out: their images are missing; `visrl rebuild` restores them."
        )
    if exported.empty:
        print_result(f"{exported.empty} rows were left out because their win response is empty.")
