"""Read back what visrl wrote: the one door through which stored JSON, TOML and parquet files come in.

A file may be cut short, flipped by a disk, edited, or come from a stranger. Here it has the shape that the code relies
on, a TypedDict or an Arrow schema, or it ends with one error that names the file and says what is wrong with it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from visrl_data.core.errors import VisRLError
from visrl_data.core.records import LATER_COLUMNS
from visrl_data.core.text import one_line

Shape = TypeVar("Shape")


class Damaged(VisRLError):
    """A stored file is missing, can't be read, or holds something else than visrl wrote."""


def read_json(path: Path, shape: type[Shape], advice: str) -> Shape:
    """Read a JSON file that holds a `shape`, a TypedDict; keys that it does not name are kept. Raises Damaged.

    advice: what the user can do, such as the command that makes the file again.
    """
    with report_damage(path, advice):
        data = path.read_bytes()
        _adapter(cast(Any, shape)).validate_json(data, strict=True)  # bounds the depth too, which json.loads does not
        value: Shape = json.loads(data, parse_constant=_refuse)
        return value


def check_shape(value: Any, shape: type[Shape], path: Path, advice: str) -> Shape:
    """Return what was read from `path`, once it is known to be a `shape`. Raises Damaged."""
    with report_damage(path, advice):
        _adapter(cast(Any, shape)).validate_python(value, strict=True)
    return cast(Shape, value)


def parse_file(path: Path, parse: Callable[[str], Shape], advice: str) -> Shape:
    """Return what `parse` makes of a text file; its ValueError means damage. Raises Damaged."""
    with report_damage(path, advice):
        return parse(path.read_text(encoding="utf-8"))


def read_table(path: Path, schema: pa.Schema, advice: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read these columns of a parquet file, default all of the schema, in its types. Raises Damaged."""
    with open_parquet(path, schema, advice, columns) as file, report_damage(path, advice):
        names = schema.names if columns is None else list(columns)
        table = file.read(names)
        table.validate(full=True)  # texts that are no UTF-8, lists that end before they begin
        return with_later_columns(table, schema, names).cast(pa.schema([schema.field(name) for name in names]))


def with_later_columns(table: pa.Table, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Return these columns of a table, with nulls in those that its version did not have yet."""
    for name in LATER_COLUMNS.intersection(names).difference(table.column_names):
        table = table.append_column(schema.field(name), pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(names)


@contextmanager
def open_parquet(
    path: Path, schema: pa.Schema, advice: str, columns: Sequence[str] | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a parquet file that has these columns of the schema, default all.

    Those of LATER_COLUMNS may be absent: `with_later_columns` fills them in. Raises Damaged.
    """
    with report_damage(path, advice):
        file = pq.ParquetFile(path)
    with file:
        for name in schema.names if columns is None else columns:
            index = file.schema_arrow.get_all_field_indices(name)
            if not index and name in LATER_COLUMNS:
                continue
            if len(index) != 1:
                raise Damaged(f"{path}: expected one column {name}, got {len(index)}. {advice}")
            kind, expected = file.schema_arrow.field(index[0]).type, schema.field(name).type
            if not _is_like(kind, expected):
                raise Damaged(f"{path}: the column {name} is {kind}, expected {expected}. {advice}")
        yield file


def _is_like(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Tell whether two types hold the same values: lists of a fixed and of any length do."""
    if pa.types.is_nested(kind) and pa.types.is_nested(expected) and hasattr(kind, "value_type"):
        return hasattr(expected, "value_type") and _is_like(kind.value_type, expected.value_type)
    return bool(kind == expected)


@contextmanager
def report_damage(path: Path, advice: str) -> Iterator[None]:
    """Turn what a file that can't be read gives into one error. Raises Damaged."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = "it is nested too deeply" if "recursion limit" in first["msg"] else first["msg"]
        where = [".".join(map(str, first["loc"]))] if first["loc"] else []
        raise Damaged(f"{path}: {one_line(': '.join([*where, reason]))}. {advice}") from None
    except FileNotFoundError:
        raise Damaged(f"{path} is missing. {advice}") from None
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise Damaged(f"{path} can't be read: {one_line(error)}. {advice}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
