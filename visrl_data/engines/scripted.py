"""An engine that returns scripted replies, for tests of everything around the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from visrl_data.engines.protocol import ModelIdentity, Reply, Request, Usage

if TYPE_CHECKING:
    from PIL.Image import Image


class ScriptedEngine:
    """Answer each (request, seed) with the text that `script` returns for it. logprob: of a text, where it has one."""

    name = "scripted"
    deterministic = True
    image_settings = None

    def __init__(self, script: Callable[[Request, int], str], logprob: Callable[[str], float] | None = None) -> None:
        self._script = script
        self._logprob = logprob
        self.usage = Usage()

    @property
    def gives_logprobs(self) -> bool:
        return self._logprob is not None

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        replies = [[self._reply(request, seed) for seed in request.seeds] for request in requests]
        self.usage.count(replies)
        return replies

    def _reply(self, request: Request, seed: int) -> Reply:
        text = self._script(request, seed)
        if not request.choices:
            logprob = self._logprob(text) if self._logprob and request.logprob else None
            return Reply(text, "stop", 0, len(text), logprob=logprob)
        probs = tuple(1.0 if choice == text else 0.0 for choice in request.choices)
        return Reply("", "stop", 0, 0, probs, sum(probs))

    def resized_size(self, image: Image) -> tuple[int, int]:
        return image.size

    def identity(self) -> ModelIdentity:
        return {"engine": self.name}
