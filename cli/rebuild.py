"""`visrl rebuild`: the complete dataset from one that was published without its images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def rebuild(
    dataset: Annotated[str, typer.Argument(metavar="USER/NAME[@TAG]|FOLDER", help="The published dataset.")],
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder with the original image files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where it goes; default: the name and -complete."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Write what can be written when images are missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put the images back into a dataset by checksum, and make the rows that need them.

    Example:

      visrl rebuild user/pairs@v1.0 --images ~/flickr30k -o pairs-complete
    """
    from visrl_data.publishing.rebuild import locate
    from visrl_data.publishing.rebuild import rebuild as put_back

    source = locate(dataset)
    name = (source.resolve() if source.is_dir() and Path(dataset).is_dir() else Path(dataset.partition("@")[0])).name
    made = put_back(source, images, output or Path(f"{name}-complete"), allow_missing)
    if as_json:
        missing = [dataclasses.asdict(image) for image in made.missing]
        print(json.dumps({"output": str(made.dataset.folder), "found": made.found, "missing": missing,
                          "counts": made.dataset.counts}))  # fmt: skip
        return
    put_in = f"{made.found} images put back, {len(made.missing)} missing"
    complete = not made.found and not made.missing
    print(f"{'No image was missing' if complete else put_in}. The dataset is in {made.dataset.folder}")
    for config, splits in made.dataset.counts.items():
        print(f"  {config}: " + ", ".join(f"{split} {rows}" for split, rows in splits.items()))
    for image in made.missing[:10]:
        print(f"  missing: {', '.join(image.ids)} (sha256 {image.sha256[:16]}...)")
