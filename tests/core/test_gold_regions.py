"""IoU with a gold region of several boxes: the three rules by hand, and against counted cells of a lattice."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visrl_data.core.boxes import Box
from visrl_data.core.gold_regions import gold_iou, gold_ious

LEFT, RIGHT = Box(0, 0, 0.25, 1), Box(0.75, 0, 1, 1)


@pytest.mark.parametrize(
    ("box", "rule", "expected"),
    [
        (Box(0, 0, 0.5, 1), "any", 0.5),
        (Box(0, 0, 0.5, 1), "union", 1 / 3),  # 0.25 in both of 0.5 + 0.5 - 0.25
        (Box(0, 0, 0.5, 1), "bounding_box", 0.5),
        (Box(0, 0, 1, 1), "any", 0.25),
        (Box(0, 0, 1, 1), "union", 0.5),
        (Box(0, 0, 1, 1), "bounding_box", 1),
        (Box(0.3, 0, 0.7, 1), "union", 0),
    ],
)
def test_two_boxes_apart(box, rule, expected):
    assert gold_iou(box, [LEFT, RIGHT], rule) == pytest.approx(expected)


def test_where_gold_boxes_overlap_the_union_counts_the_area_once():
    """Two boxes of 3/8 that share 1/4 cover 1/2: the box of that half is a perfect answer."""
    assert gold_iou(Box(0, 0, 0.5, 1), [Box(0, 0, 0.375, 1), Box(0.125, 0, 0.5, 1)], "union") == pytest.approx(1)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="expected one of any, union, bounding_box"):
        gold_iou(LEFT, [RIGHT], "mean")


sides = st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True).map(sorted)
lattice_boxes = st.tuples(sides, sides).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


def cells(box):
    x1, y1, x2, y2 = box
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def counted(box, labels, rule):
    """IoU on an 8 x 8 lattice by counting its cells."""
    if rule == "bounding_box":
        x1, y1, x2, y2 = zip(*labels, strict=True)
        labels = [(min(x1), min(y1), max(x2), max(y2))]
    regions = [set().union(*map(cells, labels))] if rule == "union" else [cells(label) for label in labels]
    return max(len(cells(box) & region) / len(cells(box) | region) for region in regions)


@given(
    st.lists(st.tuples(st.integers(0, 3), lattice_boxes), max_size=12),
    st.lists(st.lists(lattice_boxes, max_size=3), min_size=4, max_size=4),
    st.sampled_from(["any", "union", "bounding_box"]),
)
@settings(max_examples=80, derandomize=True, deadline=None)
def test_a_column_agrees_with_counted_cells_and_with_single_boxes(rows, gold, rule):
    column = pa.chunked_array(
        [pa.array([[[x / 8 for x in b] for b in g] for g in gold], pa.list_(pa.list_(pa.float64(), 4)))]
    )
    boxes = np.array([b for _, b in rows], float).reshape(-1, 4) / 8
    values = gold_ious(boxes, np.array([q for q, _ in rows], int), column, rule)
    for value, (q, box) in zip(values, rows, strict=True):
        if not gold[q]:
            assert np.isnan(value)
            continue
        assert value == pytest.approx(counted(box, gold[q], rule))
        labels = [Box(*(x / 8 for x in label)) for label in gold[q]]
        assert value == gold_iou(Box(*(x / 8 for x in box)), labels, rule)
