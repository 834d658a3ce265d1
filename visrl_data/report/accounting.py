"""Counting a run: what came through each stage, what was lost and why, and that it all adds up.

The first part of the report (run_statistics.py). `open_tables` brings a run's four tables together; from them
come the losses by reason, the yields by source, and the equations between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.errors import VisRLError
from visrl_data.core.pair_rule import DROP_REASONS

# All that the report reads of a candidate table.
REPORT_COLUMNS = (
    *("question_id", "index", "attempt", "box", "box_origin", "relaxed", "focus_state", "response"),
    *("box_score", "box_score_state", "box_score_mass"),
    *("response_score", "response_score_state", "response_score_mass"),
)


@dataclass(frozen=True, slots=True, eq=False)
class RunTables:
    """The tables, and for each of their rows its row in the question table and its source's number.

    Candidates are sorted by (question, index).
    """

    questions: pa.Table
    candidates: pa.Table
    drops: pa.Table
    pairs: pa.Table
    sources: tuple[str, ...]
    source_of_question: np.ndarray
    candidate_question: np.ndarray
    pair_question: np.ndarray
    boxes: np.ndarray  # (candidates, 4), unit xyxy


@dataclass(frozen=True, slots=True)
class Loss:
    """A drop of the focus or answer pass, in what it cost."""

    source: int
    stage: str
    reason: str
    attempts: int
    candidates: int
    replied: bool


def open_tables(questions: pa.Table, candidates: pa.Table, drops: pa.Table, pairs: pa.Table) -> RunTables:
    """Raises VisRLError when a row names a question that is not among the questions."""
    sources = tuple(sorted({*value_counts(questions["source"]), *value_counts(drops["source"])}))
    candidates = candidates.select(REPORT_COLUMNS)
    order = np.lexsort((candidates["index"].to_numpy(), question_rows(candidates["question_id"], questions)))
    if (order[1:] < order[:-1]).any():
        candidates = candidates.take(order)
    return RunTables(
        questions,
        candidates,
        drops,
        pairs,
        sources,
        _numbers(questions["source"], sources),
        question_rows(candidates["question_id"], questions),
        question_rows(pairs["question_id"], questions),
        box_array(candidates["box"]),
    )


def _numbers(column: pa.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    found: np.ndarray = pc.index_in(column, value_set=pa.array(names, pa.string())).to_numpy()
    return found


def question_rows(ids: pa.ChunkedArray, questions: pa.Table) -> np.ndarray:
    """For each id its row in the question table."""
    found = pc.index_in(ids, value_set=questions["id"].combine_chunks())
    if found.null_count:
        stray = ids.filter(pc.is_null(found))[0].as_py()
        raise VisRLError(f"Question {stray!r} is not among this run's questions: the tables do not belong together.")
    rows: np.ndarray = found.to_numpy()
    return rows


def box_array(column: pa.ChunkedArray) -> np.ndarray:
    """A column of boxes as an array of shape (n, 4)."""
    boxes: np.ndarray = pc.list_flatten(column).to_numpy().reshape(-1, 4)
    return boxes


def value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, in order of the values."""
    return dict(sorted((found["values"], found["counts"]) for found in pc.value_counts(column).to_pylist()))


def find_losses(tables: RunTables, attempts: int) -> list[Loss]:
    """What each drop between source and filter cost, given which candidates are there.

    A drop with an attempt set cost what is missing of it: both candidates, or the one; a drop without
    cost the question all its attempts. Two drops of one attempt share what is missing.
    """
    early = tables.drops.filter(pc.is_in(tables.drops["stage"], pa.array(["focus", "answer"])))
    question = question_rows(early["id"], tables.questions)
    rows = list(zip(question.tolist(), early["attempt"].to_pylist(), strict=True))
    times = Counter(rows)
    near = np.flatnonzero(np.isin(tables.candidate_question, question))
    attempt_near = tables.candidates["attempt"].to_numpy()[near]
    there = Counter(zip(tables.candidate_question[near].tolist(), attempt_near.tolist(), strict=True))
    sources = _numbers(early["source"], tables.sources).tolist()
    found, seen = [], set()
    for key, source, drop in zip(rows, sources, early.select(["stage", "reason"]).to_pylist(), strict=True):
        whole = key[1] is None
        gone = 2 * attempts if whole else 2 - there[key]
        lost_attempts = 0 if key in seen else attempts if whole else int(there[key] == 0)
        found.append(Loss(source, **drop, attempts=lost_attempts, candidates=gone // times[key], replied=not whole))
        seen.add(key)
    return found


def lost_by_reason(losses: list[Loss], unit: str) -> dict[str, dict[str, int]]:
    """Losses by stage and reason; unit: "attempts" (wholly lost ones) or "candidates"."""
    counts: dict[str, Counter[str]] = {"focus": Counter(), "answer": Counter()}
    for loss in losses:
        counts[loss.stage][loss.reason] += getattr(loss, unit)
    return {stage: {reason: n for reason, n in sorted(found.items()) if n} for stage, found in counts.items()}


def filter_drops(tables: RunTables) -> dict[str, int]:
    """The filter's drops by reason, those that did not occur included."""
    found = value_counts(tables.drops.filter(pc.equal(tables.drops["stage"], "filter"))["reason"])
    return {reason: found.pop(reason, 0) for reason in DROP_REASONS} | found


def count_yields(
    tables: RunTables, losses: list[Loss], members: tuple[np.ndarray, ...], attempts: int
) -> dict[str, Any]:
    """How many came through each stage: in all, and by source."""
    kinds = len(tables.sources)
    candidate_source = tables.source_of_question[tables.candidate_question]
    attempt = np.stack([tables.candidate_question, tables.candidates["attempt"].to_numpy()])
    begins = np.ones(attempt.shape[1], bool)  # the first candidate of its attempt
    begins[1:] = (attempt[:, 1:] != attempt[:, :-1]).any(axis=0)
    pair_source = tables.source_of_question[tables.pair_question]
    at_source = tables.drops.filter(pc.equal(tables.drops["stage"], "source"))["source"]
    loss_source = np.array([loss.source for loss in losses], int)

    def count(sources: np.ndarray, weights: list[int] | None = None) -> np.ndarray:
        return np.bincount(sources, weights, minlength=kinds).astype(int)

    scored, in_win, in_lose = members
    asked, dropped = count(tables.source_of_question), count(_numbers(at_source, tables.sources))
    stages = {
        "rows_read": asked + dropped,
        "dropped_at_source": dropped,
        "questions": asked,
        "attempts_expected": asked * attempts,
        "attempts_lost": count(loss_source, [loss.attempts for loss in losses]),
        "attempts": count(candidate_source[begins]),
        "candidates_lost": count(loss_source, [loss.candidates for loss in losses]),
        "candidates": count(candidate_source),
        "scored": count(candidate_source[scored]),
        "in_win": count(candidate_source[in_win]),
        "in_lose": count(candidate_source[in_lose]),
        "pairs": count(pair_source),
        "response_pairs": count(pair_source[~tables.pairs["same_response"].to_numpy()]),
    }

    def entry(figures: dict[str, int]) -> dict[str, int | float | None]:
        share = figures["pairs"] / figures["questions"] if figures["questions"] else None
        return figures | {"pairs_per_question": share}

    by_source = {
        name: entry({stage: int(n[i]) for stage, n in stages.items()}) for i, name in enumerate(tables.sources)
    }
    return {"all": entry({stage: int(n.sum()) for stage, n in stages.items()}), "by_source": by_source}


def check_balance(
    tables: RunTables, yields: dict[str, Any], members: tuple[np.ndarray, ...], rows_read: int | None
) -> list[str]:
    """The equations that hold, written out. Raises VisRLError at the first that does not."""
    _check_each_question_ends_once(tables)
    scored, in_win, in_lose = members
    y = yields["all"]
    between = int((scored & ~in_win & ~in_lose).sum())
    by_filter = sum(filter_drops(tables).values())
    parts = {"unparsed": int((~scored).sum()), "in W": y["in_win"], "in L": y["in_lose"], "between": between}
    lines = [
        _equation(
            y["rows_read"] if rows_read is None else rows_read,
            "rows read",
            {"questions": y["questions"], "dropped at the source": y["dropped_at_source"]},
        ),
        *_made_and_lost(y, ""),
        _equation(y["candidates"], "candidates", parts),
        _equation(y["questions"], "questions", {"pairs": y["pairs"], "dropped by the filter": by_filter}),
    ]
    for name, of_source in yields["by_source"].items():
        _made_and_lost(of_source, f" of {name}")
    return lines


def _check_each_question_ends_once(tables: RunTables) -> None:
    by_filter = tables.drops.filter(pc.equal(tables.drops["stage"], "filter"))["id"]
    ended = np.append(tables.pair_question, question_rows(by_filter, tables.questions))
    ends = np.bincount(ended, minlength=tables.questions.num_rows)
    if (ends != 1).any():
        row = int(np.argmax(ends != 1))
        name = tables.questions["id"][row].as_py()
        raise VisRLError(f"Question {name!r} is {ends[row]} times a pair or a drop of the filter; expected once.")


def _made_and_lost(y: dict[str, Any], of: str) -> list[str]:
    attempts, candidates = y["attempts_expected"], 2 * y["attempts_expected"]
    return [
        _equation(attempts, f"attempts{of}", {"made": y["attempts"], "lost": y["attempts_lost"]}),
        _equation(candidates, f"candidates expected{of}", {"made": y["candidates"], "lost": y["candidates_lost"]}),
    ]


def _equation(total: int, what: str, parts: dict[str, int]) -> str:
    line = f"{total} {what} = " + " + ".join(f"{n} {part}" for part, n in parts.items())
    if total != sum(parts.values()):
        raise VisRLError(f"The counts of this run do not add up: {line}. Its files were changed, or visrl has a bug.")
    return line
