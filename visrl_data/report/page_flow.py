"""Lay out the flow at the top of the page: what came through each stage, what was lost before the next, and why.

Between the report and the page; every count is the report's. A stage's width is its share of the rows read,
where candidates count by the 2N that each question is due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from visrl_data.runs.run_report import CRITICS, Critics, RunReport, StageCounts


@dataclass(frozen=True, slots=True)
class FlowPart:
    """A piece of a stage's bar. kind is a class of page.css; x and width are percent of the widest bar."""

    kind: str
    name: str
    count: int
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class FlowStage:
    """A stage. lost: how many of the unit are lost before the next stage, by reason."""

    name: str
    note: str
    count: int
    width: float
    parts: tuple[FlowPart, ...] = ()
    lost: int = 0
    lost_unit: str = ""
    reasons: tuple[tuple[str, int], ...] = ()


def flow_stages(report: RunReport) -> list[FlowStage]:
    """Return the stages from the rows read to the pairs that train both steps."""
    y = report["yields"]["all"]
    width = 100 * _share(y["questions"], y["rows_read"])
    expected = 2 * y["attempts_expected"]
    return [*_candidate_steps(report, y, width, expected), *_pair_steps(report, y, width, expected)]


def _candidates_each(report: RunReport) -> str:
    numbers = [2 * int(attempts) for attempts in report.get("attempts_per_question", {})]
    numbers = numbers or [2 * report["settings"]["attempts"]]
    return f"{numbers[0]} candidates" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} candidates"


def _candidate_steps(report: RunReport, y: StageCounts, width: float, expected: int) -> list[FlowStage]:
    drops, each = report["drops"], _candidates_each(report)
    lost = [(f"{stage}: {reason}", n) for stage, counts in drops["candidates"].items() for reason, n in counts.items()]
    return [
        FlowStage(
            "Rows read",
            "of the source",
            y["rows_read"],
            100.0 if y["rows_read"] else 0.0,
            lost=y["dropped_at_source"],
            lost_unit="dropped at the source",
            reasons=_occurring(drops["source"].items()),
        ),
        FlowStage(
            "Questions",
            f"{each} each, {expected:,} in all",
            y["questions"],
            width,
            lost=y["candidates_lost"],
            lost_unit="candidates lost",
            reasons=_occurring(lost),
        ),
        FlowStage(
            "Candidates",
            "a box, its crop and a response",
            y["candidates"],
            width * _share(y["candidates"], expected),
            lost=y["candidates"] - y["scored"],
            lost_unit="candidates without all scores",
            reasons=_occurring(_unparsed(report["critics"])),
        ),
    ]


def _pair_steps(report: RunReport, y: StageCounts, width: float, expected: int) -> list[FlowStage]:
    between, same = y["scored"] - y["in_win"] - y["in_lose"], y["pairs"] - y["response_pairs"]
    members = (("win", "W", y["in_win"]), ("between", "between", between), ("lose", "L", y["in_lose"]))
    parts, x = [], 0.0
    for kind, name, count in members:
        part_width = width * _share(count, expected)
        parts.append(FlowPart(kind, name, count, round(x, 3), round(part_width, 3)))
        x += part_width
    return [
        FlowStage(
            "Scored",
            "in W, in L, or between",
            y["scored"],
            width * _share(y["scored"], expected),
            tuple(parts),
            lost=y["questions"] - y["pairs"],
            lost_unit="questions without a pair",
            reasons=_occurring(report["drops"]["questions"].items()),
        ),
        FlowStage(
            "Pairs",
            "one win and one lose of a question",
            y["pairs"],
            width * _share(y["pairs"], y["questions"]),
            lost=same,
            lost_unit="pairs for the box only",
            reasons=_occurring([("same response", same)]),
        ),
        FlowStage(
            "With response rows",
            "win and lose responses differ",
            y["response_pairs"],
            width * _share(y["response_pairs"], y["questions"]),
        ),
    ]


def _unparsed(critics: Critics) -> list[tuple[str, int]]:
    known = [(name, critic) for name in CRITICS if (critic := critics[name]) is not None]
    return [(f"{name} score {reason}", n) for name, critic in known for reason, n in critic["unparsed_reasons"].items()]


def _occurring(reasons: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple((reason, n) for reason, n in reasons if n)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
