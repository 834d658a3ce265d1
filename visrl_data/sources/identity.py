"""What makes a source the same source tomorrow: the digest of its files, and ids that are unique."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from visrl_data.errors import VisRLError


def files_digest(paths: Iterable[Path]) -> str:
    """sha256 over the size and the sha256 of each file, in the order given. Names do not count."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{file.tell()} {content}\n".encode())
    return digest.hexdigest()


def check_unique(what: str, ids: list[str], places: list[str]) -> None:
    """Raises VisRLError naming the first few ids that two rows share, and where. places: a word per row."""
    first: dict[str, int] = {}
    repeats = [(first[name], i) for i, name in enumerate(ids) if first.setdefault(name, i) != i]
    if repeats:
        shown = "; ".join(f"{ids[b]!r} ({places[a]} and {places[b]})" for a, b in repeats[:3])
        raise VisRLError(
            f"{what}: {len(repeats)} rows repeat the id of an earlier one: {shown}. Ids must be unique; "
            f"correct them, name another column with --columns id=COLUMN, or none with --columns id="
        )
