"""An engine that returns scripted replies, for tests of everything around the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from visrl_data.engines.protocol import ModelIdentity, Reply, Request, Usage

if TYPE_CHECKING:
    from PIL.Image import Image


class ScriptedEngine:
    """Answer each (request, seed) with the text that `script` returns for it."""

    name = "scripted"
    deterministic = True
    image_settings = None

    def __init__(self, script: Callable[[Request, int], str]) -> None:
        self._script = script
        self.usage = Usage()

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        replies = [[self._reply(request, seed) for seed in request.seeds] for request in requests]
        self.usage.count(replies)
        return replies

    def _reply(self, request: Request, seed: int) -> Reply:
        text = self._script(request, seed)
        if not request.choices:
            return Reply(text, "stop", 0, len(text))
        probs = tuple(1.0 if choice == text else 0.0 for choice in request.choices)
        return Reply("", "stop", 0, 0, probs, sum(probs))

    def resized_size(self, image: Image) -> tuple[int, int]:
        return image.size

    def identity(self) -> ModelIdentity:
        return {"engine": self.name}
