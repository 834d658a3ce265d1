"""Write files so that a crash leaves the old or the new content, never half; digest and lock them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.core.errors import VisRLError

ROWS = 10_000


@contextlib.contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Hold a run folder for this process. Raises VisRLError when another one holds it."""
    if not path.is_dir():
        raise VisRLError(f"{path}: no such run folder. `visrl gen -o {path}` makes one.")
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise VisRLError(f"Another process is at work in {path}. Wait for it, or use another folder.") from None
        yield


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a temporary file, fsync it, rename it."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    fsync(path.parent)


def write_table(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary, row_group_size=ROWS, compression="zstd")
    fsync(temporary)
    os.rename(temporary, path)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
