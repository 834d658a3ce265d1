"""Keep the replies of the current chunk on disk, so that none is paid for twice.

Used by engines that answer over the network (openai.py), attached and cleared by the owner of the chunk (factory.py,
evaluation/evaluate.py): read when the chunk is repeated after a kill or a lost server, cleared once its rows are
written. One JSON line a reply; a last line that a kill cut short is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from visrl_data.engines.protocol import Engine, Reply

NAME = "replies.jsonl"
_FIELDS = ("text", "finish", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server's reason for not answering a request, which it would repeat."""

    reason: str


class ReplyCache:
    """Replies and refusals by key. With a path they survive the process; without, they last as long as it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._outcomes: dict[str, Reply | Refusal] = {}
        self._inherited: set[str] = set()
        if path is not None and path.is_file():
            self._read(path)

    def get(self, key: str) -> Reply | Refusal | None:
        """Return the outcome of a request, None when there is none yet."""
        return self._outcomes.get(key)

    def inherited(self, key: str) -> bool:
        """Return whether an earlier process left this outcome; true for the first call with a key only."""
        first = key in self._inherited
        self._inherited.discard(key)
        return first

    def put(self, key: str, outcome: Reply | Refusal) -> None:
        """Store an outcome; it reaches the system at once, so that killing this process loses nothing."""
        self._outcomes[key] = outcome
        if self._path is None:
            return
        if isinstance(outcome, Refusal):
            fields: dict[str, Any] = {"refused": outcome.reason}
        else:
            fields = {name: getattr(outcome, name) for name in _FIELDS}
            fields |= {} if outcome.logprob is None else {"logprob": outcome.logprob}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps({"key": key, **fields}).encode() + b"\n")

    def sync(self) -> None:
        """Wait until everything is on disk: after this the machine may lose power."""
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def clear(self) -> None:
        """Drop all outcomes: the chunk is written."""
        self._outcomes.clear()
        self._inherited.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        whole, end, _ = path.read_bytes().rpartition(b"\n")
        with path.open("r+b") as file:
            file.truncate(len(whole + end))  # else the next line would be appended to a torn one
        for line in whole.splitlines():
            # A power cut can leave a page of anything: a line that is not ours is ignored.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                fields = json.loads(line)
                key = fields.pop("key")
                self._outcomes[key] = _outcome(fields)
        self._inherited = set(self._outcomes)


def _outcome(fields: dict[str, Any]) -> Reply | Refusal:
    """Return a line's reply or refusal. Raises TypeError where a field is not what was written."""
    if "refused" in fields:
        checked: dict[str, type] = {"refused": str}
    else:
        checked = dict(zip(_FIELDS, (str, str, int, int), strict=True))
        checked |= {"logprob": float} if "logprob" in fields else {}
    if fields.keys() != checked.keys() or not all(isinstance(fields[name], kind) for name, kind in checked.items()):
        raise TypeError(f"no line of a reply cache: {sorted(fields)}")
    return Refusal(fields["refused"]) if "refused" in fields else Reply(**fields)


@runtime_checkable
class SupportsReplyCache(Protocol):
    """An engine whose replies are kept until their chunk is written, since each costs money or time on a server."""

    reply_cache: ReplyCache


def attach(engines: Sequence[Engine], path: Path | None) -> ReplyCache:
    """Open the reply cache at `path` for the engines that support one. None: in memory, as long as they last."""
    cache = ReplyCache(path)
    for engine in engines:
        if isinstance(engine, SupportsReplyCache):
            engine.reply_cache = cache
    return cache
