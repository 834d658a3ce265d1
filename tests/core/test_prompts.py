"""Prompts keep their values as text; the score parser accepts one thing only."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visrl_data.core.errors import UsageError
from visrl_data.core.prompts import PromptPart, PromptSet, load_prompts, parse_score, standard_answer


def test_the_order_of_parts_is_image_question_crop():
    assert [part.kind for part in PromptSet().focus.parts(question="q")] == ["image", "text"]
    assert [part.kind for part in PromptSet().answer.parts(question="q")] == ["image", "text", "crop", "text"]
    box_critic = PromptSet().box_critic.parts(question="q", answer="a")
    assert [part.kind for part in box_critic] == ["crop", "text"], "the box critic must not see the whole image"
    response_critic = PromptSet().response_critic.parts(question="q", answer="a", response="r")
    assert [part.kind for part in response_critic] == ["image", "text"]


def test_focus_and_answer_share_their_prefix():
    focus, answer = PromptSet().focus.parts(question="q"), PromptSet().answer.parts(question="q")
    assert answer[: len(focus)] == focus


@given(st.text(), st.text(), st.text())
def test_values_are_never_read_again(question, answer, response):
    values = {"question": question + "{answer}", "answer": answer + "\n<image>\n", "response": response + "{question}"}
    parts = PromptSet().response_critic.parts(**values)
    assert [part.kind for part in parts] == ["image", "text"]
    for value in values.values():
        assert value in parts[1].text


def test_ids_change_with_the_template():
    prompts = PromptSet()
    assert all(re.fullmatch(rf"{prompt.name}@[0-9a-f]{{8}}", prompt.id) for prompt in prompts.all())
    assert len({prompt.id for prompt in prompts.all()}) == 4


def test_own_prompts(tmp_path):
    file = tmp_path / "prompts.toml"
    file.write_text('focus = "<image>\\nWhere is it? {question}"\n')
    prompts = load_prompts(file)
    assert prompts.focus.parts(question="Q") == (PromptPart("image"), PromptPart("text", "Where is it? Q"))
    assert prompts.answer == PromptSet().answer
    assert prompts.focus.id != PromptSet().focus.id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('fokus = "x"', "unknown prompt 'fokus'"),
        ("focus = 3", "must be a string"),
        ('focus = "<image>\\nno field"', "missing"),
        ('focus = "{question}"', "must have its picture <image>"),
        ('answer = "<image>\\n{question}"', "<crop>|picture"),
        ('focus = "<image>\\n<image>\\n{question}"', "once, and no other; it has <image>, <image>"),
        ('focus = "<image>\\n{question}\\n<crop>"', "no other; it has <image>, <crop>"),
        ("focus = [[[", "prompts.toml"),
        ('box_critic = "<crop>\\n{question} {answer} {response}"', "not allowed"),
    ],
)
def test_wrong_prompt_files_are_named(tmp_path, text, message):
    file = tmp_path / "prompts.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_prompts(file)
    with pytest.raises(UsageError, match=r"--prompts gone\.toml: no such file"):
        load_prompts(Path("gone.toml"))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"score": 0.8}', (0.8, "ok")),
        ('```json\n{"score": 1}\n```', (1.0, "ok")),
        ('Sure: {"score": 0, "why": "no"}', (0.0, "ok")),
        ("0.8", (None, "no_json")),
        ("", (None, "no_json")),
        ('{"score": 0.8} or {"score": 0.1}', (None, "several_json")),
        ('{"score": 0.8, "score": 0.1}', (None, "several_json")),
        ('{"rating": 0.8}', (None, "no_score")),
        ("{score: 0.8}", (None, "bad_json")),
        ('{"score": "0.8"}', (None, "not_a_number")),
        ('{"score": true}', (None, "not_a_number")),
        ('{"score": null}', (None, "not_a_number")),
        ('{"score": NaN}', (None, "not_a_number")),
        ('{"score": 1e999}', (None, "not_a_number")),
        ('{"score": 1.01}', (None, "out_of_range")),
        ('{"score": -0.1}', (None, "out_of_range")),
        ('{"score": 8}', (None, "out_of_range")),
    ],
)
def test_score_replies(reply, expected):
    assert parse_score(reply) == expected


@given(st.text(alphabet='{}":score0.18eE-+[]nul,NaN \n', max_size=60) | st.text())
def test_any_reply_is_a_score_or_a_reason(reply):
    score, state = parse_score(reply)
    assert (score is None) == (state != "ok")
    assert score is None or 0 <= score <= 1


def test_standard_answer_names_each_once():
    assert standard_answer(("7", "seven")) == "7 or seven"


@pytest.mark.parametrize(
    ("answers", "standard"),
    [
        (("yes",) * 8 + ("shop name", "no"), "yes"),
        (
            ("no", "Yes", "yes", "Yes.", "no"),
            "Yes",
        ),  # equal by the rule of VQA; the most frequent spelling, or the first
        (("a", "b", "b", "c", "c"), "b or c"),  # a tie: all of it
        (("unanswerable",) * 6 + ("red",) * 2 + ("blue", "unsuitable"), "red"),
        (("answering does not require reading text in the image",) * 9 + ("12",), "12"),
        (("unanswerable", "unanswerable"), "unanswerable"),
        (tuple("abcdefghij"), " or ".join("abcdefghij")),
    ],
)
def test_of_annotators_the_standard_answer_is_the_most_frequent(answers, standard):
    assert standard_answer(answers) == standard
