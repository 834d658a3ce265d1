"""Train from Python: `visrl_train.train("rl1", data=run.path)`; loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import visrl_data.engines  # noqa: F401  (repairs imports before anything here imports transformers)

if TYPE_CHECKING:
    from visrl_train.launch import train as train

__all__ = ["train"]

if not TYPE_CHECKING:  # a type checker sees the import above

    def __getattr__(name: str) -> Any:
        if name != "train":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from visrl_train.launch import train

        return train
