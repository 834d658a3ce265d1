"""`visrl export`: pairs in the layouts of other trainers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from .console import print_result, say
from .options import Json, PadSquare


def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run, a dataset folder, or USER/NAME@TAG on the Hub.")
    ],
    form: Annotated[str, typer.Option("--format", metavar="llamafactory|swift|visrl", help="Layout of which trainer.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Empty or new folder.")],
    pad_square: PadSquare = None,
    as_json: Json = False,
) -> None:
    """Write the pairs as files for LLaMA-Factory, ms-swift or the paper's own code, with settings that train on them.

    Examples:

      visrl export runs/photos --format llamafactory -o exported

      visrl export user/photos@v1.0 --format visrl -o VisRL/data/photos
    """
    from visrl_data.publishing.export import export

    exported = export(source, form, output, pad_square, say)
    if as_json:
        names = ("rows", "pictures", "left_out", "empty", "grown", "no_pixel", "padded")
        counts = {name: getattr(exported, name) for name in names}
        print(json.dumps({"output": str(exported.folder), **counts}))
        return
    for name, rows in exported.rows.items():
        print_result(f"{name}: {rows} rows")
    print_result(f"{exported.pictures} images in {exported.folder / 'images'}")
    if exported.padded:
        print_result(
            "The images are padded to squares, as the actor was shown them; other trainers would cut their ends off."
        )
    run, ending = {"llamafactory": ("llamafactory-cli train", "yaml"), "swift": ("bash", "sh")}.get(form, ("", ""))
    training = [name for name in exported.rows if not name.endswith("-validation")]
    if run and training:
        print_result(f"Train with: {run} {shlex.quote(f'{exported.folder / training[0]}.{ending}')}")
    if exported.left_out:
        print_result(
            f"{exported.left_out} pairs were left out: their images are missing; `visrl rebuild` restores them."
        )
    if exported.empty:
        print_result(f"{exported.empty} rows were left out because their win response is empty.")
    if exported.no_pixel:
        print_result(
            f"{exported.no_pixel} pairs have no row in rl2: the paper's code would cut no pixel from their box."
        )
    if exported.grown:
        print_result(
            f"{exported.grown} pairs have a crop that the crop rule made larger than their box; the paper's code cuts "
            "the box itself. Pairs without this difference need an actor with no crop rule on record, such as a base "
            "model: visrl gen --model ID --crop-min-side 0 --crop-max-aspect 1000"
        )
