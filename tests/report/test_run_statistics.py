"""The report: every figure by hand on small runs, and counts that add up on any run."""

from __future__ import annotations

import io
import json
import time
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from visrl_data.core.attempts import AttemptPlan
from visrl_data.core.errors import VisRLError
from visrl_data.core.metrics import normalized
from visrl_data.core.pair_rule import JointExtremes
from visrl_data.core.records import CANDIDATE_SCHEMA, DROP_SCHEMA, QUESTION_SCHEMA
from visrl_data.pipeline.pairing import Thresholds, drop_table, pair_table, select_pairs
from visrl_data.report.accounting import REPORT_COLUMNS
from visrl_data.report.audit import CELLS
from visrl_data.report.run_statistics import build_report, exact_matches
from visrl_data.report.tables import render

GOLD = (0.0, 0.0, 0.4, 0.4)
ON, OFF = GOLD, (0.6, 0.6, 1.0, 1.0)  # IoU with GOLD 1 and 0
HALF = (0.0, 0.0, 0.4, 0.2)  # IoU with GOLD exactly 0.5: not positive
WIN, LOSE = (1.0, 1.0), (0.0, 0.0)


def candidate(index, scores, box=ON, **columns):
    """A candidate's columns; the response of a win is "cat", of any other "dog 0", "dog 1", ..."""
    kinds = {f"{name}_state": "ok" if s is not None else "unparsed:no_json" for name, s in score_columns(scores)}
    return {
        "index": index,
        "attempt": index // 2,
        "slot": index % 2,
        "box": box,
        "cells": [round(1000 * x) for x in box],
        "box_text": str(box),
        "box_origin": "actor",
        "relaxed": "",
        "focus_reply": "",
        "focus_state": "ok",
        "crop": [0, 0, 1, 1],
        "response": "A cat." if scores == WIN else f"dog {index}",
        **dict(score_columns(scores)),
        **kinds,
        **columns,
    }


def score_columns(scores):
    return zip(("box_score", "response_score"), scores, strict=True)


def run(pool, drops=(), gold=None, sources=None, attempts=1, plan=None, box_critic=True, **options):
    """The report of {question id: [candidate columns, ...]}; gold, sources: by question id."""
    questions = [
        dict.fromkeys(QUESTION_SCHEMA.names)
        | {"id": name, "source": (sources or {}).get(name, "s"), "answers": ["cat", "a cat"]}
        | {"gold_boxes": (gold or {}).get(name, [])}
        for name in pool
    ]
    rows = [{"question_id": name} | columns for name, members in pool.items() for columns in members]
    questions = pa.Table.from_pylist(questions, QUESTION_SCHEMA)
    candidates = pa.Table.from_pylist(rows, CANDIDATE_SCHEMA)
    selection = select_pairs(candidates, questions, JointExtremes(Thresholds(), box_critic), 0)
    early = [dict(zip(DROP_SCHEMA.names, drop, strict=True)) for drop in drops]
    all_drops = pa.concat_tables([pa.Table.from_pylist(early, DROP_SCHEMA), drop_table(questions, selection)])
    pairs = pair_table(candidates, questions, selection)
    return build_report(
        questions,
        candidates.select(REPORT_COLUMNS),
        all_drops,
        pairs,
        rule=JointExtremes(Thresholds(), box_critic),
        plan=plan or AttemptPlan(attempts, attempts, stop_early=False),
        **options,
    )


def shown(found):
    console = Console(file=io.StringIO(), width=160)
    console.print(render(found))
    return console.file.getvalue()


def pair_of(win_box, lose_box):
    return [candidate(0, WIN, win_box), candidate(1, LOSE, lose_box)]


def mixed_run(**options):
    """Two sources, N = 2. q0 whole; q1 lost attempt 1 to the focus pass; q2 one second box (diversity
    off); q3 all of it before its first call; q4 both candidates of attempt 0 to the answer pass, each by
    itself. A row of the source could not be read.
    """
    pool = {
        "q0": [candidate(i, s) for i, s in enumerate([WIN, (0.5, 0.5), (None, 0.5), WIN])],
        "q1": [candidate(0, WIN, focus_state="ok"), candidate(1, LOSE, OFF, box_origin="controller", relaxed="aspect")],
        "q2": [candidate(0, LOSE), *(candidate(i, LOSE, focus_state="no_box") for i in (2, 3))],
        "q3": [],
        "q4": [candidate(2, WIN), candidate(3, LOSE, OFF, response="A cat.")],
    }
    drops = [
        ("x7", "t", "source", "no_answer", "", None),
        ("q1", "s", "focus", "out_of_range", "", 1),
        ("q2", "s", "focus", "several_boxes", "second box", 0),
        ("q3", "t", "focus", "image_too_thin", "", None),
        ("q4", "t", "answer", "empty", "", 0),
        ("q4", "t", "answer", "refused", "", 0),
    ]
    sources = {"q3": "t", "q4": "t"}
    return run(pool, drops, sources=sources, attempts=2, **options)


def test_yields_by_stage_and_source():
    yields = mixed_run()["yields"]
    assert yields["all"] == {
        "rows_read": 6,
        "dropped_at_source": 1,
        "questions": 5,
        "attempts_expected": 10,
        "attempts_lost": 4,  # q1 one, q3 two, q4 one
        "attempts": 6,
        "candidates_lost": 9,  # q1 two, q2 one, q3 four, q4 two
        "candidates": 11,
        "scored": 10,
        "in_win": 4,
        "in_lose": 5,
        "pairs": 2,
        "response_pairs": 1,
        "pairs_per_question": 0.4,
    }
    assert list(yields["by_source"]) == ["s", "t"]
    counted = [key for key in yields["all"] if key != "pairs_per_question"]
    assert {k: sum(y[k] for y in yields["by_source"].values()) for k in counted} == {
        k: yields["all"][k] for k in counted
    }
    assert yields["by_source"]["t"]["rows_read"] == 3 and yields["by_source"]["t"]["pairs_per_question"] == 0.5


def test_drops_by_reason_at_each_level():
    drops = mixed_run()["drops"]
    assert drops["source"] == {"no_answer": 1}
    assert drops["attempts"] == {"focus": {"image_too_thin": 2, "out_of_range": 1}, "answer": {"empty": 1}}
    assert drops["candidates"]["focus"] == {"image_too_thin": 4, "out_of_range": 2, "several_boxes": 1}
    assert drops["candidates"]["answer"] == {"empty": 1, "refused": 1}
    assert [(one["stage"], one["reason"], one["id"], one["detail"]) for one in drops["examples"]][:6] == [
        ("source", "no_answer", "x7", ""),
        ("focus", "image_too_thin", "q3", ""),
        ("focus", "out_of_range", "q1", ""),
        ("focus", "several_boxes", "q2", "second box"),
        ("answer", "empty", "q4", ""),
        ("answer", "refused", "q4", ""),
    ]
    assert {one["reason"] for one in drops["examples"][6:]} == {reason for reason, n in drops["questions"].items() if n}


def test_the_balance_is_written_out():
    assert mixed_run(rows_read=6)["balance"] == [
        "6 rows read = 5 questions + 1 dropped at the source",
        "10 attempts = 6 made + 4 lost",
        "20 candidates expected = 11 made + 9 lost",
        "11 candidates = 1 unparsed + 4 in W + 5 in L + 1 between",
        "5 questions = 2 pairs + 3 dropped by the filter",
    ]


def test_counts_that_do_not_add_up_raise():
    with pytest.raises(VisRLError, match="7 rows read = 5 questions"):
        mixed_run(rows_read=7)
    with pytest.raises(VisRLError, match="2 attempts = 1 made . 0 lost"):
        run({"q": pair_of(ON, OFF)}, attempts=2)
    with pytest.raises(VisRLError, match="2 candidates expected = 1 made . 0 lost"):
        run({"q": [candidate(0, WIN)]})
    with pytest.raises(VisRLError, match="'q' is 2 times among the pairs"):
        run({"q": pair_of(ON, OFF)}, drops=[("q", "s", "filter", "no_win", "", None)])
    with pytest.raises(VisRLError, match="'p' is not among"):
        run({"q": pair_of(ON, OFF)}, drops=[("p", "s", "focus", "no_box", "", 0)])


def test_a_balance_of_sources_is_checked_too():
    """Both questions lost what the other's drop says: right in all, wrong by source."""
    pool = {"a": [], "b": pair_of(ON, OFF)}
    with pytest.raises(VisRLError, match="of s: |attempts of s"):
        run(pool, [("a", "t", "focus", "no_box", "", 0)], sources={"a": "s", "b": "t"})


def test_focus_replies():
    """11 candidates of which q2's two came from the controller after no_box; lost: q1 two, q2 one; q3
    never asked and q4 lost its candidates after the focus pass.
    """
    focus = mixed_run()["focus"]
    assert focus["states"] == {"no_box": 2, "ok": 9, "out_of_range": 2, "several_boxes": 1}
    assert (focus["replies"], focus["valid"], focus["validity"]) == (14, 9, round(9 / 14, 6))
    assert focus["boxes"] == {"actor": 10, "controller": 1} and focus["relaxed"] == {"aspect": 1}


def test_critic_failures_are_counted_apart():
    members = [candidate(0, (None, 0.5)), candidate(1, (0.25, None), response_score_state="unparsed:out_of_range")]
    critics = run({"q": members, "p": pair_of(ON, OFF)}, score_step=0.25)["critics"]
    box, response = critics["box"], critics["response"]
    assert (box["verdicts"], box["unparsed"], box["unparsed_share"]) == (4, 1, 0.25)
    assert box["unparsed_reasons"] == {"no_json": 1} and response["unparsed_reasons"] == {"out_of_range": 1}
    assert box["histogram"] == {"0": 1, "0.25": 1, "0.5": 0, "0.75": 0, "1": 1}
    assert box["mean"] == round(1.25 / 3, 6) and box["mean_mass"] is None


def test_response_score_against_exact_match():
    """Exact by normalisation: "A cat." is "cat". Scores of matches 1, 0.5, unparsed; of others 0, 0.5.
    Of the 4 comparisons 3 are won, 1 is tied: AUC 0.875.
    """
    members = [
        candidate(0, WIN),
        candidate(1, (0.5, 0.5), response="CAT"),
        candidate(2, (0.5, None), response="the cat"),
        candidate(3, LOSE),
        candidate(4, (0.5, 0.5)),
        candidate(5, (0.5, None)),
    ]
    exact = run({"q": members}, attempts=3)["critics"]["response"]["exact"]
    assert exact["auc"] == 0.875 and exact["matches"] == 3
    assert exact["confusion"] == {
        "match": {"high": 1, "middle": 1, "low": 0, "unparsed": 1},
        "other": {"high": 0, "middle": 1, "low": 1, "unparsed": 1},
    }
    assert (exact["mean_match"], exact["mean_other"]) == (0.75, 0.25)


@given(
    st.lists(
        st.tuples(st.text("aAn .-5é", max_size=5), st.lists(st.text("aAn .-5é", max_size=5), min_size=1, max_size=3))
    )
)
@settings(max_examples=80, deadline=None)
def test_exact_matches_agree_with_the_metric(rows):
    def table(name, values, kind):
        return pa.table({name: pa.array(values, kind)})

    questions = table("answers", [answers for _, answers in rows], pa.list_(pa.string()))
    candidates = table("response", [response for response, _ in rows], pa.string())
    found = exact_matches(questions, candidates, np.arange(len(rows)))
    assert found.tolist() == [normalized(response, answers) == 1 for response, answers in rows]


def test_ious_inside_and_across_attempts():
    """Attempt 0: ON, HALF (0.5). Attempt 1: ON, OFF (0). Across: ON-ON 1, ON-OFF 0, HALF-ON 0.5, HALF-OFF 0."""
    members = [candidate(i, WIN if i == 0 else (0.5, 0.5), box) for i, box in enumerate([ON, HALF, ON, OFF])]
    members[3] |= {"box_score": 0.0, "response_score": 0.0, "box_origin": "controller"}
    boxes = run({"q": members}, attempts=2)["boxes"]
    assert boxes["iou_in_attempt"] == {"mean": 0.25, "pairs": 2}
    assert boxes["iou_across_attempts"] == {"mean": 0.375, "pairs": 4}
    assert boxes["iou_win_lose"]["mean"] == 0 and boxes["iou_win_lose"]["histogram"]["0.0"] == 1
    assert boxes["origin"] == {"win": {"actor": 1, "controller": 0}, "lose": {"actor": 0, "controller": 1}}
    assert boxes["shape_tells"]["controller"] == {"auc": None, "rows": 4}


def test_a_controller_that_gives_itself_away_is_found():
    """Actor boxes are wide, the controller's narrow, and every lose is the controller's."""
    rng = np.random.default_rng(0)
    pool = {}
    for i in range(60):
        x, y = rng.uniform(0, 0.4, 2).round(3)
        wide, narrow = (x, y, x + 0.5 + x / 10, y + 0.2), (x, y, x + 0.2, y + 0.5 + y / 10)
        pool[f"q{i}"] = [candidate(0, WIN, wide), candidate(1, LOSE, narrow, box_origin="controller")]
    tells = run(pool)["boxes"]["shape_tells"]
    assert tells["controller"] == {"auc": 1.0, "rows": 120} and tells["lose"] == {"auc": 1.0, "rows": 120}


def audited():
    """Ten pairs with gold boxes: WP-LP 1, WP-LN 5, WN-LP 1, WN-LN 3 (HALF is no positive), one without."""
    kinds = [(ON, ON_TOO)] + [(ON, OFF)] * 5 + [(OFF, ON)] + [(HALF, OFF)] * 2 + [(OFF, HALF)]
    pool = {f"q{i}": pair_of(*boxes) for i, boxes in enumerate(kinds)} | {"free": pair_of(ON, OFF)}
    return pool, {name: [GOLD] for name in pool if name != "free"}


ON_TOO = (0.0, 0.0, 0.4, 0.3)  # IoU with GOLD 0.75


def test_wp_ln_by_hand():
    """Wilson for 5 of 10: 0.5 +- 0.26340, so 23.66 to 76.34 %."""
    pool, gold = audited()
    audit = run(pool, gold=gold)["audit"]
    pairs = audit["pairs"]
    assert audit["state"] == "10 of 11 questions have gold boxes"
    assert {name: cell["count"] for name, cell in pairs["cells"].items()} == dict(zip(CELLS, (1, 5, 1, 3), strict=True))
    assert pairs["audited"] == 10 and pairs["without_gold"] == 1
    cell = pairs["cells"]["WP-LN"]
    assert cell["percent"] == 50 and (cell["low"], cell["high"]) == pytest.approx((23.6593, 76.3407), abs=1e-3)
    assert pairs["win_positive"]["percent"] == 60 and pairs["lose_negative"]["percent"] == 80


def test_the_floor_is_the_exact_expectation():
    """Questions with (positives, candidates) = (1, 2), (2, 2), (1, 4), (0, 1: too few); the second has no pair.
    WP-LN p (n - p) / (n (n - 1)): 1/2, 0, 1/4; win positive p / n: 1/2, 1, 1/4.
    """
    plain = (0.5, 0.5)
    pool = {
        "a": pair_of(ON, OFF),
        "b": [candidate(0, plain, ON), candidate(1, plain, ON)],
        "c": [*pair_of(ON, OFF), candidate(2, plain, HALF), candidate(3, plain, OFF)],
        "d": [candidate(0, plain, OFF)],
    }
    drops = [(name, "s", "focus", "no_box", "", 1) for name in "abd"] + [("d", "s", "focus", "no_box", "", 0)]
    floor = run(pool, drops, gold={name: [GOLD] for name in pool}, attempts=2)["audit"]["floor"]
    paired, everything = floor["questions_with_pair"], floor["all_questions"]
    assert paired["questions"] == 2 and everything["questions"] == 3
    assert paired["WP-LN"] == paired["WN-LP"] == 37.5 and paired["win_positive"] == 37.5
    assert everything["WP-LN"] == 25 and everything["WP-LP"] == round(100 / 3, 6)
    assert everything["win_positive"] == round(float(100 * Fraction(7, 12)), 6)
    assert sum(paired[name] for name in CELLS) == 100


def test_box_critic_reliability_and_positive_boxes():
    """Positives score 1, 0.5 and unparsed, negatives 0, 0.5: AUC (3 + 1/2) / 4."""
    half = (0.5, 0.5)
    members = [
        candidate(0, WIN, ON),
        candidate(1, half, ON_TOO),
        candidate(2, (None, 0.5), ON),
        candidate(3, LOSE, OFF, box_origin="controller"),
        candidate(4, half, HALF),
        candidate(5, half, ON, box_origin="controller"),
    ]
    members[5]["box_score"] = None
    audit = run({"q": members}, gold={"q": [GOLD]}, attempts=3)["audit"]
    assert audit["box_critic"] == {
        "auc": 0.875,
        "positives": 2,
        "negatives": 2,
        "mean_positive": 0.75,
        "mean_negative": 0.25,
    }
    actor, controller = audit["boxes"]["actor"], audit["boxes"]["controller"]
    assert (actor["boxes"], actor["positive"]["count"], actor["mean_iou"]) == (4, 3, round(3.25 / 4, 6))
    assert (controller["boxes"], controller["positive"]["percent"]) == (2, 50)


def test_without_gold_boxes_the_audit_is_none_and_says_so():
    audit = run({"q": pair_of(ON, OFF)})["audit"]
    assert audit["state"] == "no question has a gold box, so there is nothing to audit"
    assert audit["pairs"] is audit["floor"] is audit["boxes"] is audit["box_critic"] is None


def test_without_a_box_critic_its_parts_are_none():
    off = {"box_score": None, "box_score_state": "off"}
    found = run({"q": [c | off for c in pair_of(ON, OFF)]}, gold={"q": [GOLD]}, box_critic=False)
    assert found["critics"]["box"] is found["audit"]["box_critic"] is None
    assert found["audit"]["pairs"]["cells"]["WP-LN"]["count"] == 1


@pytest.mark.parametrize(("rule", "win", "lose"), [("any", 0, 0), ("union", 1, 0), ("bounding_box", 0, 1)])
def test_the_audit_takes_several_gold_boxes_by_the_rule(rule, win, lose):
    """Two halves of a region and a speck far away. Win, the whole region: IoU 0.5 with each half (not positive), 0.96
    with the union, 0.24 with the box around all. Lose, nearly the image: 0.13, 0.26 and 0.9.
    """
    gold = {"q": [(0.0, 0.0, 0.4, 0.3), (0.0, 0.3, 0.4, 0.6), (0.9, 0.9, 1.0, 1.0)]}
    found = run({"q": pair_of((0.0, 0.0, 0.4, 0.6), (0.0, 0.0, 0.9, 1.0))}, gold=gold, gold_rule=rule)
    audited = found["audit"]["pairs"]
    assert (audited["win_positive"]["count"], audited["lose_negative"]["count"]) == (win, 1 - lose)
    assert found["settings"]["gold_rule"] == rule and f"({rule})" in shown(found)


def test_an_unknown_gold_rule_is_refused():
    with pytest.raises(ValueError, match="expected one of any, union, bounding_box"):
        run({"q": pair_of(ON, OFF)}, gold={"q": [GOLD]}, gold_rule="best")


score = st.sampled_from([None, 0.0, 0.2, 0.5, 0.8, 1.0])
slot = st.one_of(st.none(), st.tuples(score, score, st.sampled_from([ON, OFF, HALF]), st.sampled_from(["cat", "dog"])))
wild = st.dictionaries(
    st.sampled_from([f"q{i}" for i in range(9)]),
    st.tuples(st.lists(slot, min_size=4, max_size=4), st.booleans(), st.sampled_from("st"), st.booleans()),
    max_size=7,
)


@given(wild, st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_run_adds_up_and_fits_json(pool, box_critic):
    """Candidates missing anywhere, each missing one with its drop; gold boxes on some questions."""
    made, drops = {}, []
    for name, (slots, _, source, _) in pool.items():
        made[name] = [
            candidate(i, s[:2], s[2], response=s[3])
            | ({} if box_critic else {"box_score_state": "off", "box_score": None})
            for i, s in enumerate(slots)
            if s is not None
        ]
        drops += [(name, source, "answer", f"r{i}", "", i // 2) for i, s in enumerate(slots) if s is None]
    gold = {name: [GOLD] * (1 + both) for name, (_, has, _, both) in pool.items() if has}
    sources = {name: spec[2] for name, spec in pool.items()}
    found = run(made, drops, gold=gold, sources=sources, attempts=2, box_critic=box_critic)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    y = found["yields"]["all"]
    assert y["questions"] == len(pool) == y["pairs"] + sum(found["drops"]["questions"].values())
    assert y["candidates"] + len(drops) == 4 * len(pool)
    shown(found)


def test_the_report_does_not_depend_on_the_order_of_the_candidates():
    pool, gold = audited()
    plain = run(pool, gold=gold)
    assert json.dumps(plain) == json.dumps(run({name: members[::-1] for name, members in pool.items()}, gold=gold))


def test_render_shows_the_figures_and_escapes_names():
    pool, gold = audited()
    found = run(pool, gold=gold, sources={"q0": "odd[/red]name"})
    text = shown(found)
    for expected in ("odd[/red]name", "WP-LN", "50.00", "23.66 to 76.34", "10 of 11 questions have gold boxes", "any"):
        assert expected in text
    assert "nothing to audit" in shown(run({"q": []}, [("q", "s", "focus", "no_box", "", 0)]))


def test_a_large_run_is_reported_in_seconds():
    n = 30_000
    rng = np.random.default_rng(0)
    index = np.tile(np.arange(6, dtype=np.int32), n // 6)
    low = rng.uniform(0, 0.5, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, (n, 2))], axis=1)
    as_boxes = pa.FixedSizeListArray.from_arrays(boxes.ravel(), 4)
    names = np.array([f"q{i}" for i in range(n // 6)])
    columns = {f.name: pa.nulls(n, f.type) for f in CANDIDATE_SCHEMA} | {
        "question_id": np.repeat(names, 6),
        "index": index,
        "attempt": index // 2,
        "box": as_boxes,
        "cells": pa.FixedSizeListArray.from_arrays((boxes.ravel() * 1000).astype(np.int32), 4),
        "box_score": rng.integers(0, 11, n) / 10,
        "response_score": rng.integers(0, 11, n) / 10,
    }
    for name in ("box_origin", "relaxed", "focus_state", "response", "box_score_state", "response_score_state"):
        columns[name] = rng.choice(["actor", "controller"], n) if name == "box_origin" else np.full(n, "ok")
    asked = {f.name: pa.nulls(n // 6, f.type) for f in QUESTION_SCHEMA} | {"id": names, "source": np.full(n // 6, "s")}
    asked["answers"] = pa.array([["ok"]] * (n // 6))
    asked["gold_boxes"] = pa.array([[GOLD]] * (n // 6), pa.list_(pa.list_(pa.float64(), 4)))
    questions, candidates = pa.table(asked).cast(QUESTION_SCHEMA), pa.table(columns).cast(CANDIDATE_SCHEMA)
    start = time.process_time()
    selection = select_pairs(candidates, questions, JointExtremes(Thresholds(), True), 0)
    pairs, drops = pair_table(candidates, questions, selection), drop_table(questions, selection)
    found = build_report(questions, candidates, drops, pairs, rule=JointExtremes(Thresholds(), True),
                         plan=AttemptPlan(3, 3, stop_early=False))  # fmt: skip
    assert time.process_time() - start < 5
    assert abs(found["audit"]["box_critic"]["auc"] - 0.5) < 0.05 and found["yields"]["all"]["pairs"] > 100
