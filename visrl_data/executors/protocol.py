"""Who makes the chunks of a run: the one thing that differs between one process and many.

    Alone      factory.py    this process, one chunk after the other
    Devices    multiprocess.py    a process a device of this machine
    Cluster    ray_cluster.py     an actor a device of a Ray cluster

A crew makes; the process that called `factory.generate` alone writes. How many work, and which of them made a
chunk, is in no file but times.jsonl.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError
from visrl_data.pipeline.factory import Made
from visrl_data.pipeline.model_pair import critic_config
from visrl_data.runs.run_folder import Run


class Crew(Protocol):
    """identity: what the rows depend on besides the options (run.json); the same for all who work."""

    @property
    def identity(self) -> dict[str, Any]: ...

    def make(self, run: Run, indices: Sequence[int]) -> Iterator[Made]:
        """Those chunks, each once, in whatever order they are finished. Writes none of them into the run.

        Raises EngineLost when a server is gone, VisRLError for what else the user can mend.
        """
        ...


def check_local(config: GenConfig, flag: str) -> None:
    """Raise UsageError when no model runs here, so that more devices would have nothing to do."""
    if config.engine == critic_config(config).engine == "openai":
        raise UsageError(f"{flag} is for models on devices of your own; a server is asked by one process: --in-flight.")


def hush() -> None:
    """In a process of a crew: no progress bars and no notes of libraries to each other, as in the command itself."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
