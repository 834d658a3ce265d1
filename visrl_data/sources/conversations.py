"""Turn the conversations of chat data sets (LLaVA, ShareGPT, messages) into a question and its answer.

    {"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\\nHow many?"},
                                         {"from": "gpt", "value": "24"}]}
    {"images": ["1.jpg"], "messages": [{"role": "user", "content": "How many?"},
                                       {"role": "assistant", "content": "24"}]}

The first question with its answer counts: what is asked later may refer to what was said before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = ("conversations", "messages")
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant", "model")


def from_conversation(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row with question and answers of its conversation; a row that has a question, or none, as it is."""
    turns = next((row[name] for name in COLUMNS if row.get(name) is not None), None)
    if turns is None or row.get("question") is not None:
        return row
    question = answer = None
    for role, text in _turns(turns):
        if role in _ASKS and question is None:
            question = text
        elif role in _ANSWERS and question is not None:
            answer = text
            break
    return {"answers": answer, **row, "question": question}


def _turns(turns: Any) -> Iterator[tuple[Any, str]]:
    """Yield role and text of each turn; of a list of objects, or of an object of lists, as tables store it."""
    if isinstance(turns, Mapping):
        columns = [turns.get(first) or turns.get(second) for first, second in (("from", "role"), ("value", "content"))]
        pairs = list(zip(*columns, strict=False)) if all(isinstance(column, list) for column in columns) else []
    else:
        objects = [turn for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
        pairs = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in objects]
    for role, content in pairs:
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
        yield role, "\n".join(text for text in texts if isinstance(text, str)).replace("<image>", "").strip()
