"""`visrl merge`: an adapter and its base become plain weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import hide_library_bars
from .options import Json, TrustRemoteCode


def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter's folder or Hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the merged model.")],
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base, for serving. Training continues from the adapter, not from this.

    Example:

      visrl merge models/cars-rl2 -o models/cars-merged
    """
    from visrl_train.merge import merge

    hide_library_bars()
    folder = merge(adapter, output, trust_remote_code)
    print(json.dumps({"model": str(folder)}) if as_json else folder)
