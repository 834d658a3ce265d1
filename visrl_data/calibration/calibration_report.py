"""The shape of a calibration's report.json: written by calibrate.py, read by its table, its page and the index.

Shares are in [0, 1]. None stands for a figure that does not exist here. Intervals are at 95 %.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from visrl_data.engines.protocol import ModelIdentity
from visrl_data.runs.run_report import DropExample


class Share(TypedDict):
    """A count of verdicts with its share and interval. questions: those that the verdicts are about.

    The interval is Wilson's for that many questions, since the verdicts on one question are not independent.
    """

    count: int
    of: int
    questions: int
    share: float | None
    low: float | None
    high: float | None


class Separation(TypedDict):
    """The AUC of right against wrong cases, with Newcombe's interval for that many questions."""

    auc: float
    low: float
    high: float
    right: int
    wrong: int


class KindFigures(TypedDict):
    """The scores of one kind of case. verdict: right, wrong or open. wins, loses: at the thresholds."""

    kind: str
    label: str
    verdict: str
    cases: int
    unparsed: int
    mean: float | None
    wins: float | None
    loses: float | None


class Shift(TypedDict):
    """What a text behind a response does to its score: the mean change, and the verdicts that became a win or a lose.

    cases: questions of which both scores were read.
    """

    kind: str
    label: str
    verdict: str
    cases: int
    shift: float | None
    low: float | None
    high: float | None
    to_win: int
    to_lose: int


class Agreement(TypedDict):
    """The same cases asked twice: verdicts that changed sides (win, lose, neither, unparsed), and by how much."""

    changed: Share
    mean_difference: float | None


class BestThresholds(TypedDict):
    """The thresholds with the largest gain: the share of right cases that win, less that of wrong ones; lose alike.

    separates: whether both gains are at least the least that is worth using (measure.LEAST_GAIN).
    """

    win: float
    lose: float
    win_gain: float
    lose_gain: float
    current_win_gain: float
    current_lose_gain: float
    separates: bool


class CriticFigures(TypedDict):
    """All figures of one critic. thresholds: (win, lose). whole_image: the whole image against wrong crops."""

    cases: int
    thresholds: tuple[float, float]
    unparsed: Share
    unparsed_reasons: dict[str, int]
    separation: Separation | None
    whole_image: Separation | None
    false_wins: Share
    false_loses: Share
    kinds: list[KindFigures]
    shifts: list[Shift]
    wording: Agreement
    repeat: Agreement | None
    best: BestThresholds | None
    warnings: list[str]


class SourceFacts(TypedDict):
    """Where the questions are from. source: as the user named it. rows: of the source; drawn: of them."""

    source: str
    name: str
    split: str
    rows: int
    drawn: int
    fingerprint: str


class CalibrationReport(TypedDict):
    """Everything that the table and the page need. dropped: drawn rows that could not be read, by reason.

    prompts: template by id; wordings: those of the second wording. key: of the critic and its prompts.
    """

    version: int
    key: str
    critic: ModelIdentity
    source: SourceFacts
    questions: int
    dropped: dict[str, int]
    drop_examples: list[DropExample]
    with_gold_boxes: int
    calls: int
    box: CriticFigures | None
    response: CriticFigures | None
    prompts: dict[str, str]
    wordings: dict[str, str]
    crop_rule: dict[str, float]
    deterministic: bool
    config: dict[str, Any]
    versions: dict[str, str]
