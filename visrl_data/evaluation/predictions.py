"""Cache the predictions of one model on one source on disk; finished chunks are never predicted again.

    EVAL/predictions/KEY/about.json           what the predictions depend on; KEY is the digest of it
    EVAL/predictions/KEY/chunk-N.parquet      one finished chunk
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

from visrl_data.core import files
from visrl_data.core.reading import read_table

Quad = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model answered to one row of a source. Boxes are unit xyxy of the original image.

    row: its number in the source. group: the question's own `source`, by which scores are broken down.
    dropped: the source's reason when the row could not be read; then nothing else is known.
    focus_state, focus_reply, box, box_text, crop, response, finish: as in inference.ModelOutput.
    verdict: the judge's score in [0, 1], None when there was none or it could not be read (verdict_state).
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


# Of any length: pyarrow before 26 can't read a null list of fixed size from parquet (apache/arrow#35692).
_BOX = pa.list_(pa.float64())
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
        ("crop", pa.list_(pa.int32())),
        ("response", pa.string()),
        ("finish", pa.string()),
        ("verdict", pa.float64()),
        ("verdict_state", pa.string()),
        ("verdict_raw", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class PredictionCache:
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
        """Return the chunks that are still to be predicted, in order."""
        if self.whole.is_file():
            return []
        return [i for i in range(-(-self.rows // self.size)) if not self.chunk(i).is_file()]


def check_output(folder: Path) -> None:
    """Raise VisRLError when a folder is neither new nor that of an evaluation: it would be overwritten."""
    if not any((folder / "predictions").glob("*/about.json")):
        files.check_own(folder, {"predictions"})


def open_cache(folder: Path, about: dict[str, Any], rows: int, size: int) -> PredictionCache:
    """Open the cache of the predictions that depend on `about`; create it when there is none."""
    text = json.dumps({**about, "rows": rows, "chunk_size": size}, sort_keys=True)
    path = folder / "predictions" / hashlib.sha256(text.encode()).hexdigest()[:12]
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "about.json").is_file():
        files.write_json(path / "about.json", json.loads(text))
    return PredictionCache(path, rows, size)


def write_chunk(cache: PredictionCache, index: int, predictions: Sequence[Prediction]) -> None:
    """Store a chunk, atomically."""
    rows = [dataclasses.asdict(prediction) for prediction in predictions]
    files.write_table(cache.chunk(index), pa.Table.from_pylist(rows, SCHEMA))


def read_predictions(cache: PredictionCache) -> list[Prediction]:
    """Return all predictions of a source, in its order; the first time, merge the chunks into one file."""
    advice = "Remove this file and run the same command again: its predictions are made again."
    if not cache.whole.is_file():
        chunks = [cache.chunk(i) for i in range(-(-cache.rows // cache.size))]
        files.write_table(cache.whole, pa.concat_tables([read_table(chunk, SCHEMA, advice) for chunk in chunks]))
    predictions = read_table(cache.whole, SCHEMA, advice)
    for leftover in cache.path.glob("chunk-*"):
        leftover.unlink()
    return [parse_prediction(row) for row in predictions.to_pylist()]


def parse_prediction(row: dict[str, Any]) -> Prediction:
    """Return the prediction in a row of a predictions file."""
    for name in ("answers", "crop", "box"):
        row[name] = None if row[name] is None else tuple(row[name])
    return Prediction(**row | {"gold_boxes": tuple(tuple(box) for box in row["gold_boxes"])})
