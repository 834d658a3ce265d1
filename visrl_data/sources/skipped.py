"""Skip the first rows of a source, for questions that no earlier run has seen (`--skip`)."""

from __future__ import annotations

from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop, Question
from visrl_data.sources.protocol import Source, check_index


class SkippedSource:
    """Rows `skip`, `skip` + 1, ... of a source, with its name, split and fingerprint.

    Raises VisRLError when no row is left.
    """

    def __init__(self, source: Source, skip: int) -> None:
        if skip >= len(source):
            raise VisRLError(f"--skip {skip}: {source.name} has only {len(source)} rows in split {source.split!r}.")
        self.name, self.split = source.name, source.split
        self._source, self._skip = source, skip

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def __len__(self) -> int:
        return len(self._source) - self._skip

    def ids(self) -> list[str]:
        return self._source.ids()[self._skip :]

    def read(self, i: int) -> Question | Drop:
        """Read row i. Raises IndexError."""
        check_index(i, len(self))
        return self._source.read(i + self._skip)
