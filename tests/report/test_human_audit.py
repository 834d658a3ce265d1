"""The audit by people, against figures worked out by hand."""

import pyarrow as pa
import pytest

from visrl_data.core.records import PAIR_SCHEMA
from visrl_data.report.human_audit import audit_by_people, human_lines, human_rows
from visrl_data.report.measures import finite_wilson, wilson
from visrl_data.runs.marks import MARK_SCHEMA, UNITS
from visrl_data.runs.pair_ids import pair_ids

SETTINGS = {"box_critic": True, "gold_rule": "any"}
LEFT, RIGHT = [0.0, 0.0, 0.4, 1.0], [0.6, 0.0, 1.0, 1.0]
LETTERS = {"r": "right", "w": "wrong", "u": "unsure", "-": None}


def make_pairs(count, gold=LEFT):
    """Pairs whose win box is on the label and whose lose box is off it."""
    sides = {"win_box": LEFT, "lose_box": RIGHT, "win_box_text": "l", "lose_box_text": "r", "win_response": "7"}
    rows = [
        {"question_id": f"q{i}", "question": f"q{i}", "image_sha256": "s", "lose_response": "8", **sides,
         "gold_boxes": [gold] if gold else []}
        for i in range(count)
    ]  # fmt: skip
    return pa.Table.from_pylist([dict.fromkeys(PAIR_SCHEMA.names) | row for row in rows], PAIR_SCHEMA)


def make_marks(pairs, **said):
    """said: annotator -> a word of four letters a pair, of UNITS: r right, w wrong, u unsure, - no mark."""
    ids = pair_ids(pairs)
    rows = [
        {
            "annotator": who,
            "pair_id": ids[i],
            **{unit: LETTERS[letter] for unit, letter in zip(UNITS, word, strict=True)},
        }
        for who, words in said.items()
        for i, word in enumerate(words.split())
    ]
    return pa.Table.from_pylist(rows, MARK_SCHEMA)


def audit(count, settings=SETTINGS, gold=LEFT, **said):
    pairs = make_pairs(count, gold)
    return audit_by_people(pairs, make_marks(pairs, **said), settings)


def counts(audit):
    return {name: (share["count"], share["total"]) for name, share in audit["shares"].items()}


def test_cells_and_sides_count_what_is_decided():
    # UNITS: win_box lose_box win_response lose_response
    found = audit(100, kim="rwrw rrrw wwww wrru urr-")
    assert (found["pairs"], found["seen"], found["annotators"]) == (100, 5, {"kim": 5})
    assert counts(found) == {
        **{"WP-LP": (1, 4), "WP-LN": (1, 4), "WN-LP": (1, 4), "WN-LN": (1, 4)},
        **{
            "win_positive": (2, 4),
            "lose_negative": (2, 5),
            "win_response_right": (4, 5),
            "lose_response_wrong": (3, 3),
        },
    }
    assert found["undecided"] == {"boxes": 1, "responses": 1}
    low, high = finite_wilson(2, 4, 0.05)
    share = found["shares"]["win_positive"]
    assert (share["percent"], share["low"], share["high"]) == (50, pytest.approx(100 * low), pytest.approx(100 * high))


def test_critics_found_the_win_right_and_the_lose_wrong():
    found = audit(100, kim="rwrw rrrw wwww")
    assert [(found["critics"][name]["count"], found["critics"][name]["total"]) for name in ("box", "response")] == [
        (4, 6),
        (5, 6),
    ]
    assert audit(100, {**SETTINGS, "box_critic": False}, kim="rwrw")["critics"]["box"] is None


def test_two_people_agree_beyond_chance_and_what_they_contradict_is_undecided():
    """Boxes: kim r w r w, lee r w w w: 3 of 4 agree; chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2; kappa 1/2."""
    found = audit(100, kim="rw-- rw-- ---- r---", lee="rw-- ww-- r--- ----")
    [boxes] = found["between"]
    assert (boxes["annotators"], boxes["kind"]) == (["kim", "lee"], "boxes")
    assert (boxes["share"]["count"], boxes["share"]["total"]) == (3, 4)
    assert boxes["kappa"] == pytest.approx(0.5)
    assert counts(found)["win_positive"] == (3, 3) and found["undecided"]["boxes"] == 1
    assert found["seen"] == 4
    assert any("kim and lee agree on 3 of 4" in line and "kappa 0.500" in line for line in human_lines(found))


def test_people_against_labels():
    """Labels say right, wrong for each pair; kim says so of 3 boxes of 4: kappa (3/4 - 1/2) / (1/2)."""
    found = audit(100, kim="rw-- rr--")
    assert (found["labels"]["share"]["count"], found["labels"]["share"]["total"]) == (3, 4)
    assert found["labels"]["kappa"] == pytest.approx(0.5)
    assert audit(100, gold=None, kim="rw--")["labels"] is None


def test_all_pairs_seen_leave_no_uncertainty_and_few_leave_that_of_wilson():
    every = audit(2, kim="rwrw wwrw")["shares"]["win_positive"]
    assert (every["low"], every["percent"], every["high"]) == (50, 50, 50)
    few = audit(10_000, kim="rwrw wwrw")["shares"]["win_positive"]
    assert (few["low"], few["high"]) == pytest.approx([100 * end for end in wilson(1, 2)], abs=0.1)


def test_marks_of_other_pairs_do_not_count():
    pairs = make_pairs(3)
    assert audit_by_people(pairs.slice(1), make_marks(pairs, kim="rwrw"), SETTINGS) is None
    assert audit_by_people(pairs, MARK_SCHEMA.empty_table(), SETTINGS) is None


def test_each_share_has_a_name():
    found = audit(3, kim="rwrw")
    assert [name for name, _ in human_rows(found)][:5] == [
        "WP-LP",
        "WP-LN",
        "WN-LP",
        "WN-LN",
        "win box in the right place",
    ]
