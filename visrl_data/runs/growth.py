"""Let a run grow: the same options with a larger --limit, in the folder of the smaller run.

A chunk is a pure function of the options, the models and its questions, so the whole chunks of the smaller run are
those of the larger one; its last chunk, where it was cut short, is processed again. The chunks of a finished run are
taken from its shards, so that the larger run ends with the bytes of one that was made at once. Nothing is removed
before the chunks are on disk: after a kill the smaller run can be resumed too, until the new options are written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.conditions import differences
from visrl_data.core.errors import VisRLError
from visrl_data.core.files import fsync, lock_folder, write_json, write_text
from visrl_data.core.records import IMAGE_SCHEMA
from visrl_data.runs import run_folder
from visrl_data.runs.manifest import RunIdentity
from visrl_data.runs.run_folder import Run
from visrl_data.runs.stored_images import StoredImages

_GROWING = {"limit", "source.rows"}


def grow(path: Path, config_text: str, identity: RunIdentity, ids: Callable[[], Sequence[str]]) -> None:
    """Make the run at `path` an unfinished larger one, where only the limit differs and is larger; else do nothing.

    ids: of the larger run's rows. Raises VisRLError when the files of the run were changed, or when its rows are not
    the first of the larger run.
    """
    run = Run(path)
    if not (path / "run.json").is_file():
        return
    old, new = run.conditions(), run_folder.conditions(config_text, identity)
    changed = differences(old, new, run_folder.ignored_keys(run.identity()))
    rows = run.identity()["source"]["rows"]
    if not changed or not changed.keys() <= _GROWING or identity["source"]["rows"] < rows:
        return
    with lock_folder(path):
        size = int(run.config()["chunk_size"])
        if run.is_finished:
            _restore_chunks(run, list(ids())[:rows], size)
        if rows < identity["source"]["rows"] and rows % size:
            shutil.rmtree(run.chunk_path(rows // size), ignore_errors=True)
        (path / "work").mkdir(exist_ok=True)  # tells an unfinished run from one that lost its manifest
        run.manifest_path.unlink(missing_ok=True)
        for name in run_folder.TABLES:
            shutil.rmtree(path / name, ignore_errors=True)
        for name in run_folder.FILTERED:
            (path / name).unlink(missing_ok=True)
        fsync(path)
        write_json(path / "run.json", identity)
        write_text(path / "config.toml", config_text)


def _restore_chunks(run: Run, ids: Sequence[str], size: int) -> None:
    """Write the chunks of a finished run as they were before its shards were made."""
    run_folder.check_files(run, but=run_folder.FILTERED)
    questions, drops, candidates = (run.table(name) for name in ("questions", "drops", "candidates"))
    row_of_question, row_of_drop = _rows(run, ids, questions["id"], drops)
    rows = {
        "questions": row_of_question,
        "candidates": row_of_question[_positions(candidates["question_id"], questions["id"])],
        "drops": row_of_drop,
    }
    tables = {"questions": questions, "candidates": candidates, "drops": drops}
    images = StoredImages(run.shards("images"))
    for index in range(-(-len(ids) // size)):
        if run.has_chunk(index):
            continue
        chunk = {name: table.filter(pa.array(rows[name] // size == index)) for name, table in tables.items()}
        run_folder.write_chunk(run, index, chunk | {"images": _images(chunk["questions"], images)})


def _rows(run: Run, ids: Sequence[str], questions: pa.ChunkedArray, drops: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the row in the source of each question and of each drop.

    Questions and rows dropped at the source are stored in the order of the source, each row as one of the two.
    """
    at_source = pc.equal(drops["stage"], "source").to_numpy()
    kept, lost = questions.to_pylist(), drops["id"].filter(pa.array(at_source)).to_pylist()
    row_of_question, row_of_lost = np.zeros(len(kept), np.int64), np.zeros(len(lost), np.int64)
    q = d = 0
    for row, name in enumerate(ids):
        if q < len(kept) and kept[q] == name:
            row_of_question[q], q = row, q + 1
        elif d < len(lost) and lost[d] == name:
            row_of_lost[d], d = row, d + 1
        else:
            raise VisRLError(
                f"Row {row + 1} of the source is {name!r}, which {run.path} does not have in this place: the run can't "
                "grow. Choose another --output."
            )
    row_of_drop = np.zeros(drops.num_rows, np.int64)
    row_of_drop[at_source] = row_of_lost
    of_models = drops["id"].filter(pa.array(~at_source))
    row_of_drop[~at_source] = row_of_question[_positions(of_models, questions)]
    return row_of_question, row_of_drop


def _positions(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    positions: np.ndarray = pc.index_in(ids, value_set=among.combine_chunks()).to_numpy()
    return positions


def _images(questions: pa.Table, images: StoredImages) -> pa.Table:
    """Return the images of a chunk's questions, each once."""
    shown = questions.select(["image_sha256", "width", "height"]).to_pylist()
    rows = {
        row["image_sha256"]: {
            "sha256": row["image_sha256"],
            "bytes": images(row["image_sha256"]),
            "width": row["width"],
            "height": row["height"],
        }
        for row in shown
    }
    return pa.Table.from_pylist([*rows.values()], IMAGE_SCHEMA)
