"""How many attempts a question gets: N at once, as in the paper, or block by block until it has its pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """attempts: the paper's N. max_attempts: where a question without a pair ends. stop_early: blocks of one."""

    attempts: int
    max_attempts: int
    stop_early: bool

    @property
    def is_fixed(self) -> bool:
        """Return whether every question gets N attempts, whatever its replies."""
        return self.attempts == self.max_attempts and not self.stop_early

    def blocks(self) -> list[range]:
        """Return the attempts of each block; a question gets the next one while it has no pair."""
        size = 1 if self.stop_early else self.attempts
        return [range(first, min(first + size, self.max_attempts)) for first in range(0, self.max_attempts, size)]

    def as_settings(self) -> dict[str, Any]:
        """Return what `plan_from` reads, without what is as in the paper."""
        settings: dict[str, Any] = {"attempts": self.attempts}
        return settings if self.is_fixed else settings | {
            "max_attempts": self.max_attempts, "stop_early": self.stop_early
        }  # fmt: skip


def plan_from(options: Mapping[str, Any]) -> AttemptPlan:
    """Return the plan of a run's options; those of older runs have N alone."""
    attempts: int = options["attempts"]
    return AttemptPlan(attempts, options.get("max_attempts") or attempts, bool(options.get("stop_early")))
