"""Verdicts: rounding, the states, and one call for equal inputs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visrl_data.core.config import GenConfig
from visrl_data.core.prompts import SCORE_CHOICES
from visrl_data.engines.decoding import choice_reply
from visrl_data.pipeline.critics import read_score, round_score


@pytest.mark.parametrize(
    ("value", "step", "expected"),
    [(0.8, 0.1, 0.8), (0.85, 0.1, 0.9), (0.849, 0.1, 0.8), (0.3, 0.1, 0.3), (1.0, 0.1, 1.0), (0.0, 0.1, 0.0),
     (0.72, 0.25, 0.75), (0.05, 0.1, 0.1), (0.75, 0, 0.75), (0.123456789, 0, 0.123456789)],
)  # fmt: skip
def test_rounding(value, step, expected):
    assert round_score(value, step) == expected


@given(st.floats(0, 1), st.sampled_from([0.1, 0.05, 0.2, 0.25, 0.5]))
def test_a_rounded_score_is_the_nearest_step_and_stays(value, step):
    rounded = round_score(value, step)
    assert 0 <= rounded <= 1
    assert abs(rounded - value) <= step / 2 + 1e-6
    assert round_score(rounded, step) == rounded


@pytest.mark.parametrize("probability", [0.0, math.nan])
def test_probabilities_that_underflowed_are_no_score(probability):
    choices = SCORE_CHOICES
    branches = {(): {number: [number] for number in range(len(choices))}}
    reply = choice_reply({(0, number): probability for number in range(len(choices))}, branches, choices, 3)
    score = read_score(reply, GenConfig(score_mode="expected", score_step=0.1))
    assert (score.value, score.state) == (None, "unparsed:no_probability")
