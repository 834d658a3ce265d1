"""Boxes: identity of text, cells and unit boxes; strict parsing; IoU; the crop rule."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from visrl_data.core.box_formats import integers_pattern
from visrl_data.core.boxes import (
    SPACES,
    Axis,
    Box,
    ImageTooThin,
    bounding_box,
    box_tokens,
    iou,
    ious,
    make_frame,
    pixel_box,
)
from visrl_data.core.crops import CropRule, crop_pixels

# (space, image size, seen size): every space; padded squares of even, odd, extreme and no padding.
LATTICES = [
    ("unit", (640, 427), None),
    ("per_mille", (33, 2000), None),
    ("paligemma_loc", (500, 375), None),
    ("resized_pixels", (1920, 1081), (644, 364)),
    ("resized_pixels", (20, 17), (2576, 1932)),
    ("unit_padded_square", (640, 427), None),
    ("unit_padded_square", (427, 640), None),
    ("unit_padded_square", (3000, 400), None),
    ("unit_padded_square", (11, 100), None),
    ("unit_padded_square", (1001, 1000), None),
    ("unit_padded_square", (512, 512), None),
    ("unit_padded_square", (1, 400), None),
]
# The same examples in every run, however slow the machine.
checked = settings(max_examples=200, derandomize=True, deadline=None)
side = st.integers(1, 6000)
seen_side = st.integers(1, 3000)


@st.composite
def frames(draw):
    size = (draw(side), draw(side))
    space = draw(st.sampled_from(SPACES))
    try:
        return make_frame(space, size, (draw(seen_side), draw(seen_side))), size
    except ImageTooThin:
        assert space == "unit_padded_square" and max(size) > 400 * min(size)
        return make_frame("unit", size), size


@st.composite
def lattice_boxes(draw):
    """A frame, its image's size, and a lattice box on the image."""
    bound, size = draw(frames())
    (x1, x2), (y1, y2) = (
        sorted(draw(st.lists(st.integers(axis.low, axis.high), min_size=2, max_size=2, unique=True)))
        for axis in (bound.x, bound.y)
    )
    return bound, size, (x1, y1, x2, y2)


@st.composite
def unit_boxes(draw):
    number = st.floats(0, 1) | st.integers(0, 100).map(lambda n: n / 100)
    (x1, x2), (y1, y2) = (sorted(draw(st.lists(number, min_size=2, max_size=2, unique=True))) for _ in "xy")
    return Box(x1, y1, x2, y2)


def assert_identity(bound, cells) -> None:
    text = bound.text(cells)
    assert bound.parse(text) == (cells, "ok")
    assert bound.to_cells(bound.to_unit(cells)) == cells
    assert bound.text(bound.to_cells(bound.to_unit(bound.parse(text)[0]))) == text


# -- identity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "size", "seen"), LATTICES)
def test_identity_for_every_coordinate_of_every_axis(space, size, seen):
    """Axes convert independently, so all coordinates of each axis, as both ends, cover the lattice."""
    bound = make_frame(space, size, seen)
    left, top, right, bottom = bound.bounds
    for cell in range(left, right):
        assert_identity(bound, (cell, top, right, bottom))
        assert_identity(bound, (left, top, cell + 1, bottom))
        assert_identity(bound, (cell, top, cell + 1, top + 1))
    for cell in range(top, bottom):
        assert_identity(bound, (left, cell, right, bottom))
        assert_identity(bound, (left, top, right, cell + 1))


@pytest.mark.parametrize(("space", "size", "seen"), LATTICES)
def test_identity_for_every_pair_of_an_axis(space, size, seen):
    bound = make_frame(space, size, seen)
    for axis in {bound.x, bound.y}:
        units = {cell: axis.unit(cell) for cell in range(axis.low, axis.high + 1)}
        assert units[axis.low] >= 0 and units[axis.high] <= 1
        pairs = itertools.combinations(units, 2) if axis.high <= 400 else ((a, a + 1) for a in list(units)[:-1])
        assert all(axis.cells(units[a], units[b]) == (a, b) for a, b in pairs)


def test_identity_for_every_box_of_a_small_lattice():
    bound = make_frame("resized_pixels", (1000, 700), (20, 14))
    xs, ys = itertools.combinations(range(21), 2), list(itertools.combinations(range(15), 2))
    for (x1, x2), (y1, y2) in itertools.product(xs, ys):
        assert_identity(bound, (x1, y1, x2, y2))


@pytest.mark.slow
@pytest.mark.parametrize(("space", "size", "seen"), [*LATTICES[:4], LATTICES[5]])
def test_identity_for_every_pair_as_text(space, size, seen):
    bound = make_frame(space, size, seen)
    (left, top, right, bottom), axis = bound.bounds, bound.y
    for a, b in itertools.combinations(range(axis.low, axis.high + 1), 2):
        assert_identity(bound, (left, a, right, b))
    if bound.x != axis:
        for a, b in itertools.combinations(range(left, right + 1), 2):
            assert_identity(bound, (a, top, b, bottom))


@given(lattice_boxes())
@checked
def test_identity_for_any_image(case):
    bound, _, cells = case
    assert_identity(bound, cells)


def test_canonical_texts():
    cells = (12, 345, 678, 1000)
    assert make_frame("unit", (9, 9)).text(cells) == "[0.012, 0.345, 0.678, 1.000]"
    assert make_frame("unit_padded_square", (9, 9)).text(cells) == "[0.012, 0.345, 0.678, 1.000]"
    assert make_frame("per_mille", (9, 9)).text(cells) == "[12, 345, 678, 1000]"
    assert make_frame("resized_pixels", (9, 9), (2000, 2000)).text(cells) == "[12, 345, 678, 1000]"
    assert make_frame("paligemma_loc", (9, 9)).text(cells) == "<loc0345><loc0012><loc1000><loc0678>"
    assert make_frame("per_mille_json", (9, 9)).text(cells) == '{"bbox_2d": [12, 345, 678, 1000]}'
    assert make_frame("resized_pixels_json", (9, 9), (2000, 2000)).text(cells) == '{"bbox_2d": [12, 345, 678, 1000]}'
    assert make_frame("per_mille_yx_json", (9, 9)).text(cells) == '{"box_2d": [345, 12, 1000, 678]}'
    marked = "<|begin_of_box|>[[12,345,678,1000]]<|end_of_box|>"
    assert make_frame("per_mille_marked", (9, 9)).text(cells) == marked
    assert make_frame("per_mille_points", (9, 9)).text(cells) == "<|box_start|>(12,345),(678,1000)<|box_end|>"
    assert make_frame("per_mille_nested", (9, 9)).text(cells) == "<box>[[12, 345, 678, 1000]]</box>"
    assert make_frame("per_mille_tagged", (9, 9)).text(cells) == "<box>12 345 678 1000</box>"


@pytest.mark.parametrize("space", SPACES)
@given(data=st.data())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_each_form_is_read_back_with_and_without_its_marks(space, data):
    """Engines drop special tokens from replies; words around a box change nothing."""
    size = (data.draw(side), data.draw(side))
    try:
        bound = make_frame(space, size, (data.draw(seen_side), data.draw(seen_side)))
    except ImageTooThin:
        return
    (x1, x2), (y1, y2) = (
        sorted(data.draw(st.lists(st.integers(axis.low, axis.high), min_size=2, max_size=2, unique=True)))
        for axis in (bound.x, bound.y)
    )
    cells = (x1, y1, x2, y2)
    assert_identity(bound, cells)
    text = bound.text(cells)
    bare = text if space == "paligemma_loc" else re.sub("<[^<>]*>", "", text)
    assert (
        bound.parse(bare)
        == bound.parse(f"A cat{bare}.")
        == bound.parse(f"<ref>A cat</ref>{text} is there")
        == (cells, "ok")
    )
    assert bound.parse(f"{text} and {text}") == (None, "several_boxes")
    assert box_tokens(text) == tuple(re.findall("<[^<>]*>", text))
    assert box_tokens(f"it is {text}") == ()
    assert box_tokens("[1, nan, 3, 4]") == box_tokens("[1, 2, 1e999, 4]") == box_tokens("[1, 2.5, 3, 4]") == ()


@pytest.mark.parametrize(
    ("space", "reply", "expected"),
    [
        ("per_mille_points", "cat(1,2),(3,4)dog(5,6),(7,8)", "several_boxes"),
        ("per_mille_points", "(1,2),(3,4),(5,6),(7,8)", "no_box"),  # a polygon
        ("per_mille_points", "(1,2)", "no_box"),
        ("per_mille_points", "[1, 2, 3, 4]", "no_box"),
        ("per_mille_points", "( 1 , 2 ) , ( 3.4 , 4 )", (1, 2, 3, 4)),
        ("per_mille_points", "(1,2),(3,1001)", "out_of_range"),
        ("per_mille_points", "(-1,2),(3,4)", "out_of_range"),
        ("per_mille_points", "(5,2),(3,4)", "reversed"),
        ("per_mille_nested", "<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", "several_boxes"),
        ("per_mille_nested", "<box>[[1, 2, 3]]</box>", "no_box"),
        ("per_mille_yx_json", '```json\n[\n  {"box_2d": [2, 1, 4, 3], "label": "cup"}\n]\n```', (1, 2, 3, 4)),
        ("per_mille_yx_json", '[{"box_2d": [2, 1, 4, 3]}, {"box_2d": [6, 5, 8, 7]}]', "several_boxes"),
        ("per_mille_yx_json", "[4, 1, 2, 3]", "reversed"),
        ("per_mille_yx_json", "[2, 1, 1001, 3]", "out_of_range"),
        ("per_mille_marked", "It is at <|begin_of_box|>[1, 2, 3, 4]<|end_of_box|>.", (1, 2, 3, 4)),
        ("per_mille_marked", "<|begin_of_box|>[[1,2,3,4],[5,6,7,8]]<|end_of_box|>", "several_boxes"),
        ("per_mille_marked", "<|begin_of_box|>cup<|end_of_box|>", "no_box"),
        ("per_mille_tagged", "<box>1 2 3 4</box><box>5 6 7 8</box>", "several_boxes"),
        ("per_mille_tagged", "1 2 3 4 5", "no_box"),
        ("per_mille_tagged", "<box>1 2 3</box> of 1 2 3 4", "no_box"),
        ("per_mille_tagged", "1, 2, 3, 4", "no_box"),
        ("per_mille_json", '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "cat"}\n]\n```', (1, 2, 3, 4)),
        ("per_mille_json", '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [1, 2, 3, 5]}]', "several_boxes"),
        ("per_mille_json", '{"bbox_2d": [1, 2, 3, 4]}, {"point_2d": [7, 7]}', (1, 2, 3, 4)),
        ("resized_pixels_json", '{"bbox_2d": [0, 0, 28, 57]}', "out_of_range"),
        ("paligemma_loc", "<loc0002><loc0001><loc0004><loc0003> cat", (1, 2, 3, 4)),
    ],
)
def test_replies_in_the_forms_of_families(space, reply, expected):
    found = make_frame(space, (640, 480), (28, 56)).parse(reply)
    assert found == ((expected, "ok") if isinstance(expected, tuple) else (None, expected))


@pytest.mark.parametrize("top", [0, 7, 9, 10, 99, 100, 128, 643, 1000, 1023, 2576])
def test_the_grammars_numbers_are_those_up_to_the_top(top):
    numbers = re.compile(integers_pattern(top))
    assert all(bool(numbers.fullmatch(str(n))) == (n <= top) for n in range(3000))
    assert not numbers.fullmatch("") and not numbers.fullmatch("00") and not numbers.fullmatch("01")


# -- conversion --------------------------------------------------------------------------------------


@given(frames(), unit_boxes())
@checked
def test_quantising_moves_a_coordinate_by_at_most_half_a_cell(case, box):
    """By up to one where the lattice's last cell on the image is an inner one, by one more where a box collapses."""
    bound, _ = case
    cells = bound.to_cells(box)
    back = bound.to_unit(cells)
    for axis, first, last, *ends in (
        (bound.x, cells[0], cells[2], (box.x1, back.x1), (box.x2, back.x2)),
        (bound.y, cells[1], cells[3], (box.y1, back.y1), (box.y2, back.y2)),
    ):
        cell = axis.scale / axis.extent
        most = 2 if last - first == 1 else 1 if first == axis.low or last == axis.high else 0.5
        assert all(abs(a - b) <= most * cell * (1 + 1e-9) for a, b in ends)


@given(st.tuples(side, side), st.data())
@checked
def test_padded_square_is_visual_cots_rule(size, data):
    """Visual-CoT: add abs(W - H) // 2 to the short axis' pixels, divide all by max(W, H)."""
    width, height = size
    (x1, x2), (y1, y2) = (
        sorted(data.draw(st.lists(st.integers(0, s), min_size=2, max_size=2, unique=True))) for s in size
    )
    pad = abs(width - height) // 2
    pads = (0, pad, 0, pad) if width > height else (pad, 0, pad, 0)
    published = [(pixel + add) / max(size) for pixel, add in zip((x1, y1, x2, y2), pads, strict=True)]
    try:
        bound = make_frame("unit_padded_square", size)
    except ImageTooThin:
        return
    box = pixel_box((x1, y1, x2, y2), size)
    for axis, unit, text in zip((bound.x, bound.y) * 2, box.xyxy, published, strict=True):
        assert math.isclose((unit * axis.extent + axis.shift) / axis.scale, 1000 * text, abs_tol=1e-8)
    cells, state = bound.parse("[" + ", ".join(f"{value:.3f}" for value in published) + "]")
    if state == "degenerate":  # a label thinner than a cell
        assert min((x2 - x1), (y2 - y1)) * 1000 <= 2 * max(size)
    else:
        assert all(
            abs(a - b) * s <= max(size) / 1000 + 1e-6
            for a, b, s in zip(bound.to_unit(cells).xyxy, box.xyxy, size * 2, strict=True)
        )


def test_padded_square_by_hand():
    """640 x 427 is padded by 106 rows above: y text = (y + 106) / 640, so the image spans 0.16563..0.83281."""
    bound = make_frame("unit_padded_square", (640, 427))
    assert bound.bounds == (0, 166, 1000, 832)
    assert bound.to_unit((250, 200, 500, 500)).xyxy == (0.25, (128 - 106) / 427, 0.5, (320 - 106) / 427)
    assert bound.parse("[0.250, 0.000, 0.500, 1.000]") == ((250, 166, 500, 832), "ok")
    assert bound.parse("[0.250, 0.000, 0.500, 0.166]") == (None, "degenerate")


def test_each_space_by_hand():
    half = Box(0.25, 0.5, 0.75, 1.0)
    assert make_frame("unit", (7, 5)).to_unit((250, 500, 750, 1000)) == half
    assert make_frame("per_mille", (7, 5)).to_unit((250, 500, 750, 1000)) == half
    assert make_frame("resized_pixels", (7, 5), (56, 28)).to_unit((14, 14, 42, 28)) == half
    assert make_frame("paligemma_loc", (7, 5)).to_unit((0, 0, 1023, 341)) == Box(0, 0, 1, 1 / 3)


def test_frames_that_cannot_be():
    with pytest.raises(ImageTooThin, match="4000x2"):
        make_frame("unit_padded_square", (4000, 2))
    with pytest.raises(ValueError, match="resized_size"):
        make_frame("resized_pixels", (10, 10))
    with pytest.raises(ValueError, match="unknown box space 'pixels'"):
        make_frame("pixels", (10, 10))


def test_a_box_thinner_than_a_cell_keeps_one():
    bound = make_frame("unit", (10, 10))
    assert bound.to_cells(Box(0.5002, 0.0, 0.5004, 1.0)) == (500, 0, 501, 1000)
    assert bound.to_cells(Box(0.9998, 0.0, 1.0, 0.0001)) == (999, 0, 1000, 1)
    assert Axis(1000, 1, 0, 1000).cells(0.4999, 0.5001) == (500, 501)


# -- parsing -----------------------------------------------------------------------------------------

UNIT, MILLE, PIXELS, LOC = (
    make_frame("unit", (640, 480)),
    make_frame("per_mille", (640, 480)),
    make_frame("resized_pixels", (640, 480), (56, 84)),
    make_frame("paligemma_loc", (640, 480)),
)


@pytest.mark.parametrize(
    ("bound", "text", "cells"),
    [
        (UNIT, "[0.123, 0.456, 0.789, 0.912]", (123, 456, 789, 912)),
        (UNIT, "The region is [0,0,1,1].", (0, 0, 1000, 1000)),
        (UNIT, '```json\n{"bbox_2d": [\n 0.1,\n .25,\n 0.5,\n 1.\n], "label": "cup"}\n```', (100, 250, 500, 1000)),
        (UNIT, "[[0.1, 0.2, 0.3, 0.4]]", (100, 200, 300, 400)),
        (UNIT, "[1] see [0.1, 0.2, 0.3, 0.4] and [0.5, 0.6]", (100, 200, 300, 400)),
        (UNIT, "[0.12345, 0.2, 0.98765, 3e-1]", (123, 200, 988, 300)),
        (UNIT, "[-0.0, 0.2, 0.3, +0.4]", (0, 200, 300, 400)),
        (MILLE, "[0, 250, 1000, 999]", (0, 250, 1000, 999)),
        (MILLE, "[10.4, 250.6, 1000.0, 999]", (10, 251, 1000, 999)),
        (PIXELS, "[0, 0, 56, 84]", (0, 0, 56, 84)),
        (LOC, "<loc0100><loc0000><loc1023><loc0500> cat", (0, 100, 500, 1023)),
        (LOC, "<loc0100> <loc0000> <loc1023> <loc0500>", (0, 100, 500, 1023)),
    ],
)
def test_parse_reads(bound, text, cells):
    assert bound.parse(text) == (cells, "ok")


@pytest.mark.parametrize(
    ("bound", "text", "reason"),
    [
        (UNIT, "", "no_box"),
        (UNIT, "the cup", "no_box"),
        (UNIT, "0.1, 0.2, 0.3, 0.4", "no_box"),
        (UNIT, "(0.1, 0.2, 0.3, 0.4)", "no_box"),
        (UNIT, "[0.1 0.2 0.3 0.4]", "no_box"),
        (UNIT, "[0.1, 0.2, 0.3]", "no_box"),
        (UNIT, "[0.1, 0.2, 0.3, 0.4, 0.5]", "no_box"),
        (UNIT, "[0.1, 0.2, 0.3, 0.4", "no_box"),
        (UNIT, "[[0.1, 0.2], [0.3, 0.4]]", "no_box"),
        (UNIT, '["0.1", "0.2", "0.3", "0.4"]', "no_box"),
        (UNIT, "[0.1, 0.2, 0.3, __import__('os')]", "no_box"),
        (UNIT, "[0.1, 0.2, 0.3, 0.4.5]", "no_box"),
        (UNIT, "[0.1, 0.2, 0.3, 1/2]", "no_box"),
        (UNIT, "[0.1, 0.2, 0.3, ٠.٤]", "no_box"),
        (UNIT, "<loc0100><loc0000><loc1023><loc0500>", "no_box"),
        (UNIT, "[0.1, 0.2, 0.3, 0.4] or [0.1, 0.2, 0.3, 0.4]", "several_boxes"),
        (UNIT, "[[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]", "several_boxes"),
        (UNIT, "[0.1, nan, 0.3, 0.4]", "not_finite"),
        (UNIT, "[0.1, 0.2, Infinity, 0.4]", "not_finite"),
        (UNIT, "[0.1, 0.2, 1e999, 0.4]", "not_finite"),
        (UNIT, "[0.1, 0.2, " + "9" * 5000 + ", 0.4]", "not_finite"),
        (UNIT, "[10, 20, 300, 400]", "out_of_range"),
        (UNIT, "[-0.1, 0.2, 0.3, 0.4]", "out_of_range"),
        (UNIT, "[0.1, 0.2, 0.3, 1.0000001]", "out_of_range"),
        (UNIT, "[0.1, 0.2, 0.3, 1e308]", "out_of_range"),
        (UNIT, "[0.3, 0.2, 0.1, 0.4]", "reversed"),
        (UNIT, "[0.1, 0.4, 0.3, 0.2]", "reversed"),
        (UNIT, "[0.1, 0.2, 0.1, 0.4]", "degenerate"),
        (UNIT, "[0.1, 0.4, 0.3, 0.4]", "degenerate"),
        (UNIT, "[0.1001, 0.2, 0.1004, 0.4]", "degenerate"),
        (MILLE, "[0, 0, 1001, 1000]", "out_of_range"),
        (MILLE, "[0.1, 0.2, 0.3, 0.4]", "degenerate"),
        (PIXELS, "[0, 0, 57, 84]", "out_of_range"),
        (LOC, "[0.1, 0.2, 0.3, 0.4]", "no_box"),
        (LOC, "<loc0100><loc0000><loc1023>", "no_box"),
        (LOC, "<loc0100><loc0000><loc1023><loc0500><loc0500>", "no_box"),
        (LOC, "<loc100><loc000><loc102><loc050>", "no_box"),
        (LOC, "<loc0100><loc0000><loc0200><loc0500> a ; <loc0100><loc0000><loc0200><loc0500> b", "several_boxes"),
        (LOC, "<loc0100><loc0000><loc1024><loc0500>", "out_of_range"),
        (LOC, "<loc0300><loc0000><loc0200><loc0500>", "reversed"),
        (LOC, "<loc0300><loc0000><loc0300><loc0500>", "degenerate"),
    ],
)
def test_parse_refuses_and_says_why(bound, text, reason):
    assert bound.parse(text) == (None, reason)


REASONS = {"no_box", "several_boxes", "not_finite", "out_of_range", "reversed", "degenerate"}


def assert_parsed_or_refused(bound, text) -> None:
    cells, state = bound.parse(text)
    if cells is None:
        assert state in REASONS
    else:
        assert state == "ok"
        assert_identity(bound, cells)


box_like = st.text(alphabet='[]<>loc0123456789.,-+eE infan\n"{}:', max_size=60)


@given(frames(), st.text() | box_like)
@checked
def test_any_text_is_parsed_or_refused(case, text):
    assert_parsed_or_refused(case[0], text)


@given(lattice_boxes(), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3), box_like | st.text(max_size=3))))
@checked
def test_mutated_boxes_are_parsed_or_refused(case, edits):
    bound, _, cells = case
    text = bound.text(cells)
    for at, cut, put in edits:
        text = text[:at] + put + text[at + cut :]
    assert_parsed_or_refused(bound, text)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[" + "1" * 200_000 + "x]", "[" + "1," * 200_000, "<loc0001>" * 30_000]
)
def test_long_replies_cost_no_more_than_their_length(text):
    """Each takes milliseconds; a pattern that backtracks would not come back within the suite's timeout."""
    assert UNIT.parse(text) == (None, "no_box")
    assert LOC.parse(text) == (None, "no_box")


# -- boxes and IoU -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "xyxy", [(0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1), (0, 0, math.nan, 1)]
)
def test_a_box_has_an_area_inside_the_image(xyxy):
    with pytest.raises(ValueError, match="not a unit xyxy box"):
        Box(*xyxy)


def test_box_properties():
    box = Box(0, 0.25, 0.5, 1)
    assert box.xyxy == (0.0, 0.25, 0.5, 1.0) and all(type(value) is float for value in box.xyxy)


def test_pixel_box_is_clipped_to_the_image():
    assert pixel_box((10, 20, 30, 40), (100, 80)) == Box(0.1, 0.25, 0.3, 0.5)
    assert pixel_box((-5, 70, 50, 90), (100, 80)) == Box(0, 0.875, 0.5, 1)
    assert pixel_box((100, 0, 120, 80), (100, 80)) is None
    assert pixel_box((30, 20, 10, 40), (100, 80)) is None


@given(unit_boxes(), unit_boxes())
@checked
def test_iou_agrees_with_shapely(a, b):
    left, right = shapely.box(*a.xyxy), shapely.box(*b.xyxy)
    either = left.union(right).area
    if min(box.x2 - box.x1 for box in (a, b)) > 1e-6 and min(box.y2 - box.y1 for box in (a, b)) > 1e-6:
        assert math.isclose(iou(a.xyxy, b.xyxy), left.intersection(right).area / either, abs_tol=1e-9)
    assert 0 <= iou(a.xyxy, b.xyxy) == iou(b.xyxy, a.xyxy) <= 1
    assert iou(a.xyxy, a.xyxy) == 1 or (a.x2 - a.x1) * (a.y2 - a.y1) == 0  # an area may underflow


@given(st.lists(st.tuples(unit_boxes(), unit_boxes()), min_size=1, max_size=20))
@checked
def test_ious_agree_with_the_scalar_one(pairs):
    a, b = (np.array([pair[i].xyxy for pair in pairs]) for i in (0, 1))
    assert ious(a, b).tolist() == pytest.approx([iou(one.xyxy, other.xyxy) for one, other in pairs])


def test_bounding_box():
    assert bounding_box([Box(0.2, 0, 0.5, 0.4), Box(0.1, 0.1, 0.3, 0.9)]) == Box(0.1, 0, 0.5, 0.9)


@given(lattice_boxes(), st.data())
@checked
def test_iou_of_cells_is_that_of_the_boxes(case, data):
    bound, _, cells = case
    (x1, x2), (y1, y2) = (
        sorted(data.draw(st.lists(st.integers(axis.low, axis.high), min_size=2, max_size=2, unique=True)))
        for axis in (bound.x, bound.y)
    )
    other = (x1, y1, x2, y2)
    units = bound.to_unit(cells).xyxy, bound.to_unit(other).xyxy
    assert math.isclose(iou(cells, other), iou(*units), abs_tol=1e-9)


# -- crop rule ---------------------------------------------------------------------------------------

rules = st.builds(CropRule, st.floats(0, 1), st.floats(1, 20)) | st.just(CropRule())


@given(unit_boxes(), st.tuples(side, side), rules)
@checked
def test_crop_properties(box, size, rule):
    left, top, right, bottom = crop_pixels(box, size, rule)
    width, height = right - left, bottom - top
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert left <= box.x1 * size[0] + 1e-6 and right >= box.x2 * size[0] - 1e-6
    assert top <= box.y1 * size[1] + 1e-6 and bottom >= box.y2 * size[1] - 1e-6
    for length, whole, other in ((width, size[0], height), (height, size[1], width)):
        assert length == whole or length >= rule.min_side * max(size) - 1e-6
        assert length == whole or other <= rule.max_aspect * length + 1e-3


@given(unit_boxes(), st.tuples(side, side))
@checked
def test_a_rule_that_asks_nothing_gives_the_box_outward(box, size):
    left, top, right, bottom = crop_pixels(box, size, CropRule(0, 1e9))
    assert right - left <= (box.x2 - box.x1) * size[0] + 2 and bottom - top <= (box.y2 - box.y1) * size[1] + 2


@pytest.mark.parametrize(
    ("xyxy", "size", "expected"),
    [
        ((0.2, 0.2, 0.6, 0.6), (100, 100), (20, 20, 60, 60)),  # nothing to do
        ((0.29, 0.2, 0.57, 0.6), (100, 100), (29, 20, 57, 60)),  # 0.29 * 100 is 28.999...: no row lost or won
        ((0.201, 0.2, 0.601, 0.6), (100, 100), (20, 20, 61, 60)),  # outward
        ((0.5, 0.5, 0.501, 0.501), (1000, 500), (461, 211, 541, 291)),  # 80 pixels, 0.08 of the longer side
        ((0.5, 0.5, 0.501, 0.501), (2000, 1000), (921, 421, 1081, 581)),  # twice the picture, the same crop
        ((0.0, 0.0, 0.001, 0.001), (1000, 500), (0, 0, 80, 80)),  # shifted into the image
        ((0.1, 0.5, 0.5, 0.6), (100, 100), (10, 45, 50, 65)),  # 40 x 10 becomes 40 x 20
        ((0.1, 0.9, 0.5, 1.0), (100, 100), (10, 80, 50, 100)),  # and shifted
        ((0.1, 0.2, 0.9, 0.8), (1000, 30), (100, 0, 900, 30)),  # the image itself is too thin
        ((0.4, 0.4, 0.6, 0.6), (1, 1), (0, 0, 1, 1)),
    ],
)
def test_crops_by_hand(xyxy, size, expected):
    assert crop_pixels(Box(*xyxy), size, CropRule()) == expected


def test_crop_rule_is_named_recorded_and_checked():
    rule = CropRule()
    assert rule.name == "min0.08-aspect2" and rule.as_dict() == {"min_side": 0.08, "max_aspect": 2.0}
    assert CropRule(**rule.as_dict()) == rule != CropRule(0.08, 3.0)
    for bad in ((-0.1, 2), (1.1, 2), (0.1, 0.5), (math.nan, 2), (0.1, math.inf)):
        with pytest.raises(ValueError, match="crop rule"):
            CropRule(*bad)
