"""The flow at the top of the page: what came through each stage, what was lost before the next, and why.

Between the report and the page; every count is the report's. A stage's width is its share of the rows read,
where candidates count by the 2N that each question is due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a stage's bar. kind is a class of page.css; x and width are percent of the widest bar."""

    kind: str
    name: str
    count: int
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Step:
    """A stage. lost: how many of `lost_what` there are before the next stage, by reason."""

    name: str
    note: str
    count: int
    width: float
    parts: tuple[Part, ...] = ()
    lost: int = 0
    lost_what: str = ""
    reasons: tuple[tuple[str, int], ...] = ()


def flow(report: dict[str, Any]) -> list[Step]:
    """From rows read to pairs that train both steps."""
    y = report["yields"]["all"]
    asked = 100 * _share(y["questions"], y["rows_read"])
    due = 2 * y["attempts_expected"]
    return [*_candidate_steps(report, y, asked, due), *_pair_steps(report, y, asked, due)]


def _candidate_steps(report: dict[str, Any], y: dict[str, Any], asked: float, due: int) -> list[Step]:
    drops, each = report["drops"], 2 * report["settings"]["attempts"]
    lost = [(f"{stage}: {reason}", n) for stage, found in drops["candidates"].items() for reason, n in found.items()]
    return [
        Step(
            "Rows read",
            "of the source",
            y["rows_read"],
            100.0 if y["rows_read"] else 0.0,
            lost=y["dropped_at_source"],
            lost_what="dropped at the source",
            reasons=_that_occur(drops["source"].items()),
        ),
        Step(
            "Questions",
            f"each due {each} candidates, {due:,} in all",
            y["questions"],
            asked,
            lost=y["candidates_lost"],
            lost_what="candidates lost",
            reasons=_that_occur(lost),
        ),
        Step(
            "Candidates",
            "a box, its crop and a response",
            y["candidates"],
            asked * _share(y["candidates"], due),
            lost=y["candidates"] - y["scored"],
            lost_what="candidates without all scores",
            reasons=_that_occur(_unread(report["critics"])),
        ),
    ]


def _pair_steps(report: dict[str, Any], y: dict[str, Any], asked: float, due: int) -> list[Step]:
    between, same = y["scored"] - y["in_win"] - y["in_lose"], y["pairs"] - y["response_pairs"]
    members = (("win", "W", y["in_win"]), ("between", "between", between), ("lose", "L", y["in_lose"]))
    parts, x = [], 0.0
    for kind, name, count in members:
        width = asked * _share(count, due)
        parts.append(Part(kind, name, count, round(x, 3), round(width, 3)))
        x += width
    return [
        Step(
            "Scored",
            "in W, in L, or between",
            y["scored"],
            asked * _share(y["scored"], due),
            tuple(parts),
            lost=y["questions"] - y["pairs"],
            lost_what="questions without a pair",
            reasons=_that_occur(report["drops"]["questions"].items()),
        ),
        Step(
            "Pairs",
            "one win and one lose of a question",
            y["pairs"],
            asked * _share(y["pairs"], y["questions"]),
            lost=same,
            lost_what="pairs for the box only",
            reasons=_that_occur([("same response", same)]),
        ),
        Step(
            "With response rows",
            "win and lose respond differently",
            y["response_pairs"],
            asked * _share(y["response_pairs"], y["questions"]),
        ),
    ]


def _unread(critics: dict[str, Any]) -> list[tuple[str, int]]:
    return [
        (f"{name} score {reason}", n)
        for name, critic in critics.items()
        if critic is not None
        for reason, n in critic["unparsed_reasons"].items()
    ]


def _that_occur(reasons: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple((reason, n) for reason, n in reasons if n)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
