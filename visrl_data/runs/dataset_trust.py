"""Check a dataset folder before anything of it is used: it may be a stranger's, with files and figures of any kind.

Only files that the schema names are taken, and only those that the manifest lists; its runs have the ids that their
contents give; its numbers are numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.errors import VisRLError
from visrl_data.core.reading import with_later_columns
from visrl_data.core.text import one_line
from visrl_data.runs.dataset_files import CONFIG_NAMES, SCHEMA_VERSION

_FILE = re.compile(
    r"README\.md|LICENSE|report\.(?:json|html)|card/(?:scores|boxes|example)\.png|runs/(?:questions|drops|pairs)\.parquet"
    r"|audit/marks\.parquet"
    rf"|data/(?:{'|'.join(CONFIG_NAMES)})/(?:train|validation)-\d{{5}}-of-\d{{5}}\.parquet"
)
_DIGEST = re.compile("[0-9a-f]{64}")
_TABLES = ("data", "runs", "audit")  # folders in which every file is one of the manifest


def run_id(about: Mapping[str, Any]) -> str:
    """Return the id of a run in a dataset: 12 hex digits of a digest of its manifest as it is published."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def check_schema(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise VisRLError when a manifest states another schema than those that this visrl knows."""
    schema = manifest.get("schema_version")
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise VisRLError(
            f"{folder} has dataset schema {one_line(schema)}; this visrl knows {SCHEMA_VERSION}. "
            "Update it, in your clone: git pull && pip install ."
        )


def check_claims(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise VisRLError when a manifest names files as no visrl does, or the folder has tables besides those."""
    if problem := next(_problems(folder, manifest), None):
        raise VisRLError(
            f"{folder} is not as visrl made it: {problem}. Nothing of it was used. Fetch the dataset again, or ask its "
            "owner to publish it again."
        )


def _problems(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    files = manifest["sha256"]
    if not isinstance(files, dict):
        yield f"manifest.json has sha256 = {one_line(files)}, expected an object"
        return
    for name, digest in files.items():
        if not _FILE.fullmatch(name):
            yield f"manifest.json names a file {one_line(repr(name))}, which no dataset has"
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            yield f"manifest.json has no digest of {one_line(name)}"
    for name in sorted(_table_files(folder) - files.keys()):
        yield f"{one_line(name)} is not in its manifest"


def _table_files(folder: Path) -> set[str]:
    paths = (path for name in _TABLES for path in (folder / name).rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths if not path.name.startswith(".")}


def check_table(name: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of `schema`, in its types, without any others.

    Raises VisRLError when one is missing or of another type, or holds a number that is none (NaN, infinite).
    """
    try:
        table = with_later_columns(table, schema, schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise VisRLError(f"{name} has not the columns of a dataset: {one_line(error)}. Fetch it again.") from error
    for column in schema.names:
        values = table[column]
        while isinstance(values.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            values = pc.list_flatten(values)
        if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values), min_count=0).as_py():
            raise VisRLError(f"{name}: the column {column} holds NaN or an infinite number. The set is damaged.")
    return table


def known_fields(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return what a schema names of a mapping."""
    return {name: values[name] for name in names if name in values}
