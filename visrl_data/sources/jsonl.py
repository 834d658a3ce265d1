"""Read questions from a .jsonl file, one JSON object per line, or from a .json file, a list of objects.

    {"question": "What does the sign say?", "answers": ["stop"], "image": "photos/1.jpg",
     "id": "a1", "boxes": [[0.1, 0.2, 0.3, 0.4]], "license": "CC-BY-4.0", "source_url": "https://..."}

question, answers (or `answer`) and image (a path inside the folder of images, or a URL) are required;
`columns` renames any of them. Opening reads the file once for the ids and the bytes of each row; rows are read on
demand. Blank lines are no rows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop, Question
from visrl_data.sources.bad_row import BadRow
from visrl_data.sources.conversations import from_conversation
from visrl_data.sources.identity import check_unique, file_stamp, files_digest
from visrl_data.sources.image_roots import open_roots
from visrl_data.sources.options import SourceOptions, check_columns, named_columns
from visrl_data.sources.protocol import check_index
from visrl_data.sources.rows import RowReader, read_row, row_id, value_of

_BOM = b"\xef\xbb\xbf"
_BETWEEN = re.compile(r"[\s,]*")  # items of a list


class JsonlSource:
    """A .jsonl file as a Source. `name` is the file's stem.

    Ids: the row's own `id`; without one "q-" + 16 hex digits of a hash of its question and image, which stays
    when lines are added or moved (equal rows get "-2", "-3", ... in the order of the file); a line that is no
    JSON object, or whose id cannot be used, is "line-N". Raises VisRLError when there is no such file, when
    it holds no objects or lacks columns, and when two rows have the same id.
    """

    def __init__(self, path: Path, split: str, limit: int | None, options: SourceOptions) -> None:
        if not path.is_file():
            raise VisRLError(f"{path}: no such file.")
        self.name = path.stem
        self.split = split
        self._path = path
        self._stamp = file_stamp(path)
        self._offsets, self._lengths, self._numbers, self._ids, keys = _index(path, limit, options)
        if not keys:
            problem = "no line is a JSON object" if self._ids else "no rows"
            raise VisRLError(
                f"{path}: {problem}. Expected one JSON object a line, or a list of objects, "
                "with question, answers and image."
            )
        columns = named_columns(options)
        check_columns(f"{path}" if limit is None else f"{path}, rows 1 to {len(self)}", keys, columns, options)
        check_unique(str(path), self._ids, [f"line {number}" for number in self._numbers])
        self._reader = RowReader(self.name, split, columns, options, open_roots(options.images_root, path.parent))

    def fingerprint(self) -> str:
        """Return the digest of the file. Images are covered by the image_sha256 of each question."""
        return files_digest([self._path])

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> list[str]:
        return list(self._ids)

    def read(self, i: int) -> Question | Drop:
        """Read row i. Raises IndexError, and VisRLError when the file has changed since it was opened."""
        check_index(i, len(self._ids))
        if file_stamp(self._path) != self._stamp:
            raise VisRLError(f"{self._path}: the file changed while it was being read. Run the same command again.")
        return read_row(self._reader, self._ids[i], f"line {self._numbers[i]}", lambda: _parse(self._line(i)))

    def _line(self, i: int) -> bytes:
        with open(self._path, "rb") as file:
            file.seek(self._offsets[i])
            return file.read(self._lengths[i])


def _index(
    path: Path, limit: int | None, options: SourceOptions
) -> tuple[array[int], array[int], array[int], list[str], set[str]]:
    """Return byte offsets, lengths, line numbers and ids of the first `limit` rows, and all keys that occur in them."""
    offsets, lengths, numbers = array("Q"), array("Q"), array("Q")
    ids: list[str] = []
    keys: set[str] = set()
    columns = named_columns(options)
    hashed: Counter[str] = Counter()
    for number, offset, line in _rows(path):
        if len(ids) == limit:
            break
        try:
            row = from_conversation(_parse(line))
            keys.update(row)
            name = row_id(value_of(row, columns, "id"))
            if name is None:
                content = [value_of(row, columns, "question"), value_of(row, columns, "image")]
                name = f"q-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"
                hashed[name] += 1
                name += f"-{hashed[name]}" if hashed[name] > 1 else ""
        except BadRow:
            name = f"line-{number}"
        offsets.append(offset)
        lengths.append(len(line))
        numbers.append(number)
        ids.append(name)
    return offsets, lengths, numbers, ids, keys


def _rows(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield line number (from 1), byte offset and bytes of each line that is not blank; of a list, of each item."""
    if path.suffix == ".json" and _is_list(path):
        yield from _items(path)
        return
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.removeprefix(_BOM).strip():
                yield number, offset, line
            offset += len(line)


def _is_list(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4096).removeprefix(_BOM).lstrip()[:1] == b"["


def _items(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number (from 1), byte offset and bytes of each item of a list. Raises VisRLError."""
    decoder = json.JSONDecoder()
    try:
        text = path.read_bytes().decode("utf-8")
        start = text.index("[") + 1
        offset = len(text[:start].encode())
        for number in itertools.count(1):
            match = _BETWEEN.match(text, start)
            begin = match.end() if match else start
            if text[begin : begin + 1] == "]":
                return
            _, end = decoder.raw_decode(text, begin)
            offset += len(text[start:begin].encode())
            item = text[begin:end].encode()
            yield number, offset, item
            offset, start = offset + len(item), end
    except (ValueError, RecursionError) as error:
        raise VisRLError(f"{path} is not a list of JSON objects: {error}"[:400]) from error


def _parse(line: bytes) -> dict[str, Any]:
    """Parse a line. Raises BadRow("bad_json")."""
    try:
        row = json.loads(line.removeprefix(_BOM).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRow("bad_json", f"{type(error).__name__}: {error}"[:200]) from error
    if not isinstance(row, dict):
        raise BadRow("bad_json", f"expected an object, got {type(row).__name__}")
    return row
