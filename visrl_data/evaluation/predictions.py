"""The predictions of one model on one source, on disk; finished chunks are never made again.

    EVAL/predictions/KEY/about.json           what the predictions depend on; KEY is the digest of it
    EVAL/predictions/KEY/chunk-N.parquet      one finished unit of work
    EVAL/predictions/KEY/predictions.parquet  all of them, when the last chunk is done

Another model, source, prompt or device has another key: nothing is mixed, and a model that is added to an
evaluation costs its own calls only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.core import files

Quad = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model made of one row of a source. Boxes are unit xyxy of the original image.

    row: its number in the source. group: the question's own `source`, by which scores are broken down.
    dropped: the source's reason when the row could not be read; then nothing else is known.
    focus_state, focus_reply, box, box_text, crop, response, finish: as in asking.Outcome.
    verdict: the judge's score in [0, 1], None when it was not asked or could not be read (verdict_state).
    """

    row: int
    id: str
    group: str
    dropped: str = ""
    question: str = ""
    answers: tuple[str, ...] = ()
    image_sha256: str = ""
    width: int = 0
    height: int = 0
    gold_boxes: tuple[Quad, ...] = ()
    focus_state: str = ""
    focus_reply: str = ""
    box: Quad | None = None
    box_text: str = ""
    crop: tuple[int, int, int, int] | None = None
    response: str | None = None
    finish: str = ""
    verdict: float | None = None
    verdict_state: str = "off"
    verdict_raw: str = ""


_BOX = pa.list_(pa.float64(), 4)
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("id", "group", "dropped", "question")),
        ("answers", pa.list_(pa.string())),
        ("image_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("gold_boxes", pa.list_(_BOX)),
        ("focus_state", pa.string()),
        ("focus_reply", pa.string()),
        ("box", _BOX),
        ("box_text", pa.string()),
        ("crop", pa.list_(pa.int32(), 4)),
        ("response", pa.string()),
        ("finish", pa.string()),
        ("verdict", pa.float64()),
        ("verdict_state", pa.string()),
        ("verdict_raw", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder of one model's predictions on one source. rows: of the source; size: rows in a chunk."""

    path: Path
    rows: int
    size: int

    @property
    def whole(self) -> Path:
        return self.path / "predictions.parquet"

    def chunk(self, index: int) -> Path:
        return self.path / f"chunk-{index:08d}.parquet"

    def missing(self) -> list[int]:
        """The chunks that are still to be made, in order."""
        if self.whole.is_file():
            return []
        return [i for i in range(-(-self.rows // self.size)) if not self.chunk(i).is_file()]


def open_shelf(folder: Path, about: dict[str, Any], rows: int, size: int) -> Shelf:
    """The shelf for what `about` says, made when it is not there yet."""
    text = json.dumps({**about, "rows": rows, "chunk_size": size}, sort_keys=True)
    path = folder / "predictions" / hashlib.sha256(text.encode()).hexdigest()[:12]
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "about.json").is_file():
        files.write_json(path / "about.json", json.loads(text))
    return Shelf(path, rows, size)


def write_chunk(shelf: Shelf, index: int, predictions: Sequence[Prediction]) -> None:
    """Store one unit of work; it is there as a whole or not at all."""
    rows = [dataclasses.asdict(prediction) for prediction in predictions]
    files.write_table(shelf.chunk(index), pa.Table.from_pylist(rows, SCHEMA))


def read_predictions(shelf: Shelf) -> list[Prediction]:
    """All predictions of a source, in its order; the chunks become one file the first time."""
    if not shelf.whole.is_file():
        chunks = [shelf.chunk(i) for i in range(-(-shelf.rows // shelf.size))]
        files.write_table(shelf.whole, pa.concat_tables([pq.read_table(chunk) for chunk in chunks]))
    for leftover in shelf.path.glob("chunk-*"):
        leftover.unlink()
    return [parse_prediction(row) for row in pq.read_table(shelf.whole).to_pylist()]


def parse_prediction(row: dict[str, Any]) -> Prediction:
    """A row of a predictions file."""
    for name in ("answers", "crop", "box"):
        row[name] = None if row[name] is None else tuple(row[name])
    return Prediction(**row | {"gold_boxes": tuple(tuple(box) for box in row["gold_boxes"])})
