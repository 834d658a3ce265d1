"""Draw the questions of a calibration: at random by seed, so that a sorted source gives no one-sided sample."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop, Question
from visrl_data.core.seeds import keyed_seed
from visrl_data.sources.protocol import Source


@dataclass(frozen=True, slots=True)
class QuestionSample:
    """rows: those drawn, ascending. questions: by row, without their images; drops: the rows that can't be read."""

    rows: tuple[int, ...]
    questions: dict[int, Question]
    drops: tuple[Drop, ...]


def draw_sample(source: Source, count: int, seed: int) -> QuestionSample:
    """Draw rows without replacement, by a key of (seed, id), and read them. Raises VisRLError when all are dropped."""
    ids = source.ids()
    keys = ((keyed_seed(seed, "calibrate", name), row) for row, name in enumerate(ids))
    rows = tuple(sorted(row for _, row in heapq.nsmallest(count, keys)))
    questions, drops = {}, []
    for row, question in zip(rows, _read(source, rows), strict=True):
        if isinstance(question, Drop):
            drops.append(question)
        else:
            questions[row] = dataclasses.replace(question, image=b"")
    if not questions:
        first = f" First: {drops[0].id}, {drops[0].reason}, {drops[0].detail}." if drops else ""
        raise VisRLError(
            f"None of the {len(rows)} rows that were drawn could be read.{first} "
            "`visrl gen --estimate` with the same source shows the first row of each reason."
        )
    return QuestionSample(rows, questions, tuple(drops))


def _read(source: Source, rows: Sequence[int]) -> Iterator[Question | Drop]:
    return (source.read(row) for row in rows)
