"""Answer metrics: each by hand, and one name for one meaning in generation, evaluation and RLOO."""

from types import SimpleNamespace

import pytest

from visrl_data.core.config import GenConfig
from visrl_data.core.metrics import METRICS, anls, answer_metric, exact, normalized, vqa, vqa_normalize
from visrl_data.core.records import Question
from visrl_data.evaluation.config import SCORES
from visrl_data.evaluation.predictions import Prediction
from visrl_data.evaluation.scores import score_answer
from visrl_data.pipeline import critics
from visrl_train.config import RlooAnswersConfig


@pytest.mark.parametrize(
    ("response", "answers", "score"),
    [
        ("The cat.", ["cat"], 1.0),
        ("7", ["seven", "7"], 1.0),
        ("35", ["3.5"], 0.0),
        ("-5", ["5"], 0.0),
        ("$5", ["5"], 1.0),
        ("", ["7"], 0.0),
        ("?", ["!"], 0.0),
        ("a", ["the"], 0.0),
        ("Cat and dog", ["cat"], 0.0),
    ],
)
def test_normalized(response, answers, score):
    assert normalized(response, answers) == score


def test_anls_by_hand():
    """kitten -> sitting takes 3 edits of 7 letters: 1 - 3/7; below one half counts nothing."""
    assert anls("kitten", ["sitting"]) == pytest.approx(4 / 7)
    assert anls("abc", ["xyz"]) == 0.0
    assert anls("ABC ", ["xyz", "abc"]) == 1.0


def test_exact_forgives_blanks_around_the_text_alone():
    assert exact(" cat\n", ["dog", "cat "]) == 1.0
    assert exact("The Cat.", ["cat"]) == exact("Cat", ["cat"]) == exact("c at", ["cat"]) == 0.0


@pytest.mark.parametrize(
    ("matches", "others", "score"),
    [(0, 10, 0.0), (1, 9, 0.3), (2, 8, 0.6), (3, 7, 0.9), (4, 6, 1.0), (10, 0, 1.0)],
)
def test_vqa_accuracy_of_ten_annotators(matches, others, score):
    """Three of ten agree: without one of the three 2/3, without another one 1: (3 * 2/3 + 7 * 1) / 10 = 0.9."""
    answers = ["two cats"] * matches + [f"other {i}" for i in range(others)]
    assert vqa("the 2 cats", answers) == pytest.approx(score)


@pytest.mark.parametrize("metric", METRICS.values())
def test_marks_around_an_answer_do_not_count(metric):
    """GLM-4V's, which are no special tokens and stay in its replies."""
    assert metric("<|begin_of_box|>12:30<|end_of_box|>", ["12:30"]) == 1.0
    assert metric("<|begin_of_box|>12:30<|end_of_box|>", ["begin"]) == 0.0


def test_vqa_without_a_vote_is_a_match():
    assert vqa("Yes!", ["yes"]) == vqa("no", ["yes", "maybe", "no"]) == 1.0
    assert vqa("no", ["yes"]) == 0.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat.", "cat"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("1,000 dollars", "1000 dollars"),
        ("3.5", "3.5"),
        ("7/8", "7 8"),
        ("left / right", "left right"),
        ("a\tman\nrides", "man rides"),
        ("5:40", "5:40"),
    ],
)
def test_vqa_normalize(text, normal):
    assert vqa_normalize(text) == normal


def test_the_names_are_the_same_everywhere():
    assert (*METRICS, "critic") == SCORES
    for config, field in ((GenConfig, "response_critic"), (RlooAnswersConfig, "reward")):
        assert config.__dataclass_fields__[field].metadata["choices"] == ("model", *METRICS)
    assert answer_metric("normalised") is METRICS["normalized"]


@pytest.mark.parametrize(("name", "score"), [("exact", 0.0), ("normalized", 1.0), ("anls", 0.0), ("vqa", 1.0)])
def test_a_name_means_the_same_in_gen_eval_and_rloo(name, score):
    from visrl_train.rloo import metric_reward

    question = Question("q", "s", "train", "?", ("cat",), b"", "", 8, 8)
    prediction = Prediction(0, "q", "s", answers=("cat",), response="The Cat.")
    focus = SimpleNamespace(view=SimpleNamespace(question=question))
    critic = critics.response_critic(GenConfig(response_critic=name), None, None)
    verdicts = critic.score([critics.ScoreInput(focus, "The Cat.")])
    assert verdicts[0].value == score_answer(prediction, name) == score
    assert metric_reward(name)([[{"content": "The Cat."}]], answers=[["cat"]]) == [score]
