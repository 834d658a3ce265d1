"""Figures by hand, the best thresholds against brute force, and the critics that must be found out."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from visrl_data.calibration.measure import best_thresholds, measure_critic
from visrl_data.calibration.verdicts import CaseVerdict

THRESHOLDS = (0.8, 0.2)
RESPONSE_KINDS = ("answer", "sentence", "other_answer", "empty", "answer_claim", "other_order")


def verdict(row, kind, score, variant="", state="ok"):
    return CaseVerdict(row, f"q{row}", kind, variant, "", None, None, score, state if score is None else "ok", "")


def asked(script, questions=64, kinds=RESPONSE_KINDS):
    """Verdicts of a critic that is a function of (kind, variant)."""
    plain = [verdict(row, kind, script(kind, "")) for row in range(questions) for kind in kinds]
    again = [v for v in plain if v.kind in ("answer", "other_answer", "other_image")]
    return plain + [verdict(v.row, v.kind, script(v.kind, "wording"), "wording") for v in again]


def test_figures_by_hand():
    """Right: 1, 0.9, 0.1 | wrong: 0, 0.85, unread. Of 6 comparisons right wins 1>0, 1>0.85, 0.9>0, 0.9>0.85, 0.1>0:
    AUC 5/6. One of two read wrong ones wins, one of three right ones loses, one of six is unread."""
    rows = [(0, "answer", 1.0), (1, "answer", 0.9), (2, "answer", 0.1), (0, "other_answer", 0.0),
            (1, "other_answer", 0.85), (2, "other_answer", None)]  # fmt: skip
    verdicts = [verdict(*row, state="unparsed:no_json") for row in rows] + [verdict(0, "gold", 1.0)]
    figures = measure_critic("response", verdicts, THRESHOLDS)
    assert figures["cases"] == 6, "the box critic's are not counted"
    assert figures["separation"]["auc"] == pytest.approx(5 / 6)
    assert (figures["separation"]["right"], figures["separation"]["wrong"]) == (3, 2)
    wins, loses, unparsed = figures["false_wins"], figures["false_loses"], figures["unparsed"]
    assert (wins["count"], wins["of"], wins["questions"]) == (1, 2, 2)
    assert (loses["count"], loses["of"]) == (1, 3) and (unparsed["count"], unparsed["of"]) == (1, 6)
    assert figures["unparsed_reasons"] == {"no_json": 1}
    expected = stats.binomtest(1, 3).proportion_ci(method="wilson")
    assert (loses["low"], loses["high"]) == pytest.approx((expected.low, expected.high))
    kinds = {kind["kind"]: kind for kind in figures["kinds"]}
    assert (kinds["other_answer"]["wins"], kinds["other_answer"]["loses"]) == (0.5, 0.5)
    assert kinds["answer"]["mean"] == pytest.approx(2 / 3)


def test_an_interval_counts_questions_not_cases():
    """Two wrong cases of each of 20 questions, all of them wins: the interval of 20 of 20, not of 40 of 40."""
    verdicts = [verdict(row, kind, 1.0) for row in range(20) for kind in ("other_answer", "empty")]
    share = measure_critic("response", verdicts, THRESHOLDS)["false_wins"]
    expected = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert (share["of"], share["questions"]) == (40, 20)
    assert (share["low"], share["high"]) == pytest.approx((expected.low, expected.high))


def test_a_score_on_the_threshold_counts_whatever_its_last_bits():
    verdicts = [verdict(0, "other_answer", 0.1 * 3), verdict(0, "answer", 0.1 * 3)]
    assert measure_critic("response", verdicts, (0.3, 0.2))["false_wins"]["count"] == 1
    assert measure_critic("response", verdicts, (0.8, 0.3))["false_loses"]["count"] == 1


def test_injected_cases_are_compared_with_the_same_answer_and_count_in_no_auc():
    scores = {"answer": 1.0, "other_answer": 0.0, "answer_claim": 1.0, "other_order": 1.0}
    figures = measure_critic("response", asked(lambda kind, _: scores[kind], 10, tuple(scores)), THRESHOLDS)
    shifts = {shift["kind"]: shift for shift in figures["shifts"]}
    assert (shifts["other_order"]["shift"], shifts["other_order"]["to_win"]) == (1.0, 10)
    assert (shifts["answer_claim"]["shift"], shifts["answer_claim"]["to_lose"]) == (0.0, 0)
    assert shifts["other_order"]["low"] > 0.5 and shifts["answer_claim"]["low"] < 0 < shifts["answer_claim"]["high"]
    assert figures["separation"]["auc"] == 1.0 and figures["false_wins"]["count"] == 0
    assert any("another + order to say 1" in line and "10 of 10" in line for line in figures["warnings"])


def test_agreement_compares_the_same_case():
    first = [verdict(row, "answer", 1.0) for row in range(4)]
    again = [verdict(row, "answer", score, "wording") for row, score in enumerate((1.0, 0.9, 0.5, None))]
    figures = measure_critic("response", first + again, THRESHOLDS)
    assert (figures["wording"]["changed"]["count"], figures["wording"]["changed"]["of"]) == (2, 4)
    assert figures["wording"]["mean_difference"] == pytest.approx((0 + 0.1 + 0.5) / 3)
    assert figures["repeat"] is None


def test_a_good_critic_has_no_warning():
    script = {
        "answer": 1.0,
        "sentence": 0.9,
        "other_answer": 0.0,
        "empty": 0.0,
        "answer_claim": 1.0,
        "other_order": 0.1,
    }
    figures = measure_critic("response", asked(lambda kind, _: script[kind]), THRESHOLDS)
    assert figures["warnings"] == []
    assert figures["best"]["separates"] and (figures["best"]["win"], figures["best"]["lose"]) == THRESHOLDS


def test_a_critic_that_always_says_one_is_found_out():
    figures = measure_critic("response", asked(lambda *_: 1.0), THRESHOLDS)
    text = "\n".join(figures["warnings"])
    for finding in ("gave 1 to every case", "does not tell right from wrong", "100.0 % of the cases", "No threshold"):
        assert finding in text
    assert not figures["best"]["separates"]


def test_without_any_right_case_a_critic_that_always_says_one_is_found_out_too():
    kinds = ("blank", "other_image", "random", "whole")
    figures = measure_critic("box", asked(lambda *_: 1.0, kinds=kinds), THRESHOLDS)
    assert figures["separation"] is None and figures["best"] is None
    text = "\n".join(figures["warnings"])
    assert "gave 1 to every case" in text and "100.0 % of the cases that are wrong for certain" in text
    assert figures["whole_image"]["auc"] == 0.5


@pytest.mark.parametrize("seed", range(8))
def test_a_critic_that_answers_at_random_is_found_out(seed):
    dice = random.Random(seed)
    figures = measure_critic("response", asked(lambda *_: dice.randrange(11) / 10), THRESHOLDS)
    text = "\n".join(figures["warnings"])
    assert "No threshold separates" in text and "change sides when asked in other words" in text
    assert "A text can move its verdict" not in text, "noise moves verdicts both ways"
    assert "wrong for certain score at least 0.8" in text


def test_a_critic_that_no_one_can_read():
    figures = measure_critic("response", asked(lambda *_: None), THRESHOLDS)
    assert len(figures["warnings"]) == 1 and "None of its verdicts could be read" in figures["warnings"][0]
    assert figures["best"] is None and figures["separation"] is None


def test_other_thresholds_are_named_where_they_are_better():
    """Right ones at 0.6, wrong ones at 0.4: nothing wins and nothing loses at 0.8 / 0.2."""
    figures = measure_critic(
        "response", asked(lambda kind, _: 0.4 if kind in ("other_answer", "empty") else 0.6), THRESHOLDS
    )
    assert (figures["best"]["win"], figures["best"]["lose"]) == (0.6, 0.4)
    assert "--response-win 0.6 --response-lose 0.4" in "\n".join(figures["warnings"])


@given(
    st.lists(st.integers(0, 10), min_size=1, max_size=12),
    st.lists(st.integers(0, 10), min_size=1, max_size=12),
    st.sampled_from([(0.8, 0.2), (0.55, 0.5), (1.0, 0.0)]),
)
@settings(max_examples=40, deadline=None)
def test_best_thresholds_against_brute_force(right, wrong, now):
    right, wrong = np.array(right) / 10, np.array(wrong) / 10
    best = best_thresholds(right, wrong, *now)

    def gains(win, lose):
        return np.mean(right >= win) - np.mean(wrong >= win), np.mean(wrong <= lose) - np.mean(right <= lose)

    grid = sorted({round(i / 100, 9) for i in range(101)} | set(now))
    most = max(sum(gains(win, lose)) for win, lose in itertools.product(grid, grid) if win > lose)
    assert best["win"] > best["lose"]
    assert gains(best["win"], best["lose"]) == pytest.approx((best["win_gain"], best["lose_gain"]))
    assert best["win_gain"] + best["lose_gain"] == pytest.approx(most)
    if sum(gains(*now)) == pytest.approx(most):
        assert (best["win"], best["lose"]) == now, "nothing is changed for nothing"
