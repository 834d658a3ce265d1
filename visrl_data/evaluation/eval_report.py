"""The shape of an evaluation's report.json: written by evaluate.py, read by its table, its page and `visrl evolve`."""

from __future__ import annotations

from typing import Any, TypedDict

from visrl_data.report.intervals import Interval

ALL = "all"  # the group that holds the macro mean over the others


class ScoreDifference(TypedDict):
    """A figure minus the first model's, with the paired 95 % interval."""

    mean: float
    low: float
    high: float


class GroupFigures(TypedDict):
    """How one model did on one group of questions. None where there is no such figure: no label, no box step."""

    score: str
    questions: int
    labelled: int
    valid: float | None
    unparsed: dict[str, int]
    unread_verdicts: int
    answer: float
    answer_interval: Interval | None
    answer_difference: ScoreDifference | None
    box_accuracy: float | None
    box_accuracy_interval: Interval | None
    box_accuracy_difference: ScoreDifference | None
    mean_iou: float | None


class ModelEntry(TypedDict):
    """One row of the table. steps: 2, or 1 without a box; max_pixels: of its pictures; figures: by group, and ALL."""

    name: str
    model: str
    revision: str | None
    digest: str
    steps: int
    box_space: str
    crop_rule: dict[str, float] | str
    max_pixels: int | None
    figures: dict[str, GroupFigures]


class SourceEntry(TypedDict):
    """One source of questions. source: as the user named it."""

    source: str
    name: str
    split: str
    rows: int
    fingerprint: str


class EvalReport(TypedDict):
    """Everything that the table, the page and a study need. dropped: rows that could not be read, by reason."""

    groups: list[str]
    models: list[ModelEntry]
    sources: list[SourceEntry]
    dropped: dict[str, int]
    judge: dict[str, str] | None
    config: dict[str, Any]
    versions: dict[str, str]
