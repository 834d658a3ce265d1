"""Where the chunks of a run are processed: the one thing that differs between one process and many.

    LocalExecutor          local.py          this process, one chunk after the other
    MultiprocessExecutor   multiprocess.py   one process for each device of this machine
    RayExecutor            ray_cluster.py    one actor for each device of a Ray cluster

An executor returns chunks; only the process that called `generate` writes them. How many workers there were, and
which of them processed a chunk, is recorded in times.jsonl alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError
from visrl_data.core.library_warnings import ignore_library_warnings
from visrl_data.pipeline.factory import ChunkResult
from visrl_data.pipeline.model_pair import critic_config
from visrl_data.runs.manifest import RunIdentity
from visrl_data.runs.run_folder import Run


class Executor(Protocol):
    """A context that processes chunks; leaving it ends its workers.

    identity: what the rows depend on besides the options (run.json); the same for all workers.
    """

    @property
    def identity(self) -> RunIdentity: ...

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...

    def process_chunks(self, run: Run, indices: Sequence[int]) -> Iterator[ChunkResult]:
        """Yield each of these chunks once, in the order in which they finish. Write nothing into the run.

        Raises EngineLost when a server stays away, VisRLError for anything else that the user can fix.
        """
        ...


def check_local(config: GenConfig, flag: str) -> None:
    """Raise UsageError when no model runs here, so that more devices would have nothing to do."""
    if config.engine == critic_config(config).engine == "openai":
        raise UsageError(f"{flag} is for models on local devices. For served models set --in-flight instead.")


def silence_libraries() -> None:
    """Switch off progress bars and warnings of libraries in a worker, as the command itself does."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    ignore_library_warnings()
