"""Replies of the unit of work at hand, on disk: what was paid for is never asked for twice.

Kept by engines that answer over the network (openai.py), opened and emptied by whoever owns the unit of work
(factory.py, evaluation/evaluate.py): consulted when the unit is redone after a kill or a lost server, emptied as
soon as its rows are written. One JSON line a reply; a last line that a kill cut short is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from visrl_data.engines.protocol import Engine, Reply

NAME = "replies.jsonl"
_KEPT = ("text", "finish", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server's reason for not answering a request; asked again it would say the same."""

    reason: str


class ReplyCache:
    """Outcomes by key. With a path they survive the process; without, they last as long as it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._outcomes: dict[str, Reply | Refusal] = {}
        self._inherited: set[str] = set()
        if path is not None and path.is_file():
            self._read(path)

    def get(self, key: str) -> Reply | Refusal | None:
        return self._outcomes.get(key)

    def inherited(self, key: str) -> bool:
        """Whether an earlier process left this outcome and nobody has asked before; true once a key."""
        first = key in self._inherited
        self._inherited.discard(key)
        return first

    def put(self, key: str, outcome: Reply | Refusal) -> None:
        """Remember; handed to the system at once, so that killing this process loses nothing."""
        self._outcomes[key] = outcome
        if self._path is None:
            return
        told = {"refused": outcome.reason} if isinstance(outcome, Refusal) else {n: getattr(outcome, n) for n in _KEPT}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps({"key": key, **told}).encode() + b"\n")

    def sync(self) -> None:
        """Wait until the disk has it all: after this the machine may lose its power."""
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def clear(self) -> None:
        """The unit of work is written: forget its replies."""
        self._outcomes.clear()
        self._inherited.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        whole, end, _ = path.read_bytes().rpartition(b"\n")
        with path.open("r+b") as file:
            file.truncate(len(whole + end))  # the next line must not be glued to a torn one
        for line in whole.splitlines():
            with contextlib.suppress(
                ValueError, KeyError, TypeError, AttributeError
            ):  # what a power cut left of a page
                told = json.loads(line)
                key = told.pop("key")
                self._outcomes[key] = Refusal(told["refused"]) if "refused" in told else Reply(**told)
        self._inherited = set(self._outcomes)


@runtime_checkable
class SupportsReplyCache(Protocol):
    """An engine whose replies cost enough to be kept until their unit of work is written."""

    reply_cache: ReplyCache


def attach(engines: Sequence[Engine], path: Path | None) -> ReplyCache:
    """Open the journal at `path` for those of the engines that remember; None: it lasts as long as they do."""
    journal = ReplyCache(path)
    for engine in engines:
        if isinstance(engine, SupportsReplyCache):
            engine.reply_cache = journal
    return journal
