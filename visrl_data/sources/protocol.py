"""Define a source of questions: random access by index, so that a run can be cut into chunks and resumed."""

from __future__ import annotations

from typing import Protocol

from visrl_data.core.records import Drop, Question


class Source(Protocol):
    """Questions in a fixed order, by index.

    name: what the questions have in `source`; it holds no path of this machine. split: the label of the split.
    """

    name: str
    split: str

    def fingerprint(self) -> str:
        """Return a digest of what the source holds (not of the options); it is the same as long as its rows are."""
        ...

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """Return the id of every row, in order, unique, without reading any image."""
        ...

    def read(self, i: int) -> Question | Drop:
        """Read row i, whose id is `ids()[i]`; a Drop (stage "source") when something is wrong with it."""
        ...


def check_index(i: int, rows: int) -> None:
    """Raise IndexError for a row that is not there; negative numbers count as such."""
    if not 0 <= i < rows:
        raise IndexError(f"row {i} of {rows}")
