"""Profile generation: the seconds in the forwards of a model, and around them. Used by generation.py.

    vision       pictures through the vision tower and its projector
    prefill      forwards of more than one token, the tower's share taken out
    decode       forwards of one token
    preprocess   the processor: pictures resized and cut into patches, texts into tokens
    sample       the keyed draw, and the grammars where replies are held to one
    write        chunks, shards, pairs, report
    rest         everything else, taken as what is left of the time

A stretch within another counts for itself alone. Only the thread that began the profiler is looked at: what others do
meanwhile costs nothing here unless it is waited for.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from visrl_data.engines.decoding import GrammarLogitsProcessor, KeyedSampler
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.pipeline import finalize
from visrl_data.runs import run_folder

MODEL = ("vision", "prefill", "decode")
AROUND = ("preprocess", "sample", "write", "rest")


class EngineProfiler:
    """seconds: by name, each without what lies within it under another."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys((*MODEL, *AROUND), 0.0)
        self._open: list[str] = ["rest"]
        self._since = time.perf_counter()
        self._wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self._thread = threading.get_ident()

    def begin(self, name: str) -> None:
        if threading.get_ident() == self._thread:
            self._lap()
            self._open.append(name)

    def end(self) -> None:
        if threading.get_ident() == self._thread:
            self._lap()
            self._open.pop()

    def _lap(self) -> None:
        self._wait()  # a GPU works behind Python's back
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return run


@contextlib.contextmanager
def profile(engine: TransformersEngine) -> Iterator[EngineProfiler]:
    """Run a profiler on an engine's model and on the code around it."""
    profiler = EngineProfiler(engine.device)
    model = engine.model.get_base_model() if hasattr(engine.model, "get_base_model") else engine.model
    processor = engine.processor
    around = [
        (type(processor), "__call__", "preprocess"), (type(processor), "apply_chat_template", "preprocess"),
        (type(processor.image_processor), "__call__", "preprocess"),
        (type(processor.tokenizer), "__call__", "preprocess"),
        (KeyedSampler, "__call__", "sample"), (GrammarLogitsProcessor, "__call__", "sample"),
        (run_folder, "write_chunk", "write"), (finalize, "finish", "write"),
        (model.model, "get_image_features", "vision"),
    ]  # fmt: skip
    hooks = []
    for module in (model, model.model):
        hooks.append(module.register_forward_pre_hook(lambda _, a, k: profiler.begin(_name(a, k)), with_kwargs=True))
        hooks.append(module.register_forward_hook(lambda *_: profiler.end(), always_call=True))
    with contextlib.ExitStack() as stack:
        for owner, attribute, name in around:
            wrapped = profiler.wrapped(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, wrapped))
        try:
            yield profiler
        finally:
            profiler._lap()
            for hook in hooks:
                hook.remove()


def _name(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the part that a forward belongs to, by its tokens: inputs are (B, L) or (B, L, D)."""
    inputs = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    tokens = next(value for value in inputs if value is not None)
    return "decode" if tokens.shape[1] == 1 else "prefill"
