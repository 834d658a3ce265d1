"""Read one row of a table, from whatever file, as a Question, or as a Drop that says what is wrong with it.

All sources that are read from files share this. Nothing is guessed: a value that does not fit drops its row, with
a reason of its own.

Reasons: bad_json (jsonl only), bad_id, no_question, no_answer, bad_answer, bad_text (not valid Unicode),
bad_field (license, ship_image, ...), several_images, and the image_* of `BadImage`; sources
of published sets have some more (published_sets.py, visual_cot_train.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visrl_data.core.images import BadImage, decode, sha256
from visrl_data.core.records import Drop, LabelProblem, Question
from visrl_data.core.text import one_line
from visrl_data.sources.bad_row import BadRow, valid_text
from visrl_data.sources.conversations import from_conversation
from visrl_data.sources.gold_labels import read_gold
from visrl_data.sources.image_roots import Roots
from visrl_data.sources.options import Columns, SourceOptions
from visrl_data.sources.row_answers import answer_texts, chosen_answer
from visrl_data.sources.row_images import read_image

logger = logging.getLogger(__name__)
_SAID: set[tuple[str, str]] = set()  # sources and reasons
Row = Mapping[str, Any]


def no_check(row: Row, size: tuple[int, int]) -> LabelProblem | None:
    """Accept every row: the check of sources whose rows say nothing about their image."""
    return None


@dataclass(frozen=True, slots=True)
class RowReader:
    """What `read_row` needs to know about a source: its names, its columns, where its images are.

    roots: image paths are relative to them and may not lead out of them. url: source_url of rows that have none.
    gold_format: of sources whose boxes have one form, whatever the option says for those of other sources.
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
    gold_format: str = ""


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
        return valid_text(value, "bad_id")
    except BadRow as error:
        raise BadRow("bad_id", error.detail) from error


def read_row(reader: RowReader, row_name: str, position: str, load: Callable[[], Row]) -> Question | Drop:
    """Read one row. row_name: its id; position: its place in the source, the source_id of rows that have none."""
    source = reader.source
    try:
        row = from_conversation(load())
        source = _text_field(reader, row, "source", source)
        return _question(reader, row, row_name, position, source)
    except (BadRow, BadImage) as error:
        return Drop(row_name, source, "source", error.reason, f"{position}: {error.detail}")


def _question(reader: RowReader, row: Row, row_name: str, position: str, source: str) -> Question:
    def get(name: str) -> Any:
        return value_of(row, reader.columns, name)

    options = reader.options
    row_id(get("id"))  # raises for an id that cannot be used
    question, answers = valid_text(get("question"), "no_question"), answer_texts(get("answers"))
    choice = chosen_answer(answers, get("choices"))
    if choice is not None:
        _say_once(
            reader.source, "choice", f"row {row_name}: the answer {answers[0]!r} is read as the choice {choice!r}"
        )
        answers = (choice,)
    data = read_image(get("image"), reader.roots, source, options.allow_urls)
    size = decode(data, options.max_image_pixels).size
    space = get("box_space")
    form = reader.gold_format or options.gold_format
    boxes, problems = read_gold(get("boxes"), options.gold_space if space is None else space, form, size)
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
    for problem in problems:
        text = f"row {row_name}: {problem.reason}: {problem.detail}. The question stays; further ones are only counted"
        _say_once(source, problem.reason, text)


def _say_once(source: str, kind: str, text: str) -> None:
    """Log the first of each kind in a source."""
    if (source, kind) not in _SAID:
        _SAID.add((source, kind))
        logger.warning("%s: %s.", one_line(source), one_line(text, 500))


def _text_field(reader: RowReader, row: Row, name: str, default: str) -> str:
    """Return an optional text field."""
    value = value_of(row, reader.columns, name)
    return default if value is None or value == "" else valid_text(value, "bad_field", f"{name}: ")


def _may_ship(row: Any, option: bool | None) -> bool | None:
    if not isinstance(row, (bool, type(None))):
        raise BadRow("bad_field", f"ship_image: expected true or false, got {row!r}"[:200])
    if row is False or option is False:
        return False
    return row if option is None else option
