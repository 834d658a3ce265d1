"""What commands say before the shipped model is shown images of another world."""

from __future__ import annotations

from collections.abc import Iterable

from .console import say

NOTE = (
    "Spotlight is a small model of its own drawn world and knows nothing of other images. Name a model with --model; "
    "`visrl doctor --model ID` shows what it needs."
)


def is_out_of_its_world(model: str, source: str) -> bool:
    """Tell whether a model is the shipped one and a source is anything but its drawn scenes."""
    from visrl_data.models.model_folder import ALIASES

    return model in ALIASES and source.partition(":")[0] != "spotlight"


def warn_of_spotlight(models: Iterable[str], sources: Iterable[str]) -> None:
    """Say at once that the default model can do nothing with images of another world."""
    sources = list(sources)
    if any(is_out_of_its_world(model, source) for model in models for source in sources):
        say(NOTE)
