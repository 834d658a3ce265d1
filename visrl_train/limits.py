"""Report what the machine lacks for a training, memory, disk or the package of a tracker, with what to do about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.hub_access import disk_full
from visrl_data.engines.refusals import is_out_of_memory
from visrl_train.config import TrainConfig

# What torch and safetensors say instead of raising an OSError.
_DISK_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed writing",
)


@contextlib.contextmanager
def explain_limits(config: TrainConfig, output: object) -> Iterator[None]:
    """Raise VisRLError for full memory or disk, or a missing tracker, while the model loads, trains or is written."""
    try:
        yield
    except VisRLError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise VisRLError(
                f"Out of memory with --batch-size {config.batch_size}. To save memory: a smaller --batch-size and as "
                "much more --accumulation (the same training), --max-pixels, --gradient-checkpointing, "
                "--cache-reference, --dtype bfloat16, --quantize, an adapter instead of --full. "
                "Then run the command with another --output."
            ) from error
        if disk_full(error) or any(message in str(error) for message in _DISK_FULL):
            raise VisRLError(
                f"The disk is full: {output} could not be written. Free some space, then run the same command again: "
                "it resumes from the last complete checkpoint."
            ) from error
        if "Callback requires" in str(error):  # transformers' words, with the command that installs it
            raise UsageError(f"--report-to {config.report_to}: {error}") from error
        raise
