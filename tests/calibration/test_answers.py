"""Answers in other words are right by construction, and answers of other questions are wrong by every metric."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visrl_data.calibration.answers import (
    answer_kind,
    choose_other_answer,
    dress_answer,
    is_other_answer,
    may_be_refused,
)
from visrl_data.core.metrics import METRICS, normalize, normalized

POOL = ["stop", "Stop sign", "the cat", "yes", "no", "7", "seven", "17", "5 kg", "a small red car by the sea", "1,000"]


@pytest.mark.parametrize(
    ("answer", "ways"),
    [
        ("7", {"sentence": "The answer is 7.", "number": "seven"}),
        ("Seven", {"case": "SEVEN", "sentence": "The answer is Seven.", "number": "7"}),
        ("stop sign", {"case": "STOP SIGN", "article": "the stop sign", "sentence": "The answer is stop sign."}),
        ("the cat", {"case": "THE CAT", "sentence": "The answer is the cat."}),
        ("STOP", {"case": "stop", "article": "the STOP", "sentence": "The answer is STOP."}),
        ("5 kg", {"case": "5 KG", "sentence": "The answer is 5 kg.", "unit": "5 kilograms"}),
        ("20%", {"sentence": "The answer is 20%.", "unit": "20 percent"}),
        ("3 pounds", {"case": "3 POUNDS", "article": "the 3 pounds", "sentence": "The answer is 3 pounds.",
                      "unit": "3 lb"}),
        ("yes", {"case": "YES", "sentence": "The answer is yes."}),
        ("He went home.", {"case": "HE WENT HOME.", "article": "the He went home."}),
        ("007", {"sentence": "The answer is 007."}),
        ("²", {"sentence": "The answer is ²."}),
        ("B", {"case": "b", "sentence": "The answer is B."}),
    ],
)  # fmt: skip
def test_dressed(answer, ways):
    assert dress_answer(answer) == ways


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=30).map(str.strip))
@settings(max_examples=100, deadline=None)
def test_any_answer_can_be_dressed_and_a_change_of_case_is_the_same_answer(answer):
    if not answer:
        return
    ways = dress_answer(answer)
    assert answer not in ways.values()
    if "case" in ways and answer.upper().lower() == answer.lower() and normalize(answer):  # "A" alone is an article
        assert normalized(ways["case"], [answer]) == 1.0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("Yes.", "yes/no"), ("7", "number"), ("seven", "number"), ("$3.50", "number"), ("12:30", "number"),
     ("5 kg", "number"), ("stop sign", "word"), ("a small red car by the sea", "phrase")],
)  # fmt: skip
def test_kinds(answer, kind):
    assert answer_kind(answer) == kind


@pytest.mark.parametrize(
    ("response", "answers", "is_other"),
    [
        ("8", ["7"], True),
        ("seven", ["7"], False),
        ("twelve", ["12"], False),  # which no metric knows
        ("stop sign", ["stop"], False),  # holds the answer
        ("stop", ["the stop sign"], False),  # is a part of it
        ("stpo", ["stop"], False),  # ANLS 0.5
        ("go", ["stop", "Go"], False),  # any accepted answer counts
        ("seven", ["5"] * 9 + ["7"], False),  # one annotator's answer
        ("cat", ["dog"], True),
        ("...", ["dog"], False),  # nothing is left of it to compare
    ],
)
def test_what_is_another_answer(response, answers, is_other):
    assert is_other_answer(response, answers) == is_other


@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_a_chosen_answer_is_wrong_by_every_metric_and_of_the_kind_where_there_is_one(answers, seed):
    other = choose_other_answer(answers, POOL, np.random.default_rng(seed))
    assert other is not None
    assert all(metric(other, answers) == 0 for metric in METRICS.values())
    kinds = {answer_kind(answer) for answer in answers}
    alike = [text for text in POOL if is_other_answer(text, answers) and answer_kind(text) in kinds]
    assert (answer_kind(other) in kinds) == bool(alike)


def test_there_may_be_no_other_answer():
    assert choose_other_answer(["7"], ["seven", "7", "7 cats"], np.random.default_rng(0)) is None


def test_a_question_without_an_answer_may_be_refused():
    assert may_be_refused(["blue", "unanswerable"]) and not may_be_refused(["blue"])
