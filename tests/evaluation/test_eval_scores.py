"""The bootstrap of an evaluation, against cases made by hand and against scipy."""

from __future__ import annotations

import time

import numpy as np
import pytest

from visrl_data.evaluation.eval_sources import EvalSource, scores_and_drops
from visrl_data.evaluation.predictions import Prediction
from visrl_data.evaluation.scores import ScoreSettings, box_iou, interval, resampled_means, score_answer, score_models

SETTINGS = ScoreSettings({"s": "exact"}, "any", 4_000, 0)
GOLD = ((0.0, 0.0, 0.5, 0.5),)


def predictions(right: str, group: str = "s") -> list[Prediction]:
    """ "101" -> three predictions, of which the second is wrong; on the label where the answer is right."""
    return [
        Prediction(i, f"{group}{i}", group, answers=("7",), gold_boxes=GOLD, focus_state="ok",
                   box=GOLD[0] if ok == "1" else (0.5, 0.5, 1.0, 1.0), response="7" if ok == "1" else "8")
        for i, ok in enumerate(right)
    ]  # fmt: skip


def test_two_questions_by_hand():
    """Scores 1 and 0: of the four equally likely resamples one has mean 1, two 1/2, one 0."""
    draws = resampled_means(np.array([[1.0, 0.0]]), 40_000, seed=3)[:, 0]
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 40_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    assert interval(draws) == (0.0, 1.0)


def test_pairing_takes_away_what_both_share():
    """b is a plus a tenth on every question: the difference is a tenth in every resample, however a varies."""
    a = np.array([0.0, 0.9, 0.1, 0.7, 0.3])
    draws = resampled_means(np.stack([a, a + 0.1]), 1_000, seed=0)
    assert interval(draws[:, 1] - draws[:, 0]) == (0.1, 0.1)
    assert draws[:, 0].std() > 0.1


def test_against_scipy():
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 200).astype(float), rng.integers(0, 2, 200).astype(float)
    draws = resampled_means(np.stack([a, b]), 10_000, seed=0)
    theirs = stats.bootstrap((b - a,), np.mean, n_resamples=10_000, method="percentile", random_state=0)
    expected = theirs.confidence_interval
    assert interval(draws[:, 1] - draws[:, 0]) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_the_same_seed_gives_the_same_interval_and_another_group_other_draws():
    found = score_models([predictions("1100"), predictions("1010")], [2, 2], SETTINGS)
    assert found == score_models([predictions("1100"), predictions("1010")], [2, 2], SETTINGS)
    difference = found[1]["s"]["answer_difference"]
    assert (difference["mean"], difference["low"], difference["high"]) == (0.0, -0.75, 0.75)


def test_the_macro_mean_resamples_inside_each_group():
    """Group t has one question, always drawn once; the total is (mean of s + 1) / 2, so it is never below 1/2."""
    both = predictions("10") + predictions("1", "t")
    [found] = score_models([both], [2], ScoreSettings({"s": "exact", "t": "exact"}, "any", 2_000, 0))
    assert found["t"]["answer_interval"] == (1.0, 1.0) and found["s"]["answer_interval"] == (0.0, 1.0)
    assert found["all"]["answer"] == 0.75 and found["all"]["answer_interval"] == (0.5, 1.0)
    assert found["all"]["box_accuracy"] == 0.75 and found["all"]["box_accuracy_interval"] == (0.5, 1.0)


@pytest.mark.parametrize(
    ("kind", "response", "score"),
    [
        ("exact", " The Stop ", 1.0),
        ("exact", "the stop", 0.0),
        ("normalized", "stop!", 1.0),
        ("normalized", "stops", 0.0),
        ("anls", "the stob", 7 / 8),
        ("anls", "nothing like it", 0.0),
        ("critic", "anything", 0.4),
        ("exact", None, 0.0),
        ("critic", None, 0.0),
    ],
)
def test_answer_scores(kind, response, score):
    verdict = None if response is None else 0.4
    given = Prediction(0, "q", "s", answers=("The Stop", "halt"), response=response, verdict=verdict)
    assert score_answer(given, kind) == pytest.approx(score)


@pytest.mark.parametrize(("rule", "expected"), [("any", 0.5), ("union", 0.96), ("bounding_box", 0.24)])
def test_box_iou_with_several_gold_boxes(rule, expected):
    """Two halves of the box and a speck far away."""
    gold = ((0.0, 0.0, 0.4, 0.3), (0.0, 0.3, 0.4, 0.6), (0.9, 0.9, 1.0, 1.0))
    assert box_iou(Prediction(0, "q", "s", gold_boxes=gold, box=(0.0, 0.0, 0.4, 0.6)), rule) == pytest.approx(expected)


def test_thousands_of_questions_take_seconds():
    started = time.perf_counter()
    draws = resampled_means(np.random.default_rng(0).random((8, 1_000)), 10_000, seed=0)
    assert draws.shape == (10_000, 8) and time.perf_counter() - started < 20


def test_groups_with_the_answers_of_annotators_are_scored_by_vqa_accuracy():
    def source(name, scores):
        return EvalSource(name, None, type("Rows", (), {"name": name, "__len__": lambda self: 3})(), "", scores)

    votes = ("yes",) * 9 + ("no",)
    predictions = [
        Prediction(0, "0", "voted", answers=tuple("abcdefghij")),
        Prediction(1, "1", "voted", answers=votes),
        Prediction(2, "2", "plain", answers=("a", "b")),
    ]
    assert scores_and_drops([source("set", {})], predictions)[0] == {"voted": "vqa", "plain": "normalized"}
    assert scores_and_drops([source("set", {"": "anls"})], predictions)[0] == {"voted": "anls", "plain": "anls"}
    assert scores_and_drops([source("set", {"voted": "exact"})], predictions)[0]["voted"] == "exact"
    assert scores_and_drops([source("visual-cot", {})], predictions)[0] == {"voted": "critic", "plain": "critic"}
