"""Read sets in the form in which they are published, with their own questions: a table says how each one looks.

    visrl gen --source gqa --split train                     from the Hub: lmms-lab/GQA, its newest commit
    visrl gen --source docvqa@COMMIT --split validation      another revision
    visrl gen --source vsr:FOLDER --images-root coco.zip     the same files, already on disk

Opened by hf.py's `open_hub` or as local .parquet and .jsonl files, read by rows.py like any other table. The license
is what the set's own makers state, "" where this project knows of none: the tags of those who uploaded a set again
often contradict it and are never adopted. Images are withheld from publication wherever their terms are not known
to allow it.

Reasons of drops besides those of rows.py: bad_label (vsr: neither 0 nor 1), bad_turn (visual7w: not in its form).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import expand_home
from visrl_data.core.records import Drop, Question
from visrl_data.sources.bad_row import BadRow
from visrl_data.sources.hf import check_paths, column_values, stored_row
from visrl_data.sources.identity import check_unique
from visrl_data.sources.image_roots import open_roots
from visrl_data.sources.options import SourceOptions, named_columns
from visrl_data.sources.protocol import check_index
from visrl_data.sources.rows import Row, RowReader, read_row, row_id
from visrl_data.sources.tables import SourceTable, open_files, open_hub

if TYPE_CHECKING:
    from datasets import Dataset

_CHOICES = re.compile(r"\s*Question:\s*(?P<question>.+?)\s*\nChoices:\s*\n(?P<choices>.+?)\s*", re.DOTALL)
_CHOICE = re.compile(r"^([A-Z])\.\s*(.*\S)\s*$", re.MULTILINE)
_LETTER = re.compile(r"\s*(?:Answer:)?\s*([A-Z])\b")
_SPLIT_FILES = {"validation": ("validation", "val", "dev")}  # how files name a split; others by the split's name


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A set as it is published. hub: USER/NAME, with config where it has several ("{split}" stands for the split).

    needs: the columns that are read. row: maps a row to the columns of other sources. turns: a column of lists, each
    item of which is a question. pictures: the config of images, joined by `id` to a row's imageId. ship: whether its
    images may be redistributed; None: it depends on the image, and the user decides.
    """

    hub: str
    config: str
    needs: tuple[str, ...]
    row: Callable[[Mapping[str, Any]], Row]
    id: str = ""
    turns: str = ""
    pictures: str = ""
    license: str = ""
    ship: bool | None = False


def _gqa(row: Mapping[str, Any]) -> Row:
    name = row["imageId"]
    return {"question": row["question"], "answers": row["answer"], "image": (f"{name}.jpg", f"images/{name}.jpg")}


def _textvqa(row: Mapping[str, Any]) -> Row:
    plain = {name: row[name] for name in ("question", "answers", "image")}
    return plain | {"source_url": row["flickr_original_url"]}


def _docvqa(row: Mapping[str, Any]) -> Row:
    return {name: row[name] for name in ("question", "answers", "image")}


def _infographicsvqa(row: Mapping[str, Any]) -> Row:
    return {**_docvqa(row), "source_url": row["image_url"]}


def _vsr(row: Mapping[str, Any]) -> Row:
    """Turn a caption that is true or false of the image into a question."""
    caption, label, name, link = (row[key] for key in ("caption", "label", "image", "image_link"))
    if label not in (0, 1):
        raise BadRow("bad_label", f"expected 0 or 1, got {label!r}"[:200])
    if not isinstance(caption, str) or not caption.strip():
        raise BadRow("no_question", f"caption: expected text, got {caption!r}"[:200])
    return {
        "question": f"Is this true of the picture? {caption.strip()}",
        "answers": "yes" if label else "no",
        "image": tuple(way for way in (name, link) if isinstance(way, str)),
        "source_url": link,
    }


def _visual7w(row: Mapping[str, Any]) -> Row:
    """Turn a multiple-choice turn into an open question whose answer is the text of the correct choice."""
    turn = row["texts"]
    user, assistant = (turn.get(key) if isinstance(turn, Mapping) else None for key in ("user", "assistant"))
    block = _CHOICES.fullmatch(user) if isinstance(user, str) else None
    letter = _LETTER.match(assistant) if isinstance(assistant, str) else None
    choices = dict(_CHOICE.findall(block["choices"])) if block else {}
    if block is None or letter is None or letter[1] not in choices:
        raise BadRow("bad_turn", f"expected a question with choices and a letter, got {user!r}, {assistant!r}"[:200])
    return {"question": block["question"], "answers": choices[letter[1]], "image": row["images"]}


PUBLISHED_SETS = {
    "gqa": PublishedSet(
        "lmms-lab/GQA",
        "{split}_balanced_instructions",
        ("id", "imageId", "question", "answer"),
        _gqa,
        id="id",
        pictures="{split}_balanced_images",
    ),
    "textvqa": PublishedSet(
        "lmms-lab/textvqa",
        "",
        ("question_id", "question", "answers", "image", "flickr_original_url"),
        _textvqa,
        id="question_id",
        license="CC-BY-4.0",
        ship=None,
    ),
    "docvqa": PublishedSet(
        "lmms-lab/DocVQA", "DocVQA", ("questionId", "question", "answers", "image"), _docvqa, id="questionId"
    ),
    "infographicsvqa": PublishedSet(
        "lmms-lab/DocVQA",
        "InfographicVQA",
        ("questionId", "question", "answers", "image", "image_url"),
        _infographicsvqa,
        id="questionId",
    ),
    "vsr": PublishedSet(
        "cambridgeltl/vsr_zeroshot", "", ("image", "image_link", "caption", "label"), _vsr, license="CC-BY-4.0"
    ),
    "visual7w": PublishedSet("HuggingFaceM4/the_cauldron", "visual7w", ("images", "texts"), _visual7w, turns="texts"),
}


class PublishedSetSource:
    """The questions of a published set as a Source; a row may hold several.

    Ids: the set's own; without one SPLIT and the row's number; then the number of the question in a row that holds
    several. Raises VisRLError when it cannot be opened, lacks columns, or repeats an id.
    """

    def __init__(self, name: str, split: str, limit: int | None, options: SourceOptions) -> None:
        if options.columns:
            raise VisRLError(f"--source {name}: visrl knows its columns. Leave --columns out.")
        self.name = re.split("[:@]", name, maxsplit=1)[0]
        self.split = split
        self._kind = kind = PUBLISHED_SETS[self.name]
        self._table = table = _open(kind, name, kind.config, split)
        _check_columns(table, kind.needs, split)
        check_paths(table, [name for name in ("image",) if name in kind.needs], options)
        self._rows = table.rows.select_columns(list(kind.needs)).with_format("arrow")
        self._index = _questions(self._rows, kind.turns)[:limit]
        self._ids = self._find_ids()
        check_unique(table.name, self._ids, [f"row {row}" for row, _ in self._index])
        self._pictures: Dataset | None = None
        self._picture_rows: dict[str, int] = {}
        if kind.pictures and options.images_root is None:
            joined = _open(kind, name, kind.pictures, split)
            _check_columns(joined, ("id", "image"), split)
            self._pictures = joined.rows.select_columns(["id", "image"]).with_format("arrow")
            ids = enumerate(column_values(joined.rows, "id"))
            self._picture_rows = {image_id: i for i, image_id in ids if image_id is not None}
        roots = open_roots(options.images_root, table.root)
        self._reader = RowReader(self.name, split, named_columns(SourceOptions()), options, roots, table.url)

    def fingerprint(self) -> str:
        """Return the digest of the files; from the Hub the commit. A separate config of images is not part of it."""
        return self._table.fingerprint()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> list[str]:
        return list(self._ids)

    def read(self, i: int) -> Question | Drop:
        """Read row i. Raises IndexError."""
        check_index(i, len(self._ids))
        return read_row(self._reader, self._ids[i], f"{self.split}/{self._index[i][0]}", lambda: self._row(i))

    def _row(self, i: int) -> Row:
        number, turn = self._index[i]
        stored = stored_row(self._rows, number)
        if turn is not None:
            stored[self._kind.turns] = (stored[self._kind.turns] or [None])[turn]
        row = self._kind.row(stored)
        if self._pictures is not None:
            row = {**row, "image": self._picture(stored["imageId"])}
        return {"license": self._kind.license, "ship_image": self._kind.ship, **row}

    def _picture(self, name: Any) -> Any:
        row = self._picture_rows.get(name)
        if row is None or self._pictures is None:
            raise BadRow("image_missing", f"no image {name!r} among those of the set"[:200])
        return stored_row(self._pictures, row)["image"]

    def _find_ids(self) -> list[str]:
        own = column_values(self._rows, self._kind.id) if self._kind.id else []
        ids = []
        for number, turn in self._index:
            try:
                name = row_id(own[number]) if own else None
            except BadRow:
                name = None
            ids.append((name or f"{self.split}-{number:08d}") + ("" if turn is None else f"-{turn}"))
        return ids


def _check_columns(table: SourceTable, needs: Sequence[str], split: str) -> None:
    missing = [name for name in needs if name not in table.rows.features]
    if missing:
        columns = ", ".join(sorted(table.rows.features))
        raise VisRLError(f"{table.name}: split {split!r} has no column {', '.join(missing)}. Columns there: {columns}.")


def _questions(rows: Dataset, turns: str) -> list[tuple[int, int | None]]:
    """Return (row, number of the question in it) of each question; None where every row is one question.

    A row with an empty list counts as one question, which becomes a Drop.
    """
    if not turns:
        return [(number, None) for number in range(len(rows))]
    lists = enumerate(column_values(rows, turns))
    return [(number, turn) for number, items in lists for turn in range(len(items or [None]))]


def _open(kind: PublishedSet, source: str, config: str, split: str) -> SourceTable:
    config = config.format(split=split)
    name, _, path = source.partition(":")
    if path:
        return _open_local(expand_home(path), name, config, split)
    revision = source.partition("@")[2]
    return open_hub(kind.hub + f":{config}" * bool(config) + f"@{revision}" * bool(revision), split)


def _open_local(path: Path, name: str, config: str, split: str) -> SourceTable:
    """Open a .parquet or .jsonl file, or a folder laid out as on the Hub: CONFIG/, data/ or itself holds the files."""
    if path.is_file():
        return open_files(name, [path], split)
    folders = [folder for folder in (path / config, path / "data", path) if folder.is_dir()]
    for folder in folders:
        for word in _SPLIT_FILES.get(split, (split,)):
            pattern = rf"{re.escape(word)}(-.+)?\.(parquet|jsonl)"
            files = [file for file in sorted(folder.iterdir()) if re.fullmatch(pattern, file.name)]
            if files:
                return open_files(name, files, split)
    raise VisRLError(
        f"{path}: expected {split}.jsonl, {split}.parquet or {split}-00000-of-00001.parquet, ... "
        f"in {config + '/, ' if config else ''}data/ or there."
    )
