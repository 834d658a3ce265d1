"""Read one row of a table, from whatever file, as a Question, or as a Drop that says what is wrong with it.

All sources that are read from files share this. Nothing is guessed: a value that does not fit drops its row, with
a reason of its own.

Reasons: bad_json (jsonl only), bad_id, no_question, no_answer, bad_answer, bad_text (not valid Unicode),
bad_field (license, ship_image, ...), several_images, and the image_* of `BadImage`; sources
of published sets have some more (published_sets.py, visual_cot_train.py).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visrl_data.core.images import BadImage, decode, sha256
from visrl_data.core.metrics import is_about_question
from visrl_data.core.records import Drop, LabelProblem, Question
from visrl_data.core.text import one_line
from visrl_data.sources.gold_labels import read_gold
from visrl_data.sources.image_roots import Roots
from visrl_data.sources.options import Columns, SourceOptions
from visrl_data.sources.urls import fetch_image, shown

logger = logging.getLogger(__name__)
_SAID: set[tuple[str, str]] = set()  # sources and reasons
Row = Mapping[str, Any]
ANNOTATORS = 10
"""How many answers a question has in sets that were answered by annotators."""


def no_check(row: Row, size: tuple[int, int]) -> LabelProblem | None:
    """Accept every row: the check of sources whose rows say nothing about their image."""
    return None


@dataclass(frozen=True, slots=True)
class RowReader:
    """What `read_row` needs to know about a source: its names, its columns, where its images are.

    roots: image paths are relative to them and may not lead out of them. url: source_url of rows that have none.
    check: raises BadRow when what a row says of its image contradicts the image's (width, height), and returns what is
    wrong with its gold boxes.
    """

    source: str
    split: str
    columns: Columns
    options: SourceOptions
    roots: Roots
    url: str = ""
    check: Callable[[Row, tuple[int, int]], LabelProblem | None] = no_check


class BadRow(Exception):
    """Raised for a row that becomes a Drop; never leaves this package."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def value_of(row: Row, columns: Columns, name: str) -> Any:
    """Return a field's value: that of its first column that is not null, else None."""
    return next((row[c] for c in columns[name] if row.get(c) is not None), None)


def row_id(value: Any) -> str | None:
    """Return an id as text, of a text or a whole number; None for null. Raises BadRow("bad_id")."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        return None
    try:
        return _text(value, "bad_id")
    except BadRow as error:
        raise BadRow("bad_id", error.detail) from error


def read_row(reader: RowReader, row_name: str, position: str, load: Callable[[], Row]) -> Question | Drop:
    """Read one row. row_name: its id; position: its place in the source, the source_id of rows that have none."""
    source = reader.source
    try:
        row = load()
        source = _text_field(reader, row, "source", source)
        return _question(reader, row, row_name, position, source)
    except (BadRow, BadImage) as error:
        return Drop(row_name, source, "source", error.reason, f"{position}: {error.detail}")


def _question(reader: RowReader, row: Row, row_name: str, position: str, source: str) -> Question:
    def get(name: str) -> Any:
        return value_of(row, reader.columns, name)

    options = reader.options
    row_id(get("id"))  # raises for an id that cannot be used
    question, answers = _text(get("question"), "no_question"), answer_texts(get("answers"))
    data = _image_bytes(get("image"), reader, source)
    size = decode(data, options.max_image_pixels).size
    space = get("box_space")
    boxes, problems = read_gold(get("boxes"), options.gold_space if space is None else space, options.gold_format, size)
    mismatch = reader.check(row, size)
    if mismatch is not None:
        boxes, problems = (), (mismatch,)
    _say_problems(reader.source, row_name, problems)
    return Question(
        id=row_name,
        source=source,
        split=reader.split,
        question=question,
        answers=answers,
        image=data,
        image_sha256=sha256(data),
        width=size[0],
        height=size[1],
        gold_boxes=boxes,
        source_id=row_id(get("source_id")) or position,
        source_url=_text_field(reader, row, "source_url", reader.url),
        license=_text_field(reader, row, "license", options.license),
        ship_image=_may_ship(get("ship_image"), options.ship_images),
        label_problems=problems,
    )


def _say_problems(source: str, row_name: str, problems: Sequence[LabelProblem]) -> None:
    """Log the first problem of each kind; all are counted in the report."""
    for problem in problems:
        if (source, problem.reason) not in _SAID:
            _SAID.add((source, problem.reason))
            detail = one_line(f"row {row_name}: {problem.reason}: {problem.detail}", 400)
            logger.warning("%s: %s. The question stays; further ones are only counted.", one_line(source), detail)


def answer_texts(value: Any) -> tuple[str, ...]:
    """Return the accepted answers, of a value or a list of values: as texts, each once, in their order.

    Annotators' answers keep their repeats, since they are votes: ten values (VQA v2, TextVQA, OK-VQA, VizWiz), or
    objects such as {"answer": "net", "answer_confidence": "yes"}. Numbers and booleans become text: 3 and 3.0 "3", 2.50
    "2.5", true "yes", false "no". Nulls and empty texts in a list are skipped. Raises BadRow: no_answer when none is
    left, or only such as "unanswerable"; bad_answer, bad_text.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    is_voted = len(values) == ANNOTATORS or any(isinstance(item, Mapping) for item in values)
    items = [item["answer"] if isinstance(item, Mapping) and "answer" in item else item for item in values]
    texts = [text for text in (_answer(item) for item in items if item is not None and item != "") if text]
    if not texts:
        raise BadRow("no_answer", f"got {value!r}"[:200])
    if is_voted and all(map(is_about_question, texts)):
        raise BadRow("no_answer", f"the annotators said only {texts[0]!r}"[:200])
    return tuple(texts if is_voted else dict.fromkeys(texts))


def _answer(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        raise BadRow("bad_answer", f"expected text, a number or true/false, got {value!r}"[:200])
    return _text(value, "no_answer") if value.strip() else ""


def _text_field(reader: RowReader, row: Row, name: str, default: str) -> str:
    """Return an optional text field."""
    value = value_of(row, reader.columns, name)
    return default if value is None or value == "" else _text(value, "bad_field", f"{name}: ")


def _text(value: Any, reason: str, name: str = "") -> str:
    """Strip a text. Raises BadRow(reason) for an empty one, bad_text for one that is not valid Unicode."""
    if not isinstance(value, str) or not value.strip():
        raise BadRow(reason, f"{name}expected text, got {value!r}"[:200])
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("bad_text", f"half a surrogate pair in {value!r}"[:200]) from error
    return value.strip()


def _image_bytes(value: Any, reader: RowReader, source: str) -> bytes:
    """Read the encoded image of a row: bytes, a path or URL, {bytes, path}, or a list of one of these.

    A tuple holds alternative paths and URLs of one image; the first that exists counts.
    """
    if isinstance(value, list):
        if len(value) > 1:
            raise BadRow("several_images", f"{len(value)} images; a question is about one")
        value = value[0] if value else None
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    names = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(name, str) for name in names):
        raise BadRow("image_missing", f"expected an image or its path, got {value!r}"[:200])
    paths, urls = [name for name in names if "://" not in name], [name for name in names if "://" in name]
    hosts = reader.options.allow_urls
    if paths:
        try:
            return reader.roots.read(paths, source)
        except BadImage as error:
            if error.reason != "image_missing" or not urls or hosts is None:
                raise
    if hosts is None:
        raise BadImage(
            "image_url_refused", f"{shown(urls[0])} is a URL; gen and eval download it with --allow-urls HOST"
        )
    return fetch_image(urls[0], hosts)


def _may_ship(row: Any, option: bool | None) -> bool | None:
    if not isinstance(row, (bool, type(None))):
        raise BadRow("bad_field", f"ship_image: expected true or false, got {row!r}"[:200])
    if row is False or option is False:
        return False
    return row if option is None else option
