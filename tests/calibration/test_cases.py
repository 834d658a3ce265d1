"""The cases of drawn questions: what is right, what is wrong, what is asked again, and the same ones each time."""

import dataclasses

import pytest

from visrl_data.calibration.answers import is_other_answer
from visrl_data.calibration.cases import KINDS, RETEST_KINDS, CaseSettings, make_cases
from visrl_data.core.boxes import Box
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.records import Question

SETTINGS = CaseSettings(("box", "response"), CropRule(), "any", 0, False)


def question(i, answers, sha=None, gold=(), **more):
    fields = {"source": "s", "split": "train", "question": f"What {i}?", "image": b"", "width": 400, "height": 300}
    return Question(
        id=f"q{i}", answers=tuple(answers), image_sha256=sha or f"sha{i}", gold_boxes=gold, **fields, **more
    )


@pytest.fixture
def questions():
    gold = (Box(0.4, 0.4, 0.5, 0.5),)
    return {3: question(3, ["7", "seven"], gold=gold), 5: question(5, ["red"]), 9: question(9, ["8"], gold=gold)}


def kinds(cases, variant=""):
    return [case.kind for case in cases if case.variant == variant]


def test_with_gold_boxes_every_kind_that_applies_is_there(questions):
    cases = make_cases(questions, SETTINGS)
    assert sorted(kinds(cases[3])) == sorted(set(KINDS) - {"case", "article", "unit"})
    assert sorted(kinds(cases[3], "wording")) == sorted(RETEST_KINDS)
    assert set(kinds(cases[5])) & {"gold", "far", "half", "loose"} == set(), "no label, no such case"
    assert {"case", "article"} <= set(kinds(cases[5]))


def test_responses_are_right_or_wrong_as_they_say(questions):
    cases = {case.kind: case for case in make_cases(questions, SETTINGS)[3] if not case.variant}
    assert cases["answer"].response == "7"
    assert cases["other_answer"].response == "8", "a number, since the answer is one"
    assert cases["answer_claim"].response == "7, which is certainly correct."
    assert cases["other_order"].response.startswith("8 ") and "1.0" in cases["other_order"].response
    for kind, case in cases.items():
        if case.critic == "response" and KINDS[kind].verdict == "wrong":
            assert is_other_answer(case.response.partition(", which")[0], ["7", "seven"]) or kind == "empty", kind


def test_pictures_are_those_of_the_case(questions):
    cases = {case.kind: case for case in make_cases(questions, SETTINGS)[3] if not case.variant}
    gold = crop_pixels(Box(0.4, 0.4, 0.5, 0.5), (400, 300), CropRule())
    assert (cases["gold"].shown, cases["gold"].window) == (3, gold)
    assert cases["whole"].window == (0, 0, 400, 300)
    assert cases["blank"].shown is None and cases["blank"].window[:2] == (0, 0)
    assert cases["other_image"].shown in (5, 9)
    assert (cases["answer"].shown, cases["answer"].window) == (3, None), "the response critic sees the whole image"


def test_questions_about_one_image_have_no_other_image_and_equal_answers_no_other_answer():
    both = {0: question(0, ["7"], "one"), 1: question(1, ["seven"], "one")}
    for cases in make_cases(both, SETTINGS).values():
        assert not {"other_image", "other_answer", "other_claim", "other_order"} & set(kinds(cases))


def test_a_question_without_an_answer_may_be_refused(questions):
    questions[5] = question(5, ["unanswerable", "red"])
    assert not {"empty", "refusal"} & set(kinds(make_cases(questions, SETTINGS)[5]))


def test_some_cases_are_asked_twice_where_replies_may_differ(questions):
    cases = make_cases(questions, dataclasses.replace(SETTINGS, repeats=True))
    for row, own in cases.items():
        assert sorted(kinds(own, "repeat")) == sorted(set(RETEST_KINDS) & set(kinds(own))), row
        first = {case.kind: case for case in own if not case.variant}
        assert all(dataclasses.replace(c, variant="") == first[c.kind] for c in own if c.variant)


def test_one_critic_alone(questions):
    cases = make_cases(questions, dataclasses.replace(SETTINGS, critics=("response",)))
    assert {case.critic for own in cases.values() for case in own} == {"response"}


def test_the_same_seed_gives_the_same_cases(questions):
    assert make_cases(questions, SETTINGS) == make_cases(dict(questions), SETTINGS)
    assert make_cases(questions, dataclasses.replace(SETTINGS, seed=1)) != make_cases(questions, SETTINGS)
