"""Read questions from a dataset of the Hugging Face `datasets` library: on the Hub, in a folder, or in a file.

The rows are read from Arrow storage without any decoding, so an image's bytes are those that were stored.
question, answers (or answer), image and id are found by name; every other column only when `columns` names
it: boxes of an unknown space, or a license that a re-uploader chose, are never adopted silently. An
image may be an Image feature, a struct of bytes and path, bytes, a path, or a list of one of these.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop, Question
from visrl_data.sources.bad_row import BadRow
from visrl_data.sources.conversations import COLUMNS as CONVERSATIONS
from visrl_data.sources.identity import check_unique
from visrl_data.sources.image_roots import open_roots
from visrl_data.sources.options import SourceOptions, check_columns, named_columns
from visrl_data.sources.protocol import check_index
from visrl_data.sources.row_images import is_inline
from visrl_data.sources.rows import Row, RowReader, read_row, row_id, value_of
from visrl_data.sources.tables import SourceTable

if TYPE_CHECKING:
    from datasets import Dataset

_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_IMPLIED = ("question", "answers", "choices", "image", "id")


class HfSource:
    """A table as a Source.

    Ids: the id column as text; without one, and for null or unusable ids, "SPLIT-" and the row's number in
    the split, 8 digits from 0. Raises VisRLError when columns are missing or ids repeat.
    """

    def __init__(self, table: SourceTable, split: str, limit: int | None, options: SourceOptions) -> None:
        self.name = table.name
        self.split = split
        self._table = table
        columns, features = named_columns(options, _IMPLIED), table.rows.features
        check_columns(table.name, features, columns, options, hint=_file_beside(table))
        chats = () if any(name in features for name in columns["question"]) else CONVERSATIONS
        wanted = {column for names in (*columns.values(), chats) for column in names}
        used = sorted(column for column in wanted if column in features)
        count = len(table.rows) if limit is None else min(limit, len(table.rows))
        if not count:
            raise VisRLError(f"{table.name}: split {split!r} has no rows.")
        check_paths(table, [c for c in columns["image"] if c in used], options)
        self._classes = {c: features[c].names for c in used if hasattr(features[c], "names")}
        self._rows = table.rows.select(range(count)).select_columns(used).with_format("arrow")
        roots = open_roots(options.images_root, table.root)
        self._reader = RowReader(self.name, split, columns, options, roots, table.url)
        self._ids = self._find_ids([c for c in columns["id"] if c in used])
        check_unique(table.name, self._ids, [f"row {i}" for i in range(count)])

    def fingerprint(self) -> str:
        return self._table.fingerprint()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> list[str]:
        return list(self._ids)

    def read(self, i: int) -> Question | Drop:
        """Read row i. Raises IndexError."""
        check_index(i, len(self._ids))
        return read_row(self._reader, self._ids[i], f"{self.split}/{i}", lambda: self._row(i))

    def _row(self, i: int) -> Row:
        row = stored_row(self._rows, i)
        for column, names in self._classes.items():
            label = row[column]
            row[column] = names[label] if isinstance(label, int) and 0 <= label < len(names) else None
        return row

    def _find_ids(self, columns: Sequence[str]) -> list[str]:
        if not columns:
            return [self._numbered(i) for i in range(len(self._rows))]
        values = zip(*(column_values(self._rows, name) for name in columns), strict=True)
        return [self._id(i, dict(zip(columns, row, strict=True))) for i, row in enumerate(values)]

    def _id(self, i: int, row: Row) -> str:
        try:
            return row_id(value_of(row, self._reader.columns, "id")) or self._numbered(i)
        except BadRow:
            return self._numbered(i)

    def _numbered(self, i: int) -> str:
        return f"{self.split}-{i:08d}"


def _file_beside(table: SourceTable) -> str:
    """Name the file of questions in a folder that `datasets` reads as pictures alone; "" where there is none."""
    if not table.files or any(file.suffix in (*_FILES, ".arrow") for file in table.files):
        return ""
    names = sorted(file.name for file in table.root.iterdir() if file.suffix in _FILES)
    path = shlex.quote(str(table.root / names[0])) if names else ""
    return f"\n{names[0]} in this folder is a source: --source {path}" if names else ""


def stored_row(rows: Dataset, i: int) -> dict[str, Any]:
    """Return a row of a table in the format "arrow". Raises BadRow("bad_text") for text that is not UTF-8."""
    try:
        row: dict[str, Any] = rows[i : i + 1].to_pylist()[0]
    except UnicodeDecodeError as error:
        raise BadRow("bad_text", f"{error.object[:50]!r} is not UTF-8"[:200]) from error
    return row


def column_values(rows: Dataset, name: str) -> list[Any]:
    """Return a column as a list, with None for text that is not UTF-8: its row is a drop when it is read."""
    column = rows.select_columns([name]).with_format("arrow")[:][name]
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decoded(value) for value in column]
    return values


def _decoded(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def check_paths(table: SourceTable, columns: Sequence[str], options: SourceOptions) -> None:
    """Raise VisRLError when a Hub dataset has paths in its image columns and no folder for them."""
    from datasets import Value

    texts = [c for c in columns if table.rows.features[c] == Value("string")]
    paths = [c for c in texts if not is_inline(column_values(table.rows.select(range(1)), c)[0])]
    if paths and table.url and options.images_root is None and options.allow_urls is None:
        raise VisRLError(
            f"{table.name}: column {paths[0]!r} holds paths. Name their folder with --images-root; "
            "if they are URLs, let gen and eval download them with --allow-urls HOST."
        )
