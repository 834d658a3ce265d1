"""Read the answers of a row: texts, numbers, annotators' votes, a list that a table holds as text, or a choice."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from visrl_data.core.metrics import is_about_question
from visrl_data.sources.bad_row import BadRow, valid_text

ANNOTATORS = 10
"""How many answers a question has in sets that were answered by annotators."""
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_LETTER = re.compile(r"\(?([A-Z])[.):]?\)?")
_LETTERED = re.compile(r"^\(?([A-Z])[.):]\s+")


def answer_texts(value: Any) -> tuple[str, ...]:
    """Return the accepted answers, of a value or a list of values: as texts, each once, in their order.

    Annotators' answers keep their repeats, since they are votes: ten values (VQA v2, TextVQA, OK-VQA, VizWiz), or
    objects such as {"answer": "net", "answer_confidence": "yes"}. Numbers and booleans become text: 3 and 3.0 "3", 2.50
    "2.5", true "yes", false "no"; "['a', 'b']", a list as a table of text holds it, is that list. Nulls and empty texts
    in a list are skipped. Raises BadRow: no_answer when none is left, or only such as "unanswerable"; bad_answer,
    bad_text.
    """
    value = _listed(value)
    values = value if isinstance(value, (list, tuple)) else [value]
    is_voted = len(values) == ANNOTATORS or any(isinstance(item, Mapping) for item in values)
    items = [item["answer"] if isinstance(item, Mapping) and "answer" in item else item for item in values]
    texts = [text for text in (_answer(item) for item in items if item is not None and item != "") if text]
    if not texts:
        raise BadRow("no_answer", f"got {value!r}"[:200])
    if is_voted and all(map(is_about_question, texts)):
        raise BadRow("no_answer", f"the annotators said only {texts[0]!r}"[:200])
    return tuple(texts if is_voted else dict.fromkeys(texts))


def chosen_answer(answers: tuple[str, ...], choices: Any) -> str | None:
    """Return the choice that a letter (from A) or a number (from 0) stands for; None where the answer is a text.

    choices: of the row: a list, a list as text, or {"text": [...]}. Raises BadRow("bad_answer") for one that is not
    there.
    """
    choices = _listed(choices.get("text") if isinstance(choices, Mapping) else choices)
    if not isinstance(choices, (list, tuple)) or len(answers) != 1:
        return None
    texts = [_LETTERED.sub("", str(choice)).strip() for choice in choices]
    answer = answers[0]
    letter = _LETTER.fullmatch(answer)
    if answer in texts or not (letter or answer.isdecimal()):
        return None
    number = ord(letter[1]) - ord("A") if letter else int(answer[:9])
    if number >= len(texts) or not texts[number]:
        raise BadRow("bad_answer", f"{answer!r} is none of the {len(texts)} choices"[:200])
    return texts[number]


def _listed(value: Any) -> Any:
    """Return the list of quoted texts that a text is, as CSV files and numpy write one; any other value as it is."""
    if not isinstance(value, str) or value[:2] not in ("['", '["') or not value.endswith("]"):
        return value
    if _QUOTED.sub("", value).strip("[] ,\n"):
        return value
    try:
        return [ast.literal_eval(text) for text in _QUOTED.findall(value)]
    except (ValueError, SyntaxError):
        return value


def _answer(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        raise BadRow("bad_answer", f"expected text, a number or true/false, got {value!r}"[:200])
    return valid_text(value, "no_answer") if value.strip() else ""
