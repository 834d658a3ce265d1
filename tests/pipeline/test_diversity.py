"""The diversity controller: its draws are in S, uniform over S, and never missing.

S is enumerated here by trying every box (small lattices) or every size (1001 x 1001), in plain terms of
Eq. 3 and of nothing that diversity.py computes.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from visrl_data.core.boxes import iou, make_frame
from visrl_data.pipeline import diversity
from visrl_data.pipeline.diversity import SecondBox, choose_second_box

TAU, DELTA = 0.05, 0.3
UNIT = make_frame("unit", (640, 480))
SMALL = make_frame("resized_pixels", (900, 800), (9, 8))

# On the 9 x 8 lattice: corners, edges, middle, slim, tall, small and large.
FIRST_BOXES = [
    *[(0, 0, 3, 3), (6, 5, 9, 8), (3, 2, 6, 5), (0, 0, 4, 3), (5, 5, 9, 8), (2, 2, 6, 5), (0, 0, 9, 2)],
    *[(0, 6, 9, 8), (0, 0, 3, 8), (3, 0, 6, 8), (1, 1, 2, 7), (2, 3, 8, 4), (0, 0, 2, 2), (4, 4, 6, 6)],
    *[(7, 0, 9, 4), (0, 0, 4, 4), (5, 0, 9, 4), (3, 2, 5, 6), (1, 0, 8, 1), (0, 3, 2, 8), (4, 0, 9, 3)],
]
# First box, earlier boxes of the question.
QUESTIONS = [
    ((0, 0, 3, 2), [(4, 2, 6, 5), (7, 6, 9, 8)]),
    ((4, 3, 6, 5), [(0, 0, 2, 2), (0, 0, 3, 2), (7, 4, 9, 8), (5, 2, 8, 4)]),
    ((2, 1, 5, 3), [(0, 4, 9, 5), (6, 0, 7, 8)]),
    ((0, 0, 3, 2), [(0, 0, 3, 2), (2, 1, 5, 4), (2, 1, 5, 4)]),
]


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def aspect_within_two(box, first):
    ratio = (box[2] - box[0]) * (first[3] - first[1]) / ((box[3] - box[1]) * (first[2] - first[0]))
    return 0.5 <= ratio <= 2


def every_box(bound):
    left, top, right, bottom = bound.bounds
    columns = itertools.combinations(range(left, right + 1), 2)
    rows = list(itertools.combinations(range(top, bottom + 1), 2))
    return [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in itertools.product(columns, rows)]


def members(bound, first, others=()):
    """S, box by box."""
    return [
        box
        for box in every_box(bound)
        if all(iou(box, barred) == 0 for barred in (first, *others))
        and abs(area(box) - area(first)) <= DELTA * area(first) + 1e-9
        and aspect_within_two(box, first)
    ]


def draw(bound, first, seed, others=()):
    return choose_second_box(first, None, others, bound, TAU, DELTA, seed)


# -- keeping -----------------------------------------------------------------------------------------


def test_a_second_box_apart_is_kept():
    assert choose_second_box((0, 0, 100, 100), (500, 500, 900, 600), (), UNIT, TAU, DELTA, 1) == SecondBox(
        (500, 500, 900, 600), "actor", ""
    )


def test_the_threshold_itself_is_kept():
    """|a| = |b| = 21 x 1, overlap 2: IoU = 2 / 40 = 0.05; overlap 3: 3 / 39."""
    first = (0, 0, 21, 1)
    assert choose_second_box(first, (19, 0, 40, 1), (), UNIT, TAU, DELTA, 1).origin == "actor"
    assert choose_second_box(first, (18, 0, 39, 1), (), UNIT, TAU, DELTA, 1).origin == "controller"


def test_an_earlier_box_of_the_question_counts_too():
    first, second, earlier = (0, 0, 100, 100), (500, 500, 600, 600), (510, 500, 610, 600)
    assert choose_second_box(first, second, (), UNIT, TAU, DELTA, 1).origin == "actor"
    choice = choose_second_box(first, second, [earlier], UNIT, TAU, DELTA, 1)
    assert choice.origin == "controller" and choice.relaxed == ""
    assert iou(choice.cells, first) == iou(choice.cells, earlier) == 0


def test_an_unparsable_second_box_is_filled_and_the_seed_decides():
    first = (100, 100, 300, 250)
    choices = [draw(UNIT, first, seed) for seed in (1, 1, 2**64 - 1)]
    assert choices[0] == choices[1] != choices[2]
    assert all(choice.origin == "controller" and choice.relaxed == "" for choice in choices)


def test_a_draw_is_pinned():
    """The same arguments give the same box on every machine and in every version of this project."""
    assert draw(UNIT, (100, 100, 300, 250), 7).cells == (117, 788, 374, 937)


# -- every draw is in S ------------------------------------------------------------------------------


@functools.cache
def areas(wide, high):
    return np.multiply.outer(np.arange(wide + 1, dtype=np.int32), np.arange(high + 1, dtype=np.int32))


def fits(bound, first):
    """Whether S has a member, size by size: it fits in the image and beside the first box on some side."""
    left, top, right, bottom = bound.bounds
    slack = DELTA * area(first) + 1e-9
    sizes = areas(right - left, bottom - top)
    width, height = np.nonzero((sizes >= area(first) - slack) & (sizes <= area(first) + slack))
    beside = width <= max(first[0] - left, right - first[2])
    above = height <= max(first[1] - top, bottom - first[3])
    ratio = width * (first[3] - first[1]) / (height * (first[2] - first[0]))
    return bool(((beside | above) & (ratio >= 0.5) & (ratio <= 2)).any())


def grid_of_first_boxes(bound, steps):
    """Sides from 0.05 to 1.0 of the image at 4 x 4 positions, then slim ones."""
    left, top, right, bottom = bound.bounds
    wide, high = right - left, bottom - top
    sides = [(step / 20, step / 20) for step in (*range(20, 1, -steps), 1)] + [
        (0.9, 0.1),
        (0.1, 0.9),
        (1.0, 0.3),
        (0.4, 1.0),
    ]
    for across, down in sides:
        w, h = max(round(across * wide), 1), max(round(down * high), 1)
        for at_x, at_y in itertools.product((0, 0.3, 0.5, 1), repeat=2):
            x, y = left + round(at_x * (wide - w)), top + round(at_y * (high - h))
            yield (x, y, x + w, y + h)


@pytest.mark.parametrize(
    ("bound", "steps"),
    [
        (UNIT, 2),
        (make_frame("unit_padded_square", (640, 427)), 3),
        (make_frame("unit_padded_square", (90, 900)), 3),
        (make_frame("paligemma_loc", (640, 480)), 6),
        (make_frame("resized_pixels", (640, 480), (92, 68)), 1),
        (SMALL, 1),
    ],
)
def test_every_draw_is_apart_and_inside_and_like_the_first_box(bound, steps):
    left, top, right, bottom = bound.bounds
    relaxed = Counter()
    for seed, first in enumerate(grid_of_first_boxes(bound, steps)):
        choice = draw(bound, first, seed)
        x1, y1, x2, y2 = box = choice.cells
        assert all(type(cell) is int for cell in box)
        assert left <= x1 < x2 <= right and top <= y1 < y2 <= bottom
        assert bound.parse(bound.text(box)) == (box, "ok")
        assert (choice.relaxed == "") == fits(bound, first), first
        assert (iou(box, first) == 0) == (first != bound.bounds)
        assert ("overlap" in choice.relaxed) == (first == bound.bounds)
        assert iou(box, first) <= max(TAU, 1 / area(first))
        if "area" not in choice.relaxed:
            assert abs(area(box) - area(first)) <= DELTA * area(first) + 1e-9
        if choice.relaxed == "":
            assert aspect_within_two(box, first)
        relaxed[choice.relaxed] += 1
    assert relaxed[""] > 0 and relaxed["aspect+area"] > 0
    assert relaxed["aspect+area+overlap"] > 0


# -- uniformity --------------------------------------------------------------------------------------


class Rank:
    """Stands in for the random generator: gives the index that it was made with."""

    def __init__(self, rank):
        self.rank, self.total = rank, None

    def integers(self, total):
        self.total = total
        return self.rank


def assert_ranks_list_s(monkeypatch, bound, first, others=()):
    """An index drawn uniformly is a member drawn uniformly: the ranks 0..|S|-1 give S, each member once."""
    expected = members(bound, first, others)
    drawn = []
    for rank in range(len(expected)):
        source = Rank(rank)
        monkeypatch.setattr(diversity, "generator", lambda seed, source=source: source)
        choice = draw(bound, first, 0, others)
        assert source.total == len(expected) and choice.relaxed == ""
        drawn.append(choice.cells)
    assert sorted(drawn) == sorted(expected)
    return len(expected)


@pytest.mark.parametrize(("first", "others"), [*((first, []) for first in FIRST_BOXES), *QUESTIONS])
def test_every_index_is_one_member_of_s(monkeypatch, first, others):
    assert assert_ranks_list_s(monkeypatch, SMALL, first, others) > 0


@pytest.mark.slow
def test_every_index_is_one_member_of_s_for_every_first_box(monkeypatch):
    """All 588 boxes of a 7 x 6 lattice, alone and with two earlier boxes."""
    bound = make_frame("resized_pixels", (700, 600), (7, 6))
    boxes = every_box(bound)
    random = np.random.default_rng(3)
    for first in boxes:
        assert_ranks_list_s(monkeypatch, bound, first)
        assert_ranks_list_s(monkeypatch, bound, first, [boxes[i] for i in random.integers(len(boxes), size=2)])


def test_draws_are_uniform_jointly_over_size_and_position():
    """Chi-square over all members of S, for each first box; the p-values themselves must look uniform."""
    p_values = []
    for number, first in enumerate(FIRST_BOXES):
        expected = members(SMALL, first)
        draws = Counter(draw(SMALL, first, 1000 * number + i).cells for i in range(5 * len(expected)))
        assert set(draws) <= set(expected)
        p_values.append(stats.chisquare([draws[box] for box in expected]).pvalue)
    assert len(p_values) >= 20 and min(p_values) > 1e-4
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def placements(bound, first):
    """counts[w, x]: how many boxes of width w with left edge x are in S, summed over heights and tops."""
    left, top, right, bottom = bound.bounds
    wide, high = right - left, bottom - top
    height = np.arange(1, high + 1)
    x = np.arange(left, right)
    counts = np.zeros((wide + 1, wide), np.int64)
    for w in range(1, wide + 1):
        ratio = w * (first[3] - first[1]) / (height * (first[2] - first[0]))
        near = abs(w * height - area(first)) <= DELTA * area(first) + 1e-9
        h = height[near & (ratio >= 0.5) & (ratio <= 2)]
        whole = (high - h + 1).sum()
        beside = np.maximum(first[1] - top - h + 1, 0).sum() + np.maximum(bottom - first[3] - h + 1, 0).sum()
        meets = (x < first[2]) & (x + w > first[0])
        counts[w] = np.where(x + w <= right, np.where(meets, beside, whole), 0)
    return counts


@pytest.mark.parametrize(
    "first", [(100, 100, 300, 250), (350, 100, 650, 900), (480, 480, 520, 520), (0, 800, 1000, 1000)]
)
def test_draws_on_the_full_lattice_are_uniform_in_width_and_place(first):
    """1001 x 1001: a chi-square over 6 x 6 bins of (width, left edge), each bin's expectation counted."""
    counts = placements(UNIT, first)
    by_width = counts.sum(1).cumsum() / counts.sum()
    width_bin = np.minimum((by_width * 6).astype(int), 5)
    place_bin = np.arange(counts.shape[1]) * 6 // counts.shape[1]
    expected = np.zeros((6, 6))
    np.add.at(expected, (width_bin[:, None], place_bin[None, :]), counts)
    observed = np.zeros((6, 6))
    n = 2000
    for seed in range(n):
        x1, _, x2, _ = draw(UNIT, first, seed).cells
        observed[width_bin[x2 - x1], place_bin[x1]] += 1
    expected *= n / expected.sum()
    assert observed[expected == 0].sum() == 0
    rare = (expected > 0) & (expected < 5)  # pooled
    cells = [
        *zip(observed[expected >= 5], expected[expected >= 5], strict=True),
        (observed[rare].sum(), expected[rare].sum()),
    ]
    seen, due = np.array([cell for cell in cells if cell[1] > 0]).T
    assert stats.chisquare(seen, due).pvalue > 1e-3


def test_as_many_draws_above_as_below_a_box_in_the_middle():
    tops = [draw(UNIT, (0, 400, 1000, 600), seed).cells[1] for seed in range(2000)]
    assert stats.binomtest(sum(top < 400 for top in tops), len(tops)).pvalue > 1e-3


# -- scope "question" --------------------------------------------------------------------------------


def test_question_scope_is_clear_of_all_earlier_boxes():
    random = np.random.default_rng(5)
    for seed in range(150):
        corners = [sorted(random.choice(1001, 2, replace=False).tolist()) for _ in range(2 * random.integers(2, 12))]
        first, *others = [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in zip(corners[::2], corners[1::2], strict=True)]
        others = [(x1, y1, x1 + (x2 - x1) // 3 + 1, y1 + (y2 - y1) // 3 + 1) for x1, y1, x2, y2 in others]
        choice = draw(UNIT, first, seed, others)
        if "overlap" not in choice.relaxed:
            assert all(iou(choice.cells, barred) == 0 for barred in (first, *others))
            assert "area" in choice.relaxed or abs(area(choice.cells) - area(first)) <= DELTA * area(first) + 1e-9
        assert UNIT.parse(UNIT.text(choice.cells)) == (choice.cells, "ok")


def test_question_scope_falls_back_to_the_attempts():
    """The earlier boxes cover what b1 leaves: nothing is clear of all, so the draw keeps clear of b1 alone."""
    first, others = (0, 0, 400, 1000), [(400, 0, 1000, 1000)]
    choice = draw(UNIT, first, 3, others)
    assert choice.relaxed == "overlap" and iou(choice.cells, first) == 0
    assert abs(area(choice.cells) - area(first)) <= DELTA * area(first)
    assert draw(UNIT, (0, 0, 700, 1000), 3, [(700, 0, 1000, 1000)]).relaxed == "aspect+area+overlap"


# -- relaxation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "relaxed"),
    [
        ((0, 0, 500, 1000), ""),
        ((250, 250, 750, 750), "aspect"),  # beside it 250 x 1000: from 250 x 700 the area is right, the shape too slim
        ((100, 100, 900, 900), "aspect+area"),
        ((0, 0, 1000, 999), "aspect+area"),
        ((0, 0, 1000, 1000), "aspect+area+overlap"),
    ],
)
def test_what_was_relaxed_is_recorded(first, relaxed):
    assert draw(UNIT, first, 11).relaxed == relaxed


def test_delta_grows_no_further_than_it_must():
    """Around 800 x 800 in the middle a strip of 100 x 1000 is left: delta grows to 0.9."""
    for seed in range(20):
        choice = draw(UNIT, (100, 100, 900, 900), seed)
        assert 64_000 <= area(choice.cells) <= 100_000


def test_beside_the_whole_image_the_threshold_is_kept():
    """tau 0.05 of a million cells: the box has 35,000 to 50,000 of them; without room for tau it is one cell."""
    whole = (0, 0, 1000, 1000)
    for seed in range(20):
        assert 35_000 <= area(draw(UNIT, whole, seed).cells) <= 50_000
    assert area(choose_second_box(whole, None, (), UNIT, 0.0, DELTA, 1).cells) == 1


@pytest.mark.parametrize("tau", [0.0, 0.05, 0.192, 0.5, 1.0])
@pytest.mark.parametrize("delta", [0.0, 0.3, 1.0, 5.0])
def test_an_attempt_is_never_lost(tau, delta):
    """Every first box of a 5 x 4 lattice, and of lattices of one cell, with any tolerance."""
    for size in ((5, 4), (1, 1), (1, 7), (23, 1)):
        bound = make_frame("resized_pixels", (640, 480), size)
        for first in every_box(bound):
            choice = choose_second_box(first, None, (), bound, tau, delta, 1)
            whole = area(first) == size[0] * size[1]
            assert bound.parse(bound.text(choice.cells)) == (choice.cells, "ok")
            assert (choice.relaxed == "aspect+area+overlap") == whole
            assert whole or iou(choice.cells, first) == 0
