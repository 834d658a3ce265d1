"""The filter (Eq. 4): drop reasons, ties, and agreement with a plain reading of the equation."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visrl_data.core.errors import VisRLError
from visrl_data.core.pair_rule import DROP_REASONS, OUTCOMES, JointExtremes, membership
from visrl_data.core.records import CANDIDATE_SCHEMA, DROP_SCHEMA, PAIR_SCHEMA, QUESTION_SCHEMA
from visrl_data.core.seeds import keyed_seed
from visrl_data.pipeline.pairing import (
    CANDIDATE_COLUMNS,
    Thresholds,
    drop_table,
    pair_table,
    select_pairs,
    sweep,
    sweep_grid,
)

DEFAULT = Thresholds()
WIN, LOSE = (1.0, 1.0), (0.0, 0.0)


def tables(pool, off=False):
    """The question and candidate tables of {question id: [(box score, response score, cell, response), ...]}.

    The cell (a number that stands for a whole box) and the response default to the candidate's index.
    A score of None is unparsed; with off, the run has no box critic.
    """
    questions = [
        dict.fromkeys(QUESTION_SCHEMA.names) | {"id": name, "source": "s", "question": f"{name}?", "answers": ["a"]}
        for name in pool
    ]
    rows = []
    for name, members in pool.items():
        for index, (box, response, *rest) in enumerate(members):
            cell = rest[0] if rest else index
            row = {"question_id": name, "index": index, "attempt": index // 2, "slot": index % 2}
            row |= {"box": [0.0, 0.0, 0.5, 0.001 * cell], "cells": [0, 0, 500, cell], "box_text": f"box {cell}"}
            row |= {"box_origin": "actor", "crop": [0, 0, 1, 1], "response": rest[1] if rest[1:] else f"r{index}"}
            row |= {"box_score": None if off else box, "response_score": response}
            row["box_score_state"] = "off" if off else "ok" if box is not None else "unparsed:no_json"
            row["response_score_state"] = "ok" if response is not None else "unparsed:no_json"
            rows.append(row)
    return pa.Table.from_pylist(questions, QUESTION_SCHEMA), pa.Table.from_pylist(rows, CANDIDATE_SCHEMA)


def select(pool, thresholds=DEFAULT, box_critic=True, seed=0):
    questions, candidates = tables(pool, off=not box_critic)
    return select_pairs(candidates, questions, JointExtremes(thresholds, box_critic), seed)


def outcome(*members, **options):
    return OUTCOMES[select({"q": members}, **options).outcome[0]]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([], "no_candidates"),
        ([(None, 1.0), (0.0, None)], "all_unparsed"),
        ([(0.5, 0.5), (1.0, 0.0)], "neither"),
        ([LOSE, (1.0, 0.7)], "no_win"),
        ([WIN, (0.3, 0.0)], "no_lose"),
        ([(1.0, 0.8), (0.8, 1.0), LOSE], "win_not_joint"),
        ([WIN, (0.2, 0.0), (0.0, 0.2)], "lose_not_joint"),
        ([(*WIN, 7), (*LOSE, 7)], "same_box"),
        ([WIN, LOSE], "pair"),
        ([(0.8, 0.8), (0.2, 0.2)], "pair"),  # the thresholds themselves belong to W and L
        ([(0.1 + 0.7, 0.8), (0.3 - 0.1, 0.2)], "pair"),  # 0.7999999999999999 is 0.8
    ],
)
def test_each_outcome(members, reason):
    assert outcome(*members) == reason


def test_each_drop_reason_is_asserted():
    cases = next(m for m in test_each_outcome.pytestmark if m.name == "parametrize").args[1]
    assert {reason for _, reason in cases} == set(DROP_REASONS) | {"pair"}


def test_the_win_is_best_by_both_and_the_lose_worst_by_both():
    selection = select({"q": [(0.8, 0.9), (0.9, 1.0), (0.8, 0.8), (0.1, 0.2), (0.1, 0.0), (0.2, 0.2)]})
    assert (selection.win_rows.tolist(), selection.lose_rows.tolist()) == ([1], [4])
    assert (selection.win_ties.tolist(), selection.lose_ties.tolist()) == ([1], [1])


def test_extremes_are_over_w_and_l_not_over_all_candidates():
    """(1.0, 0.5) has the best box of all but is not in W; (0.5, 0.0) has the worst response but is not in L."""
    selection = select({"q": [(1.0, 0.5), (0.8, 0.8), (0.2, 0.2), (0.5, 0.0)]})
    assert (selection.win_rows.tolist(), selection.lose_rows.tolist()) == ([1], [2])


def test_unparsed_never_pairs():
    assert outcome((1.0, None), (None, 1.0), LOSE) == "no_win"
    assert outcome(WIN, (0.0, None), (None, 0.0)) == "no_lose"


def test_box_critic_off_reads_the_response_score_alone():
    selection = select(
        {"q": [(None, 0.8), (None, 0.9), (None, 0.1)], "same": [(None, 1.0, 3), (None, 0.0, 3)]}, box_critic=False
    )
    assert (selection.win_rows.tolist(), selection.lose_rows.tolist()) == ([1], [2])
    assert OUTCOMES[selection.outcome[1]] == "same_box"


def test_a_scored_pool_can_be_filtered_without_its_box_scores():
    """By both scores there is no win; by responses alone 1 beats 0. An unparsed box score no longer matters."""
    questions, candidates = tables({"q": [(1.0, 0.0), (None, 1.0)]})
    assert not select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 0).win_rows.size
    selection = select_pairs(candidates, questions, JointExtremes(DEFAULT, False), 0)
    assert (selection.win_rows.tolist(), selection.lose_rows.tolist()) == ([1], [0])


def test_a_pool_without_box_scores_cannot_be_filtered_by_them():
    questions, candidates = tables({"q": [WIN, LOSE]}, off=True)
    with pytest.raises(VisRLError, match="--no-box-critic"):
        select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 0)


def test_tied_boxes_pair_whenever_two_of_them_differ():
    """Wins have boxes 7, 7, 7, 8, loses have box 7 only: the win must be box 8, whatever is drawn."""
    for seed in range(20):
        selection = select({"q": [(*WIN, 7)] * 3 + [(*WIN, 8)] + [(*LOSE, 7)] * 2}, seed=seed)
        assert (selection.win_rows.tolist(), selection.win_ties.tolist()) == ([3], [1])
        assert selection.lose_ties.tolist() == [2]
        mixed = select({"q": [(*WIN, 7), (*LOSE, 7), (*LOSE, 8), (*LOSE, 9)]}, seed=seed)
        assert mixed.lose_rows[0] in (2, 3) and mixed.lose_ties.tolist() == [2]


def test_same_response_keeps_the_pair_and_says_so():
    selection = select({"a": [(*WIN, 0, "x"), (*LOSE, 1, "x")], "b": [(*WIN, 0, "x"), (*LOSE, 1, "y")]})
    assert selection.same_response.tolist() == [True, False]


def test_ties_are_drawn_uniformly_and_independently():
    """3 tied wins x 2 tied loses, 3,000 questions: 500 of each combination, chi-square (5 df) under 20.5
    in 99.9 % of the seeds.
    """
    selection = select({f"q{i}": [WIN] * 3 + [LOSE] * 2 for i in range(3000)}, seed=1)
    assert set(selection.win_ties) == {3} and set(selection.lose_ties) == {2}
    drawn = Counter(zip(selection.win_rows % 5, selection.lose_rows % 5, strict=True))
    assert len(drawn) == 6
    assert sum((n - 500) ** 2 / 500 for n in drawn.values()) < 20.5


def test_the_draw_is_the_keyed_seed():
    selection = select({"q": [LOSE] + [WIN] * 4}, seed=9)
    assert selection.win_rows[0] == 1 + (keyed_seed(9, "pair", "q", "win") * 4 >> 64)


def test_the_order_of_the_candidates_does_not_matter():
    pool = {f"q{i}": [WIN] * 3 + [LOSE] * 3 for i in range(50)}
    questions, candidates = tables(pool)
    order = np.random.default_rng(0).permutation(candidates.num_rows)
    shuffled = candidates.take(order)
    plain = pair_table(candidates, questions, select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 5))
    assert plain == pair_table(shuffled, questions, select_pairs(shuffled, questions, JointExtremes(DEFAULT, True), 5))
    other = pair_table(candidates, questions, select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 6))
    assert plain["win_index"] != other["win_index"]


def test_a_question_does_not_depend_on_its_neighbours():
    pool = {f"q{i}": [WIN] * 3 + [LOSE] * 3 for i in range(9)}
    alone = [select({name: pool[name]}, seed=2).win_rows[0] for name in pool]
    assert (select(pool, seed=2).win_rows % 6).tolist() == alone


def plain_eq4(pool, t, box_critic):
    """Eq. 4 word for word: {question: (possible (win, lose) pairs of indices, drop reason)}."""
    found = {}
    for name, members in pool.items():
        scores = {i: (m[:2] if box_critic else (m[1], m[1])) for i, m in enumerate(members)}
        scored = {i: s for i, s in scores.items() if None not in s}
        low_win, high_lose = (t.box_win, t.response_win), (t.box_lose, t.response_lose)
        if not box_critic:
            low_win, high_lose = (t.response_win,) * 2, (t.response_lose,) * 2
        w = {i: s for i, s in scored.items() if s[0] >= low_win[0] and s[1] >= low_win[1]}
        k = {i: s for i, s in scored.items() if s[0] <= high_lose[0] and s[1] <= high_lose[1]}
        best = [i for i, s in w.items() if s == (max(v[0] for v in w.values()), max(v[1] for v in w.values()))]
        worst = [i for i, s in k.items() if s == (min(v[0] for v in k.values()), min(v[1] for v in k.values()))]
        pairs = {(i, j) for i, j in itertools.product(best, worst) if members[i][2] != members[j][2]}
        empty = [not members, not scored, not w and not k, not w, not k, not best, not worst, not pairs]
        found[name] = (pairs, DROP_REASONS[empty.index(True)] if any(empty) else "pair")
    return found


score = st.sampled_from([None, 0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0])
member = st.tuples(score, score, st.integers(0, 2), st.sampled_from("xy"))
pools = st.dictionaries(st.text("ab", min_size=1, max_size=3), st.lists(member, max_size=7), max_size=6)
taus = st.builds(Thresholds, *[st.sampled_from(v) for v in ([0.8, 1.0, 0.5], [0.2, 0.0], [0.8, 0.9], [0.2, 0.5])])


@given(pools, taus, st.booleans(), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_agrees_with_a_plain_reading_of_eq4_and_counts_add_up(pool, thresholds, box_critic, seed):
    questions, candidates = tables(pool, off=not box_critic)
    selection = select_pairs(candidates, questions, JointExtremes(thresholds, box_critic), seed)
    pairs = pair_table(candidates, questions, selection).to_pylist()
    drops = drop_table(questions, selection).to_pylist()

    expected = plain_eq4(pool, thresholds, box_critic)
    assert {row["id"]: row["reason"] for row in drops} == {n: r for n, (_, r) in expected.items() if r != "pair"}
    for row in pairs:
        assert (row["win_index"], row["lose_index"]) in expected[row["question_id"]][0]
        members = pool[row["question_id"]]
        win, lose = members[row["win_index"]], members[row["lose_index"]]
        assert row["same_response"] == (win[3] == lose[3])
        assert row["win_response_score"] == win[1] and row["lose_response_score"] == lose[1]
        assert row["win_box_text"] != row["lose_box_text"]
    names = [row["question_id"] for row in pairs] + [row["id"] for row in drops]
    assert sorted(names) == sorted(pool)
    assert sum(selection.outcome_counts().values()) == len(pool)


def test_the_tables_have_the_run_folders_columns():
    questions, candidates = tables({"a": [WIN, WIN, LOSE], "b": [(0.9, 0.9), (0.5, None)], "c": []})
    selection = select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 0)
    pairs, drops = pair_table(candidates, questions, selection), drop_table(questions, selection)
    assert pairs.schema == PAIR_SCHEMA and drops.schema == DROP_SCHEMA
    (pair,) = pairs.to_pylist()
    assert pair["question"] == "a?" and pair["answers"] == ["a"] and pair["win_ties"] == 2 and pair["lose_ties"] == 1
    assert pair["lose_box_text"] == "box 2" and pair["lose_crop"] == [0, 0, 1, 1]
    assert [(d["id"], d["stage"], d["reason"], d["attempt"]) for d in drops.to_pylist()] == [
        ("b", "filter", "no_lose", None),
        ("c", "filter", "no_candidates", None),
    ]
    assert drops["detail"][0].as_py() == "2 candidates, 1 scored, 1 win, 0 lose"


def test_the_filter_reads_no_more_than_candidate_columns_names():
    questions, candidates = tables({"a": [WIN, LOSE]})
    few = candidates.select(CANDIDATE_COLUMNS)
    assert pair_table(few, questions, select_pairs(few, questions, JointExtremes(DEFAULT, True), 0)).num_rows == 1


def test_an_empty_run_gives_empty_tables():
    questions, candidates = tables({})
    selection = select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 0)
    assert pair_table(candidates, questions, selection).num_rows == drop_table(questions, selection).num_rows == 0
    assert set(select({"q": []}).outcome_counts().values()) == {0, 1}


def test_tables_that_do_not_belong_together_are_refused():
    questions, candidates = tables({"a": [WIN, LOSE], "b": [WIN]})
    with pytest.raises(VisRLError, match="'b'"):
        select_pairs(candidates, questions.slice(0, 1), JointExtremes(DEFAULT, True), 0)
    with pytest.raises(VisRLError, match="same id"):
        select_pairs(candidates, pa.concat_tables([questions, questions]), JointExtremes(DEFAULT, True), 0)
    with pytest.raises(VisRLError, match="index 0"):
        select_pairs(pa.concat_tables([candidates, candidates]), questions, JointExtremes(DEFAULT, True), 0)


@pytest.mark.parametrize("bad", [{"box_win": 1.1}, {"response_lose": -0.1}, {"box_win": float("nan")}])
def test_thresholds_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .*; expected a number from 0 to 1"):
        Thresholds(**bad)


@pytest.mark.parametrize("score", ["box", "response"])
def test_thresholds_need_win_above_lose(score):
    with pytest.raises(ValueError, match=f"{score}_win is 0.5; it must be above {score}_lose"):
        Thresholds(**{f"{score}_win": 0.5, f"{score}_lose": 0.5})


def test_membership_is_in_the_tables_order():
    _, candidates = tables({"a": [LOSE, (None, 0.0), WIN, (0.5, 1.0)]})
    scored, in_win, in_lose = membership(candidates, JointExtremes(DEFAULT, True))
    assert scored.tolist() == [True, False, True, True]
    assert in_win.tolist() == [False, False, True, False] and in_lose.tolist() == [True, False, False, False]


def test_sweep_agrees_with_filtering_at_each_setting():
    pool = {f"q{i}": [(0.1 * (i % 11), 0.9, i), (0.1, 0.1 * (i % 7), -1), WIN] for i in range(60)}
    questions, candidates = tables(pool)
    grid = sweep_grid(wins=(0.3, 0.8, 1.0), loses=(0.0, 0.3))
    assert [(t.box_win, t.box_lose) for t in grid] == [(0.3, 0.0), (0.8, 0.0), (0.8, 0.3), (1.0, 0.0), (1.0, 0.3)]
    rows = sweep(candidates, questions, [JointExtremes(one, True) for one in grid], 0).to_pylist()
    assert len({row["pairs"] for row in rows}) > 1
    for setting, row in zip(grid, rows, strict=True):
        selection = select_pairs(candidates, questions, JointExtremes(setting, True), 0)
        assert {name: row["pairs" if name == "pair" else name] for name in OUTCOMES} == selection.outcome_counts()
        assert row["response_pairs"] == row["pairs"] - selection.same_response.sum()


def random_pool(questions, per_question=6, seed=0):
    """A large pool, scored at random on the 0.1 step, ties aplenty."""
    rng, n = np.random.default_rng(seed), questions * per_question
    names = np.array([f"source/{i:07d}" for i in range(questions)])
    index = np.tile(np.arange(per_question, dtype=np.int32), questions)
    cells = pa.FixedSizeListArray.from_arrays(rng.integers(0, 1000, n * 4, dtype=np.int32), 4)
    boxes = pa.FixedSizeListArray.from_arrays(rng.random(n * 4), 4)
    text = pa.array(["a text of some length, as boxes and replies are"]).take(np.zeros(n, int))
    columns = dict.fromkeys(CANDIDATE_COLUMNS, text)
    columns |= {"question_id": np.repeat(names, per_question), "index": index, "cells": cells, "box": boxes}
    columns["crop"] = cells
    for name in ("box_score", "response_score"):
        values = rng.choice([0.0, 0.0, 0.1, 0.5, 0.8, 1.0, 1.0, 1.0], n)
        columns[name] = pa.array(values, mask=rng.random(n) < 0.02)
    asked = {f.name: pa.nulls(questions, f.type) for f in QUESTION_SCHEMA} | {"id": names}
    return pa.table(asked).cast(QUESTION_SCHEMA), pa.table(columns)


def test_200k_candidates_are_filtered_in_two_seconds():
    questions, candidates = random_pool(200_000 // 6)
    start = time.process_time()
    selection = select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 0)
    pairs = pair_table(candidates, questions, selection)
    took = time.process_time() - start
    assert pairs.num_rows + drop_table(questions, selection).num_rows == questions.num_rows
    assert pairs.num_rows > 1000 and took < 2
