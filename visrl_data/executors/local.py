"""Process the chunks in this process, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from visrl_data.pipeline.factory import ChunkResult, Factory, make_chunk, read_chunk
from visrl_data.runs.run_folder import Run


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Process chunks in this process."""

    factory: Factory

    @property
    def identity(self) -> dict[str, Any]:
        return self.factory.identity

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def make(self, run: Run, indices: Sequence[int]) -> Iterator[ChunkResult]:
        """The next chunk's questions are read and decoded while the models work on this one's."""
        with ThreadPoolExecutor(1, "reading ahead") as reader:
            ahead = None
            for index, following in itertools.zip_longest(indices, indices[1:]):
                asked = ahead.result() if ahead else read_chunk(self.factory, index)
                ahead = None if following is None else reader.submit(read_chunk, self.factory, following)
                yield make_chunk(self.factory, index, run.replies_path(index), asked)
