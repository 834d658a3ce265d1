"""Read the Visual-CoT benchmark (Shao et al., arXiv 2403.16999): its published JSON files and a folder of images.

    visrl eval --source visual-cot:benchmark/gqa.json --images-root images/ --protocol visual-cot
    visrl eval --source visual-cot:benchmark/ --images-root images/        all eleven scored sets

A file is a list of rows, of which these fields are read:

    {"dataset": "gqa", "question_id": 4072, "image": ["cot/gqa/1.jpg", "cot/gqa/1.jpg###[287, 71, 365, 249]"],
     "conversations": [{"value": "<image>\\nWho carries the bag? Please provide the bounding box ..."}, ...,
                       {"value": "lady"}]}

The question is the first turn without its image and its request for a box, the answer the last turn, the gold box
the one behind "###", in pixels of the original image. `source` is the set, so that scores are reported set by
set and their mean is the benchmark's. Image paths are tried as they are, then as the published archive of the images
has them (cot_image_data/ for cot/), then without that folder. Training's rows are read by visual_cot_train.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop, Question
from visrl_data.sources.bad_row import BadRow
from visrl_data.sources.identity import files_digest
from visrl_data.sources.image_roots import open_roots
from visrl_data.sources.options import SourceOptions, named_columns
from visrl_data.sources.protocol import check_index
from visrl_data.sources.rows import Row, RowReader, read_row

NAME = "visual-cot"
SETS = (
    "docvqa",
    "textcap",
    "textvqa",
    "dude",
    "sroie",
    "infographicsvqa",
    "flickr30k",
    "gqa",
    "openimages",
    "vsr",
    "cub",
)
_REQUEST = re.compile(r"\s*Please provide the bounding box coordinate of the region.*", re.DOTALL)
_BOX = re.compile(r"###\[([^\[\]]*)\]\s*$")


class VisualCotSource:
    """Rows of one file of the benchmark, or of the scored sets in a folder, in the order of SETS.

    Ids: the set and the row's question_id; "-2", "-3", ... where a file repeats one. split: a label only.
    Raises VisRLError when there is no such file, or none of it is a list of rows.
    """

    name = NAME

    def __init__(self, path: Path, split: str, limit: int | None, options: SourceOptions) -> None:
        if options.columns:
            raise VisRLError(f"{NAME} has columns of its own, so --columns does not apply to it. Leave it out.")
        self.split = split
        self._files = _files(path)
        self._rows = [row for file in self._files for row in load(file)][:limit]
        if not self._rows:
            raise VisRLError(f"{path}: no rows.")
        roots = open_roots(options.images_root, path if path.is_dir() else path.parent)
        self._reader = RowReader(NAME, split, named_columns(SourceOptions()), options, roots, gold_format="xyxy")
        self._ids = row_ids(self._rows)

    def fingerprint(self) -> str:
        """Return the digest of the files. Images are covered by the image_sha256 of each question."""
        return files_digest(self._files)

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> list[str]:
        return list(self._ids)

    def read(self, i: int) -> Question | Drop:
        """Read row i. Raises IndexError."""
        check_index(i, len(self._rows))
        return read_row(self._reader, self._ids[i], self._ids[i], lambda: plain_row(self._rows[i]))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = [path / f"{name}.json" for name in SETS if (path / f"{name}.json").is_file()]
        if not files:
            raise VisRLError(f"{path}: expected the benchmark's files there, {SETS[0]}.json, {SETS[1]}.json, ...")
        return files
    if not path.is_file():
        raise VisRLError(f"{path}: no such file. Expected a .json file of the Visual-CoT benchmark, or their folder.")
    return [path]


def load(file: Path) -> list[Any]:
    """Read the rows of a .json file. Raises VisRLError."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise VisRLError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(rows, list):
        raise VisRLError(f"{file}: expected a list of rows, got {type(rows).__name__}.")
    return rows


def row_ids(rows: list[Any]) -> list[str]:
    """Return an id for each row: its set and question_id, with a number where that repeats; valid Unicode."""
    counts: Counter[str] = Counter()
    ids = []
    for row in rows:
        name = f"{row.get('dataset')}-{row.get('question_id')}" if isinstance(row, Mapping) else "row"
        name = name.encode("utf-8", "replace").decode()
        counts[name] += 1
        ids.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return ids


def plain_row(row: Any) -> Row:
    """Map a row with conversations to the columns of other sources. Raises BadRow."""
    if not isinstance(row, Mapping):
        raise BadRow("bad_json", f"expected an object, got {type(row).__name__}")
    turns, pictures = row.get("conversations"), row.get("image")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRow("bad_field", "conversations: expected at least two turns")
    if not isinstance(pictures, list) or not pictures or not all(isinstance(name, str) for name in pictures):
        raise BadRow("image_missing", f"expected a list of paths, got {pictures!r}"[:200])
    request = turns[0].get("value")
    return {
        "question": _REQUEST.sub("", request.replace("<image>", "")) if isinstance(request, str) else request,
        "answers": turns[-1].get("value"),
        "image": image_paths(pictures[0].partition("###")[0]),
        "boxes": _box(pictures[-1]),
        "box_space": "pixels",
        "source": row.get("dataset"),
    }


def image_paths(path: str) -> tuple[str, ...]:
    """Return the paths that an image may have. path: as the benchmark writes it."""
    bare = path.removeprefix("cot/")
    return (path,) if bare == path else (path, f"cot_image_data/{bare}", bare)


def _box(path: str) -> Any:
    """Return the box behind a path; its text where that is no list of numbers, which is then a bad label."""
    match = _BOX.search(path)
    if match is None:
        return None
    try:
        return [float(number) for number in match[1].split(",")]
    except ValueError:
        return match[0]
