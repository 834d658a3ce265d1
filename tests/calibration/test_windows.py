"""Crops of controlled cases hold, miss or drown the gold box as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visrl_data.calibration.windows import far_window, gold_box, half_window, loose_window, random_window
from visrl_data.core.boxes import Box
from visrl_data.core.crops import CropRule, crop_pixels

SIZE = (400, 300)
EXACT = CropRule(0.0, 1000.0)  # cuts the box itself


def box(x1, y1, x2, y2):
    return Box(x1 / SIZE[0], y1 / SIZE[1], x2 / SIZE[0], y2 / SIZE[1])


def test_half_is_cut_across_the_longer_side():
    rng = np.random.default_rng(0)
    halves = {half_window(box(100, 100, 180, 140), SIZE, EXACT, rng) for _ in range(20)}
    assert halves == {(100, 100, 140, 140), (140, 100, 180, 140)}
    halves = {half_window(box(100, 100, 140, 180), SIZE, EXACT, rng) for _ in range(20)}
    assert halves == {(100, 100, 140, 140), (100, 140, 140, 180)}


def test_there_is_no_half_where_the_crop_rule_gives_most_of_it_back():
    assert half_window(box(100, 100, 110, 106), SIZE, CropRule(0.08, 2.0), np.random.default_rng(0)) is None


def test_loose_has_four_times_the_sides_and_none_where_the_image_is_too_small():
    assert loose_window(box(190, 140, 210, 160), SIZE, EXACT) == (160, 110, 240, 190)
    assert loose_window(box(20, 20, 380, 280), SIZE, EXACT) is None


@given(st.integers(0, 300), st.integers(0, 200), st.integers(5, 100), st.integers(5, 100), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_far_is_as_large_as_the_gold_crop_and_touches_no_gold_box(x, y, wide, high, seed):
    gold, other = box(x, y, x + wide, y + high), box(0, 0, 60, 60)
    window = far_window(gold, [gold, other], SIZE, CropRule(), np.random.default_rng(seed))
    crop = crop_pixels(gold, SIZE, CropRule())
    if window is None:
        return
    assert (window[2] - window[0], window[3] - window[1]) == (crop[2] - crop[0], crop[3] - crop[1])
    assert window[0] >= 0 and window[1] >= 0 and window[2] <= SIZE[0] and window[3] <= SIZE[1]
    for one in ((x, y, x + wide, y + high), (0, 0, 60, 60)):
        assert window[2] <= one[0] or window[0] >= one[2] or window[3] <= one[1] or window[1] >= one[3]


def test_there_is_no_far_crop_where_the_gold_box_is_the_image():
    gold = Box(0, 0, 1, 1)
    assert far_window(gold, [gold], SIZE, CropRule(), np.random.default_rng(0)) is None


def test_a_random_crop_is_small():
    for seed in range(50):
        left, top, right, bottom = random_window(SIZE, EXACT, np.random.default_rng(seed))
        assert 0.15 * SIZE[0] - 2 <= right - left <= 0.3 * SIZE[0] + 2
        assert 0.15 * SIZE[1] - 2 <= bottom - top <= 0.3 * SIZE[1] + 2


@pytest.mark.parametrize(("rule", "expected"), [("any", (0, 0, 0.5, 0.5)), ("union", (0, 0, 1, 0.75))])
def test_several_gold_boxes(rule, expected):
    assert gold_box([Box(0, 0, 0.5, 0.5), Box(0.5, 0.5, 1, 0.75)], rule).xyxy == expected
