"""Read Visual-CoT's training rows (Shao et al., arXiv 2403.16999), from which the paper takes SFT and RL questions.

    visrl train sft --source visual-cot-train:viscot_363k.json --split sft --images-root images/
    visrl gen --source visual-cot-train:metadata/ --images-root images/         RL, --split train
    visrl gen --source visual-cot-train:metadata/:gqa --images-root gqa=images.zip      one set

Both published forms are recognized row by row: the list of conversations (viscot_363k.json, rows as in
visual_cot.py) and the metadata of a set (gqa_cot_train.jsonl), with lines like

    {"question": "What is this?", "answer": "tv", "image": "4101.jpg", "width": 640, "height": 354,
     "bboxs": [[343.87, 94.03, 396.81, 126.06]], "dataset": "vsr", "split": "train"}

Its boxes, in pixels of the original image, become the bounding box of them all, as in Visual-CoT's own conversion.

Splits: "sft" and "train" have no row in common, nor the same question about an image; "all" is both. In each set the
rows are ordered by a hash of image and question. The first are for SFT, as many as in the paper's Table 7, the rest
for RL (in a file with fewer rows than the table, in its proportion). In generation, boxes serve the audit only.

A reason of drops besides those of rows.py: image_size_mismatch (width and height are not those of the image). Of
labels: box_mismatch (the box in the text, relative to the square-padded image, is not the one in pixels).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import expand_home
from visrl_data.core.records import Drop, LabelProblem, Question
from visrl_data.sources.bad_row import BadRow
from visrl_data.sources.identity import file_stamp, files_digest, halves, interleaved
from visrl_data.sources.image_roots import open_roots
from visrl_data.sources.options import SourceOptions, named_columns
from visrl_data.sources.protocol import check_index
from visrl_data.sources.row_answers import ANNOTATORS
from visrl_data.sources.rows import Row, RowReader, read_row
from visrl_data.sources.visual_cot import image_paths, load, plain_row, row_ids

NAME = "visual-cot-train"
SPLITS = ("sft", "train", "all")
# The paper's Table 7: questions for SFT, with boxes, and for RL, without.
TABLE_7 = {
    "flickr30k": (4000, 32500),
    "gqa": (4000, 30000),
    "infographicsvqa": (4055, 11000),
    "openimages": (3053, 40000),
    "textcap": (4152, 28000),
    "textvqa": (3524, 15000),
    "vsr": (1876, 1500),
    "cub": (1987, 2000),
    "visual7w": (4000, 20000),
}
_TOTAL = (30647, 180000)  # the sums of the table, in whose proportion other sets are split
_ALIASES = {"v7w": "visual7w"}  # the label of a set in the rows, where it is not the set's name
_FOLDERS = {"textcap": ("textvqa", "textcap"), "visual7w": ("v7w", "visual7w")}  # of images, where not the set's name
# Photographs that may be shipped with attribution, each by its own terms: the user decides.
_USER_DECIDES = {"openimages", "textcap", "textvqa"}
_NUMBER = r"\s*([0-9]*\.?[0-9]+)\s*"
_TEXT_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_COLUMNS = ("dataset", "question_id", "question", "answer", "possible_answers", "image", "width", "height", "bboxs")
_TOLERANCE = 0.0011  # of the longer side, and a pixel: the box in the text has three decimals


class VisualCotTrainSource:
    """Rows of a file, or of the *_cot_train.jsonl files in a folder, of one set or of all.

    location: PATH or PATH:SET. Ids: the set, and the row's question_id or, where it has none, a hash of its image,
    question and answer. Raises VisRLError when there is no such file, set or split, or no row.
    """

    name = NAME

    def __init__(self, location: str, split: str, limit: int | None, options: SourceOptions) -> None:
        if options.columns:
            raise VisRLError(f"{NAME} has columns of its own, so --columns does not apply to it. Leave it out.")
        if split not in SPLITS:
            raise VisRLError(f"{NAME} has no split {split!r}. Expected one of: {', '.join(SPLITS)}.")
        path, only = _path_and_set(location)
        self.split = split
        self._files = _files(path, only)
        all_rows = [row for file in self._files for row in _rows(file, file_stamp(file))]
        rows = [row for row in all_rows if only in ("", _set(row))]
        names = row_ids([_with_id(row) for row in rows])
        numbers = _rows_of_split(rows, split)[:limit]
        if not numbers:
            sets = ", ".join(sorted({_set(row) for row in all_rows} - {""})) or "none"
            raise VisRLError(f"{path}: no rows{f' of {only!r}' * bool(only)} in split {split!r}. Sets: {sets}.")
        self._rows = [rows[i] for i in numbers]
        self._ids = [names[i] for i in numbers]
        roots = open_roots(options.images_root, path if path.is_dir() else path.parent)
        columns = named_columns(SourceOptions())
        self._reader = RowReader(NAME, split, columns, options, roots, check=_check, gold_format="xyxy")

    def fingerprint(self) -> str:
        """Return a digest of the files, the split and the set. Images are covered by each question's sha256."""
        sets = sorted({_set(row) for row in self._rows})
        text = "\n".join((*(_digest(file, file_stamp(file)) for file in self._files), self.split, *sets))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> list[str]:
        return list(self._ids)

    def read(self, i: int) -> Question | Drop:
        """Read row i. Raises IndexError."""
        check_index(i, len(self._rows))
        return read_row(self._reader, self._ids[i], self._ids[i], lambda: _plain(self._rows[i]))


def _path_and_set(location: str) -> tuple[Path, str]:
    path = expand_home(location)
    before, colon, name = location.rpartition(":")
    if not path.exists() and colon and "/" not in name:
        return expand_home(before), _ALIASES.get(name, name)
    return path, ""


def _files(path: Path, only: str) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob(f"{only or '*'}_cot_train.jsonl"))
    if not files:
        raise VisRLError(
            f"{path}: expected a .json file of Visual-CoT's training conversations, or the folder of its metadata "
            f"with {only or 'gqa'}_cot_train.jsonl in it."
        )
    return files


@functools.lru_cache(maxsize=1)  # the parts of a mix open the same file one after the other
def _rows(file: Path, stamp: tuple[int, int]) -> list[Any]:
    if file.suffix != ".jsonl":
        return load(file)
    with open(file, "rb") as lines:
        return [_line(line) for line in lines if line.strip()]


@functools.lru_cache(maxsize=16)
def _digest(file: Path, stamp: tuple[int, int]) -> str:
    return files_digest([file])


def _line(line: bytes) -> Any:
    """Parse a line; the text of one that is no JSON stays as it is and becomes a Drop when it is read."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return line.decode("utf-8", "replace")[:200]
    return {name: row[name] for name in _COLUMNS if name in row} if isinstance(row, dict) else row


def _set(row: Any) -> str:
    """Return the name of the row's set; "" for a row without one."""
    name = row.get("dataset") if isinstance(row, Mapping) else ""
    return _ALIASES.get(name, name) if isinstance(name, str) and name.isprintable() else ""


def _with_id(row: Any) -> Any:
    """Return set and id in the fields that row_ids reads. Metadata has no ids: theirs are a hash of the content."""
    if not isinstance(row, Mapping):
        return row
    number = row.get("question_id")
    if not isinstance(number, int) and not (isinstance(number, str) and number.isprintable()):
        content = json.dumps([row.get(key) for key in ("image", "question", "answer")])
        number = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {"dataset": _set(row) or "row", "question_id": number}


def _rows_of_split(rows: list[Any], split: str) -> list[int]:
    """Return the numbers of a split's rows: each set in keyed order, the sets interleaved by their sizes."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[_set(row)].append(i)
    parts = []
    for name, numbers in groups.items():
        sft, train = halves([_key(rows[i]) for i in numbers], *TABLE_7.get(name, _TOTAL))
        parts.append([numbers[k] for k in {"sft": sft, "train": train, "all": sft + train}[split]])
    return [parts[group][k] for group, k in interleaved([len(part) for part in parts])]


def _key(row: Any) -> str:
    """Return the name of the image and the question: what both published forms have in common."""
    if not isinstance(row, Mapping):
        return str(row)
    try:
        plain = _plain(row)
        return json.dumps([str(plain["image"][0]).rpartition("/")[2], str(plain["question"]).strip()])
    except BadRow:
        return json.dumps(row, default=str, sort_keys=True)


def _plain(row: Any) -> Row:
    """Map a row of either form to the columns of other sources. Raises BadRow."""
    if not isinstance(row, Mapping):
        raise BadRow("bad_json", f"expected an object, got {row!r}"[:200])
    name = _set(row)
    common = {"source": name or None, "ship_image": None if name in _USER_DECIDES else False}
    if "conversations" in row:
        return {**plain_row(row), **common, "text_box": row["conversations"][1].get("value")}
    image, boxes = row.get("image"), row.get("bboxs")
    if not isinstance(image, str) or not image.strip():
        raise BadRow("image_missing", f"expected a file name, got {image!r}"[:200])
    others = row.get("possible_answers")
    others = others if isinstance(others, list) else []
    return {
        **common,
        "question": row.get("question"),
        "answers": others if len(others) == ANNOTATORS else [row.get("answer"), *others],
        "image": tuple(path for folder in _FOLDERS.get(name, (name,)) for path in image_paths(f"cot/{folder}/{image}")),
        "boxes": _bounding_box(boxes),
        "box_space": "pixels",
        "declared": (row.get("width"), row.get("height")),
    }


def _bounding_box(boxes: Any) -> Any:
    """Return the box around all; rows.py refuses what is no list of numbers."""
    try:
        x1, y1, x2, y2 = zip(*boxes, strict=True)
        return [min(x1), min(y1), max(x2), max(y2)]
    except (TypeError, ValueError):
        return boxes


def _check(row: Row, size: tuple[int, int]) -> LabelProblem | None:
    """Compare the image size that a row states, and its box in the text, with the image and the box in pixels."""
    declared = row.get("declared")
    if declared is not None and None not in declared and tuple(declared) != size:
        raise BadRow(
            "image_size_mismatch", f"the row says {declared[0]}x{declared[1]}, the image is {size[0]}x{size[1]}"
        )
    text, box = row.get("text_box"), row.get("boxes")
    match = _TEXT_BOX.search(text) if isinstance(text, str) else None
    if match is None or not isinstance(box, list) or len(box) != 4:
        return None
    longer = max(size)
    pads = [(longer - side) // 2 for side in size]
    from_text = [float(number) * longer - pad for number, pad in zip(match.groups(), (*pads, *pads), strict=True)]
    if any(abs(a - b) > _TOLERANCE * longer + 1 for a, b in zip(from_text, box, strict=True)):
        pixels = [round(number) for number in from_text]
        return LabelProblem("box_mismatch", f"{match[0]} is {pixels} of the {size[0]}x{size[1]} image, not {box}"[:200])
    return None
