"""The filter (Eq. 4): from a question's scored candidates to one preference pair, or a drop with its reason.

Last stage of generation, and all of `visrl filter`: both call `select_pairs` on the candidate table, so that
stored candidates can be filtered again under other thresholds without a model. Works on whole columns; the only
loop over questions is the keyed draw among ties. Which candidates may pair is up to a PairRule (core/pair_rule.py).

W holds the candidates whose two scores both reach the win thresholds, L those whose two scores both stay at
or under the lose thresholds. The win is the member of W whose box score AND response score are both the
maximum over W, the lose the member of L where both are the minimum.

Choices that are ours, where the paper says nothing:
- Ties are broken by a uniform draw keyed by (seed, question id, side), whatever the order of the rows. Which of the
  tied loses enter it is up to the rule (--lose).
- Win and lose must be different boxes, else there is nothing to prefer. Only members of a tie that allow
  this enter the draw; a question is dropped as same_box when no two of them differ.
- Without the box critic, W, L and the extremes use the response score alone.
- A candidate with an unparsed score cannot pair.
- In a run made with --lazy a candidate whose box score lies between the thresholds has no response. It is neither
  in W nor in L, as it would be with any response.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.config import Thresholds
from visrl_data.core.errors import VisRLError
from visrl_data.core.pair_rule import DROP_REASONS, OUTCOMES, PairRule, group_bounds, is_extreme, read_scores
from visrl_data.core.records import DROP_SCHEMA, PAIR_SCHEMA
from visrl_data.core.seeds import keyed_seed

_SIDE_COLUMNS = ("index", "box", "box_text", "box_origin", "crop", "response", "box_score", "response_score")
# All that the filter reads of a candidate table; load no more than these when it is large.
CANDIDATE_COLUMNS = (
    "question_id", "cells", "box_score_state", "response_score_state", "box_logprob", *_SIDE_COLUMNS
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What the filter decided; every question is exactly one of pair or drop.

    outcome: for each row of the question table, a position in OUTCOMES (0: pair).
    counts: int, shape (questions, 4): its candidates, those with all scores, its members of W and of L.
    The other arrays have one entry for each pair, in question order: rows of the two tables, how many
    candidates entered each keyed draw, and whether both responses are the same text (such a pair
    trains the box only).
    """

    outcome: np.ndarray
    counts: np.ndarray
    question_rows: np.ndarray
    win_rows: np.ndarray
    lose_rows: np.ndarray
    win_ties: np.ndarray
    lose_ties: np.ndarray
    same_response: np.ndarray

    def outcome_counts(self) -> dict[str, int]:
        """Count the questions of each of OUTCOMES; the counts add up to the number of questions."""
        counts = np.bincount(self.outcome, minlength=len(OUTCOMES))
        return dict(zip(OUTCOMES, counts.tolist(), strict=True))


def select_pairs(candidates: pa.Table, questions: pa.Table, rule: PairRule, seed: int) -> Selection:
    """Pick each question's win and lose candidate (Sec. 3.1, Eq. 4). The order of the candidates is free.

    Raises VisRLError when the tables do not belong together or the run has no box scores.
    """
    return _select(_read_pool(candidates, questions, rule), rule, seed)


def pair_table(candidates: pa.Table, questions: pa.Table, selection: Selection) -> pa.Table:
    """Return the rows of PAIR_SCHEMA, in question order."""
    paired = questions.select(["id", "source", "image_sha256", "question", "answers", "gold_boxes"])
    paired = paired.take(selection.question_rows)
    columns = {name: paired[name] for name in paired.column_names} | {"question_id": paired["id"]}
    for side, rows, ties in (
        ("win", selection.win_rows, selection.win_ties),
        ("lose", selection.lose_rows, selection.lose_ties),
    ):
        chosen = candidates.select(_SIDE_COLUMNS).take(rows)
        columns |= {f"{side}_{name}": chosen[name] for name in _SIDE_COLUMNS}
        columns[f"{side}_ties"] = pa.array(ties, pa.int32())
    columns["same_response"] = pa.array(selection.same_response, pa.bool_())
    return pa.table({name: columns[name] for name in PAIR_SCHEMA.names}).cast(PAIR_SCHEMA)


def drop_table(questions: pa.Table, selection: Selection) -> pa.Table:
    """Return the rows of DROP_SCHEMA for the questions without a pair, in question order."""
    rows = np.flatnonzero(selection.outcome)
    dropped = questions.select(["id", "source"]).take(rows)
    details = [f"{n} candidates, {s} scored, {w} win, {k} lose" for n, s, w, k in selection.counts[rows].tolist()]
    columns = {
        "id": dropped["id"],
        "source": dropped["source"],
        "stage": pa.array(["filter"] * rows.size, pa.string()),
        "reason": pa.array([OUTCOMES[code] for code in selection.outcome[rows].tolist()], pa.string()),
        "detail": pa.array(details, pa.string()),
        "attempt": pa.nulls(rows.size, pa.int32()),
    }
    return pa.table(columns, schema=DROP_SCHEMA)


def sweep(candidates: pa.Table, questions: pa.Table, rules: Sequence[PairRule], seed: int) -> pa.Table:
    """Return the yield under each rule: a row of thresholds, pairs, response_pairs and drops by reason.

    response_pairs counts the pairs that also train the response.
    """
    rule_of_pool = {(rule.box_critic, rule.lose): rule for rule in rules}
    pools = {key: _read_pool(candidates, questions, rule) for key, rule in rule_of_pool.items()}
    rows = []
    for rule in rules:
        selection = _select(pools[rule.box_critic, rule.lose], rule, seed)
        counts = selection.outcome_counts()
        pairs = counts.pop("pair")
        different = pairs - int(selection.same_response.sum())
        rows.append(dataclasses.asdict(rule.thresholds) | {"pairs": pairs, "response_pairs": different} | counts)
    names = [field.name for field in dataclasses.fields(Thresholds)]
    counted = ["pairs", "response_pairs", *DROP_REASONS]
    schema = pa.schema([(name, pa.float64()) for name in names] + [(name, pa.int64()) for name in counted])
    return pa.Table.from_pylist(rows, schema=schema)


def sweep_grid(
    wins: Sequence[float] = (0.6, 0.7, 0.8, 0.9, 1.0), loses: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4)
) -> list[Thresholds]:
    """Return every win x lose setting, the same for box and response, where win is above lose."""
    return [Thresholds(win, lose, win, lose) for win, lose in itertools.product(wins, loses) if win > lose]


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """The columns that decide, sorted by (question, index).

    rows: where each candidate stands in its table. question: its row in the question table.
    scores: response, then box unless the box critic is off; NaN is unparsed. cells: shape (n, 4). lose_priority: as the
    rule returns it.
    """

    ids: pa.ChunkedArray
    rows: np.ndarray
    question: np.ndarray
    scores: tuple[np.ndarray, ...]
    cells: np.ndarray
    lose_priority: np.ndarray
    response: pa.ChunkedArray


def _read_pool(candidates: pa.Table, questions: pa.Table, rule: PairRule) -> _Pool:
    ids = questions["id"]
    if pc.count_distinct(ids).as_py() != len(ids):
        raise VisRLError("Two questions of this run have the same id; ids must be unique.")
    numbers = pc.index_in(candidates["question_id"], value_set=ids.combine_chunks())
    if numbers.null_count:
        stray = candidates["question_id"].filter(pc.is_null(numbers))[0]
        raise VisRLError(f"A candidate belongs to question {stray.as_py()!r}, which is not among this run's questions.")
    question, index = numbers.to_numpy(), candidates["index"].to_numpy()
    rows = np.lexsort((index, question))
    question, index = question[rows], index[rows]
    twice = np.flatnonzero((question[1:] == question[:-1]) & (index[1:] == index[:-1]))
    if twice.size:
        name = ids[int(question[twice[0]])].as_py()
        raise VisRLError(f"Question {name!r} has two candidates with index {index[twice[0]]}.")
    scores = tuple(score[rows] for score in read_scores(candidates, rule.box_critic))
    cells = pc.list_flatten(candidates["cells"]).to_numpy().reshape(-1, 4)[rows]
    return _Pool(ids, rows, question, scores, cells, rule.lose_priority(candidates)[rows], candidates["response"])


def _select(pool: _Pool, rule: PairRule, seed: int) -> Selection:
    total = len(pool.ids)
    scored, in_win, in_lose = rule.members(pool.scores)
    wins, loses = rule.best(pool.scores, pool.question, in_win, in_lose)

    def each(rows: np.ndarray) -> np.ndarray:
        return np.bincount(pool.question[rows], minlength=total)

    counts = np.stack([each(np.ones_like(scored)), each(scored), each(in_win), each(in_lose)], axis=1)
    # Only questions with a joint best and a joint worst go on. The win is drawn first, from those that some lose
    # differs from; the lose then from those with another box than this win. So a draw never ends in one box for both.
    win_joint, lose_joint = each(wins) > 0, each(loses) > 0
    both = (win_joint & lose_joint)[pool.question]
    wins, loses = wins[both[wins]], loses[both[loses]]
    win_row, win_ties = _draw(pool, wins[_has_rival(pool, wins, loses)], seed, "win")
    loses = loses[win_row[pool.question[loses]] >= 0]
    apart = (pool.cells[loses] != pool.cells[win_row[pool.question[loses]]]).any(axis=1)
    loses = loses[apart]
    foremost = loses[is_extreme(pool.lose_priority[loses], pool.question[loses], np.maximum)]
    lose_row, lose_ties = _draw(pool, foremost, seed, "lose")

    # The first reason that holds is the outcome: the order is that of DROP_REASONS.
    n, s, w, k = counts.T
    failed = [n == 0, s == 0, (w == 0) & (k == 0), w == 0, k == 0, ~win_joint, ~lose_joint, lose_row < 0]
    outcome = np.select(failed, np.arange(1, len(OUTCOMES)), 0)
    paired = np.flatnonzero(outcome == 0)
    win_rows, lose_rows = pool.rows[win_row[paired]], pool.rows[lose_row[paired]]
    same = pc.equal(pool.response.take(win_rows), pool.response.take(lose_rows)).to_numpy()
    return Selection(outcome, counts, paired, win_rows, lose_rows, win_ties[paired], lose_ties[paired], same)


def _has_rival(pool: _Pool, wins: np.ndarray, loses: np.ndarray) -> np.ndarray:
    """Say for each win whether some lose of its question has another box. Both hold the same questions."""
    if not wins.size:
        return np.zeros(0, bool)
    _, win_lengths = group_bounds(pool.question[wins])
    starts, lengths = group_bounds(pool.question[loses])
    # Some lose differs from a win unless all loses have one box and the win has it too: compare each with the first.
    first = pool.cells[loses[starts]]
    various = np.logical_or.reduceat((pool.cells[loses] != np.repeat(first, lengths, axis=0)).any(axis=1), starts)
    unlike_first = (pool.cells[wins] != np.repeat(first, win_lengths, axis=0)).any(axis=1)
    has_rival: np.ndarray = unlike_first | np.repeat(various, win_lengths)
    return has_rival


def _draw(pool: _Pool, rows: np.ndarray, seed: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw one row for each question, uniformly (-1: it has none). Return it and the number it was drawn from.

    The position is floor(key * ties / 2**64) for the 64-bit key: uniform to within ties / 2**64.
    """
    drawn, ties = np.full(len(pool.ids), -1), np.zeros(len(pool.ids), np.int64)
    starts, lengths = group_bounds(pool.question[rows])
    question, pick = pool.question[rows[starts]], np.zeros(starts.size, np.int64)
    tied = np.flatnonzero(lengths > 1)
    names = pool.ids.take(question[tied]).to_pylist()
    for group, length, name in zip(tied.tolist(), lengths[tied].tolist(), names, strict=True):
        pick[group] = keyed_seed(seed, "pair", name, side) * length >> 64
    drawn[question], ties[question] = rows[starts + pick], lengths
    return drawn, ties
