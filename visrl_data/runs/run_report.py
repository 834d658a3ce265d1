"""The shape of a run's report.json: written by run_statistics.py, read by the tables, the page, cards and comparisons.

Shares are in [0, 1], the audit's figures in percent. None stands for a figure that does not exist in this run.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from visrl_data.runs.manifest import FilterSettings

Counts = dict[str, int]
StageName = Literal[
    "rows_read", "dropped_at_source", "questions", "attempts_expected", "attempts_lost", "attempts", "candidates_lost",
    "candidates", "scored", "in_win", "in_lose", "pairs", "response_pairs",
]  # fmt: skip
MeanIoUName = Literal["iou_in_attempt", "iou_across_attempts", "iou_win_lose"]
MEAN_IOUS: dict[MeanIoUName, str] = {
    "iou_in_attempt": "mean IoU of the two boxes of an attempt",
    "iou_across_attempts": "mean IoU of boxes of two attempts",
    "iou_win_lose": "mean IoU of win and lose",
}
CriticName = Literal["box", "response"]
CRITICS: tuple[CriticName, ...] = ("box", "response")


class ReportSettings(FilterSettings):
    """The filter setting that the report is of. positive_iou: a box above it is on the label.

    max_attempts, stop_early: only where a question's attempts depend on its replies.
    """

    attempts: int
    max_attempts: NotRequired[int]
    stop_early: NotRequired[bool]
    score_step: float
    gold_rule: str
    positive_iou: float


class StageCounts(TypedDict):
    """How many came through each stage, in the order of the flow."""

    rows_read: int
    dropped_at_source: int
    questions: int
    attempts_expected: int
    attempts_lost: int
    attempts: int
    candidates_lost: int
    candidates: int
    scored: int
    in_win: int
    in_lose: int
    pairs: int
    response_pairs: int
    pairs_per_question: float | None


class Yields(TypedDict):
    all: StageCounts
    by_source: dict[str, StageCounts]


class DropExample(TypedDict):
    """A drop. id: of the question or row; detail: its place in the source and what is wrong with it."""

    stage: str
    reason: str
    id: str
    detail: str


class DropCounts(TypedDict):
    """Drops by reason: of rows at the source, gold boxes, attempts and candidates by stage, questions at the filter.

    examples: the first drop of each stage and reason; missing in reports of earlier versions.
    """

    source: Counts
    labels: NotRequired[Counts]  # missing in reports of earlier versions
    attempts: dict[str, Counts]
    candidates: dict[str, Counts]
    questions: Counts
    examples: NotRequired[list[DropExample]]


class FocusStatistics(TypedDict):
    """The actor's replies of the focus pass, by state; boxes: candidates by origin; relaxed: the controller's."""

    replies: int
    valid: int
    validity: float | None
    states: Counts
    boxes: Counts
    relaxed: Counts


class ExactMatchStatistics(TypedDict):
    """The response score against exact match. confusion: "match" or "other" -> high, middle, low, unparsed."""

    matches: int
    auc: float | None
    confusion: dict[str, Counts]
    mean_match: float | None
    mean_other: float | None


class CriticStatistics(TypedDict):
    """A critic's scores. skipped: candidates that a lazy run did not score; missing in reports of earlier versions."""

    verdicts: int
    skipped: NotRequired[int]
    unparsed: int
    unparsed_share: float | None
    unparsed_reasons: Counts
    mean: float | None
    mean_mass: float | None
    histogram: Counts


class ResponseCriticStatistics(CriticStatistics):
    exact: ExactMatchStatistics


class Critics(TypedDict):
    box: CriticStatistics | None
    response: ResponseCriticStatistics


class MeanIoU(TypedDict):
    mean: float | None
    pairs: int


class IoUDistribution(MeanIoU):
    histogram: Counts


class ShapeAUC(TypedDict):
    """How well a classifier that sees only size and position tells boxes apart. rows: boxes."""

    auc: float | None
    rows: int


class BoxStatistics(TypedDict):
    """origin: side -> boxes of the pairs by origin. shape_tells: "controller" and "lose"."""

    iou_in_attempt: MeanIoU
    iou_across_attempts: MeanIoU
    iou_win_lose: IoUDistribution
    origin: dict[str, Counts]
    shape_tells: dict[str, ShapeAUC]


class AuditShare(TypedDict):
    """A count with its percentage and 95 % interval."""

    count: int
    percent: float | None
    low: float | None
    high: float | None


class AuditedPairs(TypedDict):
    """cells: WP-LP, WP-LN, WN-LP, WN-LN."""

    audited: int
    cells: dict[str, AuditShare]
    win_positive: AuditShare
    lose_negative: AuditShare
    without_gold: int


class PositiveBoxes(TypedDict):
    boxes: int
    positive: AuditShare
    mean_iou: float | None


class BoxCriticAudit(TypedDict):
    """The box score against the label, over candidates that have both."""

    auc: float | None
    positives: int
    negatives: int
    mean_positive: float | None
    mean_negative: float | None


class Audit(TypedDict):
    """The audit against labeled boxes (Tab. 6); None without any.

    floor: the random-pair baseline of the questions with a pair and of all, each {"questions": n, cell: percent}.
    """

    questions: int
    state: str
    pairs: AuditedPairs | None
    floor: dict[str, dict[str, float | None]] | None
    boxes: dict[str, PositiveBoxes] | None
    box_critic: BoxCriticAudit | None


class RunReport(TypedDict):
    """The whole report. attempts_per_question: number of attempts -> questions, where it is not the same for all."""

    version: int
    settings: ReportSettings
    yields: Yields
    attempts_per_question: NotRequired[Counts]
    drops: DropCounts
    balance: list[str]
    focus: FocusStatistics
    critics: Critics
    boxes: BoxStatistics
    audit: Audit


class DropRow(TypedDict):
    """One line of the table of drops. unit: rows, labels, attempts, candidates or questions.

    total: of the unit; for labels, the questions.
    """

    unit: str
    stage: str
    reason: str
    count: int
    total: int


def drop_rows(report: RunReport, candidates: bool = False) -> list[DropRow]:
    """Return everything that was dropped, in the order of the flow. candidates: also the candidates lost by stage."""
    drops, total = report["drops"], report["yields"]["all"]
    levels = [("rows", "source", drops["source"], total["rows_read"])]
    levels += [("labels", "label", drops.get("labels", {}), total["questions"])]
    levels += [("attempts", stage, reasons, total["attempts_expected"]) for stage, reasons in drops["attempts"].items()]
    if candidates:
        expected = 2 * total["attempts_expected"]
        levels += [("candidates", stage, reasons, expected) for stage, reasons in drops["candidates"].items()]
    levels += [("questions", "filter", drops["questions"], total["questions"])]
    return [
        {"unit": unit, "stage": stage, "reason": reason, "count": count, "total": of}
        for unit, stage, reasons, of in levels
        for reason, count in reasons.items()
        if count
    ]


def audit_rows(audit: Audit) -> list[tuple[str, AuditShare, float | None]]:
    """Return each cell of Tab. 6 and "win positive": its share, and the percentage of the random-pair baseline."""
    pairs, floor = audit["pairs"], audit["floor"]
    if pairs is None or floor is None:
        return []
    shares, baseline = {**pairs["cells"], "win positive": pairs["win_positive"]}, floor["questions_with_pair"]
    return [(name, share, baseline[name.replace(" ", "_")]) for name, share in shares.items()]
