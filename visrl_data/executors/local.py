"""Make the chunks in this process, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from visrl_data.pipeline.factory import Factory, Made, make, read
from visrl_data.runs.run_folder import Run


@dataclass(frozen=True, slots=True)
class Alone:
    """The crew that is this process."""

    factory: Factory

    @property
    def identity(self) -> dict[str, Any]:
        return self.factory.identity

    def make(self, run: Run, indices: Sequence[int]) -> Iterator[Made]:
        """The next chunk's questions are read and decoded while the models work on this one's."""
        with ThreadPoolExecutor(1, "reading ahead") as reader:
            ahead = None
            for index, following in itertools.zip_longest(indices, indices[1:]):
                asked = ahead.result() if ahead else read(self.factory, index)
                ahead = None if following is None else reader.submit(read, self.factory, following)
                yield make(self.factory, index, run.replies_path(index), asked)
