"""Verdicts: rounding, the states, and one call for equal inputs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visrl_data.pipeline.critics import round_score


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
