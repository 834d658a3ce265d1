"""Keep what people mark in `visrl audit`, mark by mark, and read it back.

    RUN/audit/ANNOTATOR.jsonl               beside a run
    audits/USER/NAME/ANNOTATOR.jsonl        of a published set, in the folder that `visrl audit` was called in
    DATASET/audit/marks.parquet             in a dataset: a row for each annotator and pair (MARK_SCHEMA)

A line is one mark: of a pair (by its id, pair_ids.py), one of UNITS, and a verdict. A later mark of the same unit takes
the place of an earlier one. A line is on disk before it counts; the last one may be torn by a kill, and is then
no mark.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
from typing_extensions import TypedDict

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import fsync, make_folder
from visrl_data.core.reading import check_shape, read_table, report_damage

Unit = Literal["win_box", "lose_box", "win_response", "lose_response"]
Verdict = Literal["right", "wrong", "unsure"]
UNITS: tuple[Unit, ...] = get_args(Unit)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
FOLDER = "audit"
TABLE = f"{FOLDER}/marks.parquet"  # in a dataset
MARK_SCHEMA = pa.schema([(name, pa.string()) for name in ("annotator", "pair_id", *UNITS)])
Marks = dict[str, dict[Unit, Verdict]]
"""pair id -> unit -> verdict, of one annotator."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_ADVICE = "Put back a copy of it, or take that line out."


class Mark(TypedDict):
    """One line of an annotator's file."""

    pair: str
    unit: Unit
    verdict: Verdict


@dataclass(slots=True)
class MarkFile:
    """The open file of one annotator. marks: what it holds."""

    path: Path
    handle: int
    marks: Marks = field(default_factory=dict)

    def add(self, pair: str, verdicts: Mapping[Unit, Verdict]) -> None:
        """Append marks of a pair; they are on disk when this returns."""
        lines = [json.dumps({"pair": pair, "unit": unit, "verdict": v}) + "\n" for unit, v in verdicts.items()]
        os.write(self.handle, "".join(lines).encode())
        os.fsync(self.handle)
        self.marks.setdefault(pair, {}).update(verdicts)


def published_folder(name: str) -> Path:
    """Return where new marks of a published set, USER/NAME[@TAG], are until a version of it holds them."""
    return Path("audits") / name.partition("@")[0]


def check_annotator(name: str) -> str:
    """Return a name that can be that of a file. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"--annotator {name!r}: expected 1 to 40 letters, digits, dots, hyphens and underscores.")
    return name


@contextlib.contextmanager
def open_marks(folder: Path, annotator: str) -> Iterator[MarkFile]:
    """Open an annotator's file for more marks, without a line that was torn. Raises VisRLError when it is in use."""
    make_folder(folder)
    path = folder / f"{check_annotator(annotator)}.jsonl"
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise VisRLError(f"{path} can't be opened: {error.strerror}. Choose another --annotator.") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VisRLError(
                f"{path} is in use: another `visrl audit` is open for {annotator}. Close it, or give another person "
                "their own name with --annotator."
            ) from None
        marks = _read(path)
        data = path.read_bytes()
        os.ftruncate(handle, data.rfind(b"\n") + 1)
        fsync(folder)
        yield MarkFile(path, handle, marks)
    finally:
        os.close(handle)


def read_marks(folder: Path) -> pa.Table:
    """Return the marks of all annotators in a folder; columns: MARK_SCHEMA. Raises VisRLError."""
    files = sorted(folder.glob("*.jsonl"))
    for path in files:
        if not _NAME.fullmatch(path.stem):
            raise VisRLError(
                f"{path} is no file of marks: its name is not an annotator's, of 1 to 40 letters, digits, dots, "
                "hyphens and underscores. Rename it, or move it elsewhere; a program that synchronizes folders may "
                "have made it."
            )
    return _table({(path.stem, pair): of for path in files for pair, of in _read(path).items()})


def read_dataset_marks(folder: Path) -> pa.Table:
    """Return the marks that a dataset folder holds; columns: MARK_SCHEMA. Raises Damaged."""
    path = folder / TABLE
    if not path.is_file():
        return MARK_SCHEMA.empty_table()
    table = read_table(path, MARK_SCHEMA, "Fetch or copy the dataset again.")
    with report_damage(path, "Fetch or copy the dataset again."):
        for row in table.to_pylist():
            if not _NAME.fullmatch(row["annotator"] or "") or not row["pair_id"]:
                raise ValueError(f"it has a row of the annotator {row['annotator']!r} and the pair {row['pair_id']!r}")
            if odd := [row[unit] for unit in UNITS if row[unit] not in (None, *VERDICTS)]:
                raise ValueError(f"{odd[0]!r} is none of the verdicts {', '.join(VERDICTS)}")
    return table


def join_marks(*tables: pa.Table) -> pa.Table:
    """Put tables of marks together. A mark of a later table takes the place of one of an earlier table."""
    joined: dict[tuple[str, str], dict[Unit, Verdict]] = {}
    for row in (row for table in tables for row in table.to_pylist()):
        known = {unit: row[unit] for unit in UNITS if row[unit] is not None}
        joined.setdefault((row["annotator"], row["pair_id"]), {}).update(known)
    return _table(joined)


def _table(marks: Mapping[tuple[str, str], Mapping[Unit, Verdict]]) -> pa.Table:
    rows = [{"annotator": who, "pair_id": pair, **of} for (who, pair), of in sorted(marks.items())]
    return pa.Table.from_pylist(rows, MARK_SCHEMA)


def _read(path: Path) -> Marks:
    """Return the marks of a file. What stands behind its last line end was torn, and is none."""
    marks: Marks = {}
    with report_damage(path, _ADVICE):
        lines = path.read_bytes().split(b"\n")[:-1]
        for line in lines:
            mark = check_shape(json.loads(line), Mark, path, _ADVICE)
            marks.setdefault(mark["pair"], {})[mark["unit"]] = mark["verdict"]
    return marks
