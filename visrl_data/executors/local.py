"""Process the chunks in this process, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from visrl_data.pipeline.factory import ChunkResult, Factory, process_chunk, read_chunk
from visrl_data.runs.manifest import RunIdentity
from visrl_data.runs.run_folder import Run


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Process chunks in this process."""

    factory: Factory

    @property
    def identity(self) -> RunIdentity:
        return self.factory.identity

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def process_chunks(self, run: Run, indices: Sequence[int]) -> Iterator[ChunkResult]:
        """Process chunks one after the other; the next one's questions are read meanwhile."""
        with ThreadPoolExecutor(1, "reading ahead") as reader:
            ahead = None
            for index, following in itertools.zip_longest(indices, indices[1:]):
                chunk_input = ahead.result() if ahead else read_chunk(self.factory, index)
                ahead = None if following is None else reader.submit(read_chunk, self.factory, following)
                yield process_chunk(self.factory, index, run.replies_path(index), chunk_input)
