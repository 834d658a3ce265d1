"""Compare boxes with the gold region of a question, which may be several boxes.

Used by the audit, the report's page, and the evaluation. A rule says what several gold boxes mean:

    any            the gold box with the largest IoU
    union          the region that they cover together: exact areas, by shapely
    bounding_box   the smallest box around them all, as Visual-CoT takes it

For one gold box the three are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.boxes import Box, ious
from visrl_data.core.config import GOLD_RULES

POSITIVE_IOU = 0.5
"""A box is on the gold region when its IoU is above: the rule of the paper's public code and of Visual-CoT."""


def gold_iou(box: Box, gold_boxes: Sequence[Box], rule: str = "any") -> float:
    """Return the IoU of a box with the gold region of a question, which has at least one gold box."""
    labels = np.array([gold.xyxy for gold in gold_boxes])
    return float(_ious(np.array([box.xyxy]), np.zeros(1, int), labels, np.array([len(labels)]), rule)[0])


def gold_ious(boxes: np.ndarray, rows: np.ndarray, gold: pa.ChunkedArray, rule: str) -> np.ndarray:
    """Return the IoU of each box with the gold region of its question; NaN where the question has none.

    boxes: (n, 4) unit xyxy. rows: (n,) the row of each box's question in `gold`, a column of lists of boxes.
    """
    lengths = pc.fill_null(pc.list_value_length(gold), 0).to_numpy()
    labels = pc.list_flatten(pc.list_flatten(gold)).to_numpy().reshape(-1, 4)
    return _ious(boxes, rows, labels, lengths, rule)


def _ious(boxes: np.ndarray, rows: np.ndarray, labels: np.ndarray, lengths: np.ndarray, rule: str) -> np.ndarray:
    """Compute `gold_ious` on arrays.

    labels: (m, 4) the gold boxes of all questions in order; lengths: how many each has.
    """
    if rule not in GOLD_RULES:
        raise ValueError(f"unknown rule {rule!r} for several gold boxes; expected one of {', '.join(GOLD_RULES)}")
    starts = np.cumsum(lengths) - lengths
    if rule == "bounding_box":
        labels, lengths = _bounding_boxes(labels, starts[lengths > 0]), np.minimum(lengths, 1)
        starts = np.cumsum(lengths) - lengths
    best = _largest_ious(boxes, rows, labels, starts, lengths)
    if rule == "union":
        several = lengths[rows] > 1
        best[several] = _union_ious(boxes[several], rows[several], labels, starts, lengths)
    return best


def _bounding_boxes(labels: np.ndarray, starts: np.ndarray) -> np.ndarray:
    low = np.minimum.reduceat(labels[:, :2], starts)
    high = np.maximum.reduceat(labels[:, 2:], starts)
    return np.concatenate([low, high], axis=1)


def _largest_ious(
    boxes: np.ndarray, rows: np.ndarray, labels: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    # One line for each (box, gold box of its question).
    each = lengths[rows]
    first = np.cumsum(each) - each
    box = np.repeat(np.arange(rows.size), each)
    label = starts[rows][box] + np.arange(box.size) - first[box]
    best = np.full(rows.size, np.nan)
    np.fmax.at(best, box, ious(boxes[box], labels[label]))
    return best


def _union_ious(
    boxes: np.ndarray, rows: np.ndarray, labels: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    import shapely

    questions, question = np.unique(rows, return_inverse=True)
    gold = shapely.box(*labels.T)
    unions = [
        shapely.union_all(gold[start : start + n])
        for start, n in zip(starts[questions], lengths[questions], strict=True)
    ]
    regions, rectangles = np.array(unions, object)[question], shapely.box(*boxes.T)
    both = shapely.area(shapely.intersection(rectangles, regions))
    result: np.ndarray = np.minimum(both / (shapely.area(rectangles) + shapely.area(regions) - both), 1.0)
    return result
