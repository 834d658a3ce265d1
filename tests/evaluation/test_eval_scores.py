"""The scores and intervals of an evaluation, against cases made by hand and against scipy."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from visrl_data.evaluation.eval_sources import EvalSource, scores_and_drops
from visrl_data.evaluation.predictions import Prediction
from visrl_data.evaluation.scores import ScoreSettings, box_iou, score_answer, score_models
from visrl_data.report.intervals import (
    difference_interval,
    interval,
    mean_interval,
    mean_over_groups,
    resampled_means,
)
from visrl_data.report.measures import wilson

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
    kinds = ScoreSettings({"s": "anls"}, "any", 4_000, 0)
    both = [[replace(p, response=r) for p, r in zip(predictions("1111"), words, strict=True)]
            for words in (("7", "77", "7", "8"), ("7", "7", "77", "8"))]  # fmt: skip
    figures = score_models(both, [2, 2], kinds)
    assert figures == score_models(both, [2, 2], kinds)
    difference = figures[1]["s"]["answer_difference"]
    assert difference["mean"] == 0.0 and difference["low"] == -difference["high"] < 0


def test_the_macro_mean_adds_up_the_uncertainty_of_its_groups():
    """Group t has one question: its share is anywhere above 0.2, whatever the bootstrap of one question says."""
    both = predictions("10") + predictions("1", "t")
    settings = ScoreSettings({"s": "exact", "t": "exact"}, "any", 2_000, 0)
    [figures] = score_models([both], [2], settings)
    assert figures["t"]["answer_interval"] == pytest.approx(wilson(1, 1))
    assert figures["s"]["answer_interval"] == pytest.approx(wilson(1, 2))
    down = [0.5 - wilson(1, 2)[0], 1 - wilson(1, 1)[0]]
    low, high = figures["all"]["answer_interval"]
    assert (low, high) == pytest.approx((0.75 - np.hypot(*down) / 2, 0.75 + (wilson(1, 2)[1] - 0.5) / 2))
    assert figures["all"]["answer"] == 0.75 and figures["all"]["box_accuracy_interval"] == (low, high)


def test_all_wrong_is_no_certainty():
    """0 of 15 by both models: neither figure nor difference has an interval of no width."""
    figures = score_models([predictions("0" * 15), predictions("0" * 15)], [2, 2], SETTINGS)
    for group in ("s", "all"):
        assert figures[0][group]["answer_interval"] == pytest.approx((0.0, 0.203883), abs=1e-6)
        for name in ("answer_difference", "box_accuracy_difference"):
            low, high = figures[1][group][name]["low"], figures[1][group][name]["high"]
            assert (low, high) == pytest.approx((-0.203883, 0.203883), abs=1e-6)


def test_a_model_without_boxes_has_no_interval_of_boxes():
    first, second = score_models([predictions("10"), predictions("11")], [1, 2], SETTINGS)
    assert first["all"]["box_accuracy_interval"] is None and second["all"]["box_accuracy_difference"] is None
    assert second["all"]["box_accuracy_interval"] == pytest.approx(wilson(2, 2))


@pytest.mark.parametrize(("n", "p", "q", "same"), [(10, 0.02, 0.02, 0.0), (15, 0.9, 0.95, 0.3), (60, 0.5, 0.6, 0.7)])
def test_the_interval_of_a_difference_holds_it_in_95_of_100_samples(n, p, q, same):
    rng, held, draws = np.random.default_rng(n), 0, (np.zeros(1), np.zeros(1))
    for _ in range(1_000):
        first = rng.random(n)
        second = np.where(rng.random(n) < same, first, rng.random(n))
        low, high = difference_interval((first < p).astype(float), (second < q).astype(float), draws)
        held += low - 1e-9 <= q - p <= high + 1e-9
    assert held / 1_000 > 0.93


def test_newcombes_own_example():
    """Of 50: 36 right by both, 12 by the second only, 2 by the first only (Newcombe 1998): 0.0569 to 0.3404."""
    second, first = (np.repeat(values, (36, 12, 2)) for values in ((1.0, 1.0, 0.0), (1.0, 0.0, 1.0)))
    draws = (first, second)
    assert difference_interval(first, second, draws) == pytest.approx((0.05693, 0.34043), abs=1e-5)


def test_scores_between_0_and_1_without_spread_are_counted():
    values, draws = np.full(4, 0.5), np.full(10, 0.5)
    assert mean_interval(values, draws) == pytest.approx(wilson(2, 4))
    low, high = difference_interval(values, values + 0.1, (draws, draws + 0.1))
    assert low < 0.1 < high
    assert mean_over_groups([(0.5, (0.2, 0.8)), (0.5, (0.2, 0.8))]) == pytest.approx(
        (0.5 - 0.3 / 2**0.5, 0.5 + 0.3 / 2**0.5)
    )


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
