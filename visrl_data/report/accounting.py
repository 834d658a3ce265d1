"""Count a run: what came through each stage, what was dropped and why, and check that it all adds up.

The first part of the report (run_statistics.py). `open_tables` brings a run's four tables together; from them
come the drops by reason, the yields by source, and the equations between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.attempts import AttemptPlan
from visrl_data.core.drop_reasons import OF_WHOLE_QUESTIONS
from visrl_data.core.errors import VisRLError
from visrl_data.core.pair_rule import DROP_REASONS
from visrl_data.runs.run_report import DropExample, RunReport, StageCounts, Yields

STAGES = ("source", "focus", "answer", "filter")  # at which something is dropped, in the order of the flow
_MOST_DETAIL = 300  # characters of an example's detail
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
class DropCost:
    """What one drop of the focus or answer pass cost: attempts wholly lost, and candidates."""

    source: int
    stage: str
    reason: str
    attempts: int
    candidates: int
    replied: bool


def open_tables(questions: pa.Table, candidates: pa.Table, drops: pa.Table, pairs: pa.Table) -> RunTables:
    """Join the tables. Raises VisRLError when a row names a question that is not among the questions."""
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
        _indices(questions["source"], sources),
        question_rows(candidates["question_id"], questions),
        question_rows(pairs["question_id"], questions),
        box_array(candidates["box"]),
    )


def _indices(column: pa.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    indices: np.ndarray = pc.index_in(column, value_set=pa.array(names, pa.string())).to_numpy()
    return indices


def question_rows(ids: pa.ChunkedArray, questions: pa.Table) -> np.ndarray:
    """Return for each id its row in the question table."""
    rows = pc.index_in(ids, value_set=questions["id"].combine_chunks())
    if rows.null_count:
        unknown = ids.filter(pc.is_null(rows))[0].as_py()
        raise VisRLError(f"Question {unknown!r} is not among this run's questions: the tables are of different runs.")
    numbers: np.ndarray = rows.to_numpy()
    return numbers


def box_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of boxes as an array of shape (n, 4)."""
    boxes: np.ndarray = pc.list_flatten(column).to_numpy().reshape(-1, 4)
    return boxes


def value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Count how often each value occurs, in order of the values."""
    return dict(sorted((entry["values"], entry["counts"]) for entry in pc.value_counts(column).to_pylist()))


def question_attempts(tables: RunTables, plan: AttemptPlan) -> np.ndarray:
    """Return how many attempts each question had; where the plan fixes the number, how many it should have had.

    A question that was dropped as a whole had those of its first block. Raises VisRLError for a number at which no
    block ends.
    """
    first, *_ = ends = [block.stop for block in plan.blocks()]
    made = np.full(tables.questions.num_rows, first)
    if plan.is_fixed:
        return made
    np.maximum.at(made, tables.candidate_question, tables.candidates["attempt"].to_numpy() + 1)
    lost = _early_drops(tables)
    lost = lost.filter(pc.is_valid(lost["attempt"]))
    np.maximum.at(made, question_rows(lost["id"], tables.questions), lost["attempt"].to_numpy() + 1)
    if (strange := made[~np.isin(made, ends)]).size:
        raise VisRLError(
            f"A question had {strange[0]} attempts; with these options it has {', '.join(map(str, ends))}."
        )
    return made


def _early_drops(tables: RunTables) -> pa.Table:
    return tables.drops.filter(pc.is_in(tables.drops["stage"], pa.array(["focus", "answer"])))


def drop_costs(tables: RunTables, attempts: np.ndarray) -> list[DropCost]:
    """Return what each drop between source and filter cost, from the candidates that exist.

    A drop of an attempt cost the candidates that are missing of it, one or both; a drop of a whole question
    cost it all its attempts. Two drops of one attempt share the missing candidates. attempts: of each question.
    """
    early = _early_drops(tables)
    question = question_rows(early["id"], tables.questions)
    rows = list(zip(question.tolist(), early["attempt"].to_pylist(), strict=True))
    times = Counter(rows)
    near = np.flatnonzero(np.isin(tables.candidate_question, question))
    attempt_near = tables.candidates["attempt"].to_numpy()[near]
    existing = Counter(zip(tables.candidate_question[near].tolist(), attempt_near.tolist(), strict=True))
    sources = _indices(early["source"], tables.sources).tolist()
    costs, counted = [], set()
    for key, source, drop in zip(rows, sources, early.select(["stage", "reason"]).to_pylist(), strict=True):
        whole = key[1] is None
        of_question = int(attempts[key[0]])
        missing = 2 * of_question if whole else 2 - existing[key]
        # An attempt with two drops is lost once.
        lost = 0 if key in counted else of_question if whole else int(existing[key] == 0)
        costs.append(DropCost(source, **drop, attempts=lost, candidates=missing // times[key], replied=not whole))
        counted.add(key)
    return costs


def count_lost(costs: list[DropCost], unit: Literal["attempts", "candidates"]) -> dict[str, dict[str, int]]:
    """Count by stage and reason the attempts that were wholly lost, or the candidates."""
    counts: dict[str, Counter[str]] = {"focus": Counter(), "answer": Counter()}
    for cost in costs:
        counts[cost.stage][cost.reason] += cost.attempts if unit == "attempts" else cost.candidates
    return {stage: {reason: n for reason, n in sorted(reasons.items()) if n} for stage, reasons in counts.items()}


def filter_drops(tables: RunTables) -> dict[str, int]:
    """Count the filter's drops by reason, those that did not occur included."""
    counts = value_counts(tables.drops.filter(pc.equal(tables.drops["stage"], "filter"))["reason"])
    return dict.fromkeys(DROP_REASONS, 0) | counts


def drop_examples(drops: pa.Table) -> list[DropExample]:
    """Return the first drop of each stage and reason, in the order of the flow."""
    texts = drops.select(["stage", "reason", "id", "detail"])
    examples: list[DropExample] = []
    for stage in STAGES:
        of_stage = texts.filter(pc.equal(texts["stage"], stage))
        for reason in value_counts(of_stage["reason"]):
            [row] = of_stage.filter(pc.equal(of_stage["reason"], reason)).slice(0, 1).to_pylist()
            detail = (row["detail"] or "")[:_MOST_DETAIL]
            examples.append({"stage": stage, "reason": reason, "id": row["id"], "detail": detail})
    return examples


def lost_before_boxes(report: RunReport) -> str:
    """Say that no row, or no question, reached the actor's boxes; "" when one did, whatever became of it."""
    total = report["yields"]["all"]
    if not total["questions"]:
        return f"None of the {total['rows_read']:,} rows"
    lost = report["drops"]["attempts"]["focus"]
    if sum(lost.get(reason, 0) for reason in OF_WHOLE_QUESTIONS) == total["attempts_expected"]:
        return f"None of the {total['questions']:,} questions"
    return ""


def count_yields(
    tables: RunTables, costs: list[DropCost], members: tuple[np.ndarray, ...], attempts: np.ndarray
) -> Yields:
    """Count how many came through each stage: in all, and by source. attempts: of each question."""
    candidate_source = tables.source_of_question[tables.candidate_question]
    attempt = np.stack([tables.candidate_question, tables.candidates["attempt"].to_numpy()])
    is_first = np.ones(attempt.shape[1], bool)  # of its attempt
    is_first[1:] = (attempt[:, 1:] != attempt[:, :-1]).any(axis=0)
    pair_source = tables.source_of_question[tables.pair_question]
    at_source = tables.drops.filter(pc.equal(tables.drops["stage"], "source"))["source"]
    cost_source = np.array([cost.source for cost in costs], int)

    def count(sources: np.ndarray, weights: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        return np.bincount(sources, weights, minlength=len(tables.sources)).astype(int)

    scored, in_win, in_lose = members
    questions, dropped = count(tables.source_of_question), count(_indices(at_source, tables.sources))
    stages = {
        "rows_read": questions + dropped,
        "dropped_at_source": dropped,
        "questions": questions,
        "attempts_expected": count(tables.source_of_question, attempts),
        "attempts_lost": count(cost_source, [cost.attempts for cost in costs]),
        "attempts": count(candidate_source[is_first]),
        "candidates_lost": count(cost_source, [cost.candidates for cost in costs]),
        "candidates": count(candidate_source),
        "scored": count(candidate_source[scored]),
        "in_win": count(candidate_source[in_win]),
        "in_lose": count(candidate_source[in_lose]),
        "pairs": count(pair_source),
        "response_pairs": count(pair_source[~tables.pairs["same_response"].to_numpy()]),
    }

    by_source = {
        name: _stage_counts({stage: int(n[i]) for stage, n in stages.items()}) for i, name in enumerate(tables.sources)
    }
    return {"all": _stage_counts({stage: int(n.sum()) for stage, n in stages.items()}), "by_source": by_source}


def _stage_counts(counts: dict[str, int]) -> StageCounts:
    share = counts["pairs"] / counts["questions"] if counts["questions"] else None
    return cast(StageCounts, counts | {"pairs_per_question": share})


def check_balance(
    tables: RunTables, yields: Yields, members: tuple[np.ndarray, ...], rows_read: int | None
) -> list[str]:
    """Return the equations that hold, written out. Raises VisRLError at the first that does not."""
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
        *_attempt_equations(y, ""),
        _equation(y["candidates"], "candidates", parts),
        _equation(y["questions"], "questions", {"pairs": y["pairs"], "dropped by the filter": by_filter}),
    ]
    for name, of_source in yields["by_source"].items():
        _attempt_equations(of_source, f" of {name}")
    return lines


def _check_each_question_ends_once(tables: RunTables) -> None:
    by_filter = tables.drops.filter(pc.equal(tables.drops["stage"], "filter"))["id"]
    rows = np.append(tables.pair_question, question_rows(by_filter, tables.questions))
    ends = np.bincount(rows, minlength=tables.questions.num_rows)
    if (ends != 1).any():
        row = int(np.argmax(ends != 1))
        name = tables.questions["id"][row].as_py()
        raise VisRLError(
            f"Question {name!r} is {ends[row]} times among the pairs and the drops of the filter; expected once."
        )


def _attempt_equations(y: StageCounts, of: str) -> list[str]:
    attempts, candidates = y["attempts_expected"], 2 * y["attempts_expected"]
    return [
        _equation(attempts, f"attempts{of}", {"made": y["attempts"], "lost": y["attempts_lost"]}),
        _equation(candidates, f"candidates expected{of}", {"made": y["candidates"], "lost": y["candidates_lost"]}),
    ]


def _equation(total: int, what: str, parts: dict[str, int]) -> str:
    line = f"{total} {what} = " + " + ".join(f"{n} {part}" for part, n in parts.items())
    if total != sum(parts.values()):
        raise VisRLError(
            f"The counts of this run do not add up: {line}. Its files were changed since, or visrl has a bug."
        )
    return line
