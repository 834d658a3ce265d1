"""Checkpoints of a training: complete when their digests are written, used only where they still match.

checkpoint-N/sha256.json    the digest of each other file of the checkpoint; written last
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from visrl_data.core import files

_DIGESTS = "sha256.json"


def seal(checkpoint: Path) -> None:
    """Write the digests of a checkpoint that has been saved whole."""
    (checkpoint / _DIGESTS).unlink(missing_ok=True)  # of an earlier checkpoint of this step, which was damaged
    files.write_json(checkpoint / _DIGESTS, _digests(checkpoint))


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that is complete and undamaged; print which ones were damaged."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in checkpoints:
        if not (path / _DIGESTS).is_file():
            continue  # a kill cut it short
        if _digests(path) == _stored(path / _DIGESTS):
            return str(path)
        print(f"{path} was damaged after it was written; resuming from an earlier state.", file=sys.stderr)
    return None


def _digests(checkpoint: Path) -> dict[str, str]:
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != _DIGESTS)
    return {path.relative_to(checkpoint).as_posix(): files.file_digest(path) for path in paths}


def _stored(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
