"""`visrl rebuild`: the complete dataset from one that was published without its images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from .console import print_result, say
from .options import Json


def rebuild(
    dataset: Annotated[str, typer.Argument(metavar="USER/NAME[@TAG]|FOLDER", help="The published dataset.")],
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR", help="Folder, .zip or .tar with the original images.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the complete dataset; default: its name with -complete."
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Write the rows whose images are found when others are missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Restore the images of a dataset by checksum, and build the rows that need them.

    Example:

      visrl rebuild user/pairs@v1.0 --images ~/flickr30k -o pairs-complete
    """
    from visrl_data.publishing.rebuild import locate, rebuild

    source = locate(dataset, say)
    name = (source.resolve() if source.is_dir() and Path(dataset).is_dir() else Path(dataset.partition("@")[0])).name
    rebuilt = rebuild(source, images, output or Path(f"{name}-complete"), allow_missing)
    if as_json:
        missing = [dataclasses.asdict(image) for image in rebuilt.missing]
        print(json.dumps({"output": str(rebuilt.dataset.folder), "found": rebuilt.found, "missing": missing,
                          "counts": rebuilt.dataset.counts}))  # fmt: skip
        return
    counts = f"{rebuilt.found} images restored, {len(rebuilt.missing)} missing"
    was_complete = not rebuilt.found and not rebuilt.missing
    print_result(f"{'No image was missing' if was_complete else counts}. The dataset is in {rebuilt.dataset.folder}")
    for config, splits in rebuilt.dataset.counts.items():
        print_result(f"  {config}: " + ", ".join(f"{split} {rows}" for split, rows in splits.items()))
    for image in rebuilt.missing[:10]:
        print_result(f"  missing: {', '.join(image.ids)} (sha256 {image.sha256[:16]}...)")
    if len(rebuilt.missing) > 10:
        print_result(f"  and {len(rebuilt.missing) - 10} more")
