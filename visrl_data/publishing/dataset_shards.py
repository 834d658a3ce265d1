"""Writing one config of a dataset as parquet shards: bounded in size, the same bytes for the same rows.

The bottom of dataset.py. Rows with pictures go in groups of about 100, so that the Hub's viewer can page
through them; a shard's name holds the number of shards, so files get their names when all are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.runs.dataset_files import SPLITS

SHARD_BYTES = 300_000_000  # of Arrow memory; a shard holds at least one row group
GROUP_ROWS = 100
GROUP_BYTES = 100_000_000

Splits = Iterable[tuple[str, pa.Table]]
"""Tables of rows, each with the split that it belongs to."""


def grouped(rows: Iterable[tuple[str, dict[str, Any]]], schema: pa.Schema) -> Iterator[tuple[str, pa.Table]]:
    """Group (split, row) in any order into (split, table of one row group); the order stays within a split."""
    groups: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    size = dict.fromkeys(SPLITS, 0)
    for split, row in rows:
        groups[split].append(row)
        size[split] += _picture_bytes(row)
        if len(groups[split]) == GROUP_ROWS or size[split] >= GROUP_BYTES:
            yield split, pa.Table.from_pylist(groups[split], schema)
            groups[split], size[split] = [], 0
    for split in SPLITS:
        if groups[split]:
            yield split, pa.Table.from_pylist(groups[split], schema)


def _picture_bytes(row: dict[str, Any]) -> int:
    pictures = [row.get("image"), *(row.get("images") or ())]
    return sum(len(picture["bytes"]) for picture in pictures if picture)


def write_config(folder: Path, schema: pa.Schema, tables: Splits) -> None:
    """Write the shards of each split that has rows; each table becomes a row group. No row, no folder."""
    folder.mkdir(parents=True)
    open_splits = {split: _Shards(folder, split, schema) for split in SPLITS}
    for split, table in tables:
        if table.num_rows:
            open_splits[split].add(table)
    for shards in open_splits.values():
        shards.close()
    if not any(folder.iterdir()):
        folder.rmdir()


class _Shards:
    """The growing files of one split."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._in_shard = 0
        self._files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        table = table.cast(self._schema).combine_chunks()
        if self._writer is not None and self._in_shard + table.nbytes > SHARD_BYTES:
            self._finish_shard()
        if self._writer is None:
            self._files.append(self._folder / f"{self._split}-{len(self._files):05d}.tmp")
            self._writer = pq.ParquetWriter(self._files[-1], self._schema, compression="snappy", write_page_index=True)
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._in_shard += table.nbytes

    def _finish_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._in_shard = None, 0

    def close(self) -> None:
        self._finish_shard()
        for number, file in enumerate(self._files):
            file.rename(self._folder / f"{self._split}-{number:05d}-of-{len(self._files):05d}.parquet")
