"""A source without its first rows: for questions that no earlier run has seen (`--skip`)."""

from __future__ import annotations

from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop, Question
from visrl_data.sources.protocol import Source


class SkippedSource:
    """Rows `skip`, `skip` + 1, ... of a source; name, split and fingerprint are the source's own.

    Raises VisRLError when no row is left.
    """

    def __init__(self, source: Source, skip: int) -> None:
        if skip >= len(source):
            raise VisRLError(f"--skip {skip}: {source.name} has {len(source)} rows in split {source.split!r}.")
        self.name, self.split = source.name, source.split
        self._source, self._skip = source, skip

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def __len__(self) -> int:
        return len(self._source) - self._skip

    def ids(self) -> list[str]:
        return self._source.ids()[self._skip :]

    def read(self, i: int) -> Question | Drop:
        """Raises IndexError."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return self._source.read(i + self._skip)
