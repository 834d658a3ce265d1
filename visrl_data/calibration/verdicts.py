"""Store the verdicts of a calibration: chunk by chunk while it runs, one file when all are there.

CALIBRATION/conditions.json    what the verdicts depend on; another critic, prompt or source is refused
CALIBRATION/work/chunk-N.parquet   a finished chunk of questions; it is never asked about again
CALIBRATION/verdicts.parquet   all of them
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from visrl_data.calibration.cases import KINDS, ControlCase
from visrl_data.core import files
from visrl_data.core.conditions import check_same
from visrl_data.core.reading import read_json, read_table
from visrl_data.core.records import Score

_CONDITIONS = "conditions.json"
VERDICTS = "verdicts.parquet"


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """What the critic said of a case. The fields are those of ControlCase and Score; question: the question's id."""

    row: int
    question: str
    kind: str
    variant: str
    response: str
    shown: int | None
    window: tuple[int, int, int, int] | None
    score: float | None
    state: str
    raw: str

    @property
    def critic(self) -> str:
        return KINDS[self.kind].critic


SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("question", pa.string()),
        ("kind", pa.string()),
        ("variant", pa.string()),
        ("response", pa.string()),
        ("shown", pa.int64()),
        ("window", pa.list_(pa.int32())),  # null for a whole image: see _BOX of evaluation/predictions.py
        ("score", pa.float64()),
        ("state", pa.string()),
        ("raw", pa.string()),
    ]
)


def make_verdict(case: ControlCase, question: str, score: Score) -> CaseVerdict:
    return CaseVerdict(
        case.row, question, case.kind, case.variant, case.response, case.shown, case.window,
        score.value, score.state, score.raw,
    )  # fmt: skip


def check_output(folder: Path) -> None:
    """Raise VisRLError when a folder is neither new nor that of a calibration: it would be overwritten."""
    if not (folder / _CONDITIONS).is_file():
        files.check_own(folder, ())


def check_conditions(folder: Path, conditions: dict[str, Any]) -> None:
    """Record what the verdicts depend on. Raises VisRLError where those in the folder depend on something else."""
    path = folder / _CONDITIONS
    if not path.is_file():
        files.write_json(path, conditions)
        return
    advice = "Put back a copy of it, or choose another --output: without it nobody knows what the verdicts depend on."
    check_same(str(folder), read_json(path, dict[str, Any], advice), conditions)


def missing_chunks(folder: Path, chunks: int) -> list[int]:
    """Return the chunks that are still to be asked about, in order."""
    if (folder / VERDICTS).is_file():
        return []
    return [i for i in range(chunks) if not _chunk(folder, i).is_file()]


def write_chunk(folder: Path, index: int, verdicts: Sequence[CaseVerdict]) -> None:
    """Store a chunk, atomically."""
    _chunk(folder, index).parent.mkdir(exist_ok=True)
    files.write_table(_chunk(folder, index), _table(verdicts))


def read_chunk(folder: Path, index: int) -> list[CaseVerdict]:
    """Return the verdicts of a finished chunk."""
    return _parse(read_table(_chunk(folder, index), SCHEMA, _advice(folder)))


def read_verdicts(folder: Path, chunks: int) -> list[CaseVerdict]:
    """Return all verdicts, in the order of the cases; the first time, merge the chunks into one file."""
    if not (folder / VERDICTS).is_file():
        files.write_table(folder / VERDICTS, _table([v for i in range(chunks) for v in read_chunk(folder, i)]))
    verdicts = _parse(read_table(folder / VERDICTS, SCHEMA, _advice(folder)))
    shutil.rmtree(folder / "work", ignore_errors=True)
    return verdicts


def _chunk(folder: Path, index: int) -> Path:
    return folder / "work" / f"chunk-{index:08d}.parquet"


def _advice(folder: Path) -> str:
    return f"Remove this file and run the same command again, or calibrate into another folder than {folder}."


def _table(verdicts: Sequence[CaseVerdict]) -> pa.Table:
    return pa.Table.from_pylist([dataclasses.asdict(verdict) for verdict in verdicts], SCHEMA)


def _parse(table: pa.Table) -> list[CaseVerdict]:
    return [
        CaseVerdict(**row | {"window": None if row["window"] is None else tuple(row["window"])})
        for row in table.to_pylist()
    ]
