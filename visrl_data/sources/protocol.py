"""A source of questions: random access by index, so that a run can be cut into chunks and resumed."""

from __future__ import annotations

from typing import Protocol

from visrl_data.core.records import Drop, Question


class Source(Protocol):
    """Questions in a fixed order, by index.

    name: what the questions say in `source`; without paths of this machine. split: the split's label.
    """

    name: str
    split: str

    def fingerprint(self) -> str:
        """Digest of what the source holds (not of the options); the same as long as its rows are."""
        ...

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """The id of every row, in order, unique; without reading any image."""
        ...

    def read(self, i: int) -> Question | Drop:
        """Row i, with `ids()[i]` as its id. A Drop (stage "source") when something is wrong with the row."""
        ...
