"""What a step of decoding would gain from being a CUDA graph, or compiled."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, StaticCache

from benchmarks import large, models
from benchmarks.gpu.generation import BATCHES, tiny
from benchmarks.gpu.parts import Row, attempt

CONTEXT = 1100
ROOM = 64  # tokens that are written, at most
STEPS = 20


def rows(small: bool) -> Iterator[Row]:
    """The graph and the compiler after all that is sure: a capture that fails may spoil what follows."""
    models.stand_in_for_videos()
    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as work, torch.inference_mode():
        folder = tiny("qwen7b", Path(work)) if small else large.qwen7b(Path(work) / "qwen7b")
        with large.made_in_place():
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
        model.to("cuda" if cuda else "cpu")
        ways: dict[str, Callable[..., Row]] = {"eager": eager}
        if cuda:
            ways |= {"CUDA graph": graph, "compiled": compiled}
        for way, measure in ways.items():
            for batch in BATCHES[: 1 if small else None]:
                yield attempt({"way": way, "batch": batch}, measure, step_of(model, batch, 16 if small else CONTEXT))


def step_of(model: Any, batch: int, context: int) -> Callable[..., torch.Tensor]:
    """One token more for each row of a cache that holds so many already: logits (B, 1, vocabulary).

    forward: another one than the model's own.
    """
    text, device = model.config.get_text_config(), model.device
    cache = StaticCache(model.config, max_cache_len=context + ROOM)
    size = (batch, text.num_key_value_heads, context, text.hidden_size // text.num_attention_heads)
    for layer in range(text.num_hidden_layers):
        cache.update(*torch.randn(2, *size, dtype=model.dtype, device=device), layer)
    given = {
        "input_ids": torch.randint(100, (batch, 1), device=device),
        "attention_mask": (torch.arange(context + ROOM, device=device) <= context).expand(batch, 1, 1, -1),
        "position_ids": torch.full((3, batch, 1), context, device=device),
        "past_key_values": cache,
    }

    def step(forward: Callable[..., Any] = model.forward) -> torch.Tensor:
        for layer in cache.layers:
            layer.cumulative_length.fill_(context)  # the same place again, so that steps are alike
        logits: torch.Tensor = forward(**given).logits
        return logits

    return step


def eager(step: Callable[..., torch.Tensor]) -> Row:
    return {"ms a step": _median(step)}


def graph(step: Callable[..., torch.Tensor]) -> Row:
    wanted = step().clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
        step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        logits = step()
    captured.replay()
    return {"ms a step": _median(captured.replay), "off by": (logits - wanted).abs().max().item()}


def compiled(step: Callable[..., torch.Tensor]) -> Row:
    wanted = step().clone()
    forward = torch.compile(step.__defaults__[0], mode="reduce-overhead", dynamic=False)  # type: ignore[attr-defined]
    began = time.perf_counter()
    logits = step(forward).clone()
    _wait()
    took = time.perf_counter() - began
    return {
        "ms a step": _median(lambda: step(forward)), "off by": (logits - wanted).abs().max().item(),
        "compiling, s": took,
    }  # fmt: skip


def _median(step: Callable[[], Any]) -> float:
    """Milliseconds, after three that warm up."""
    spent = []
    for _ in range(3 + STEPS):
        began = time.perf_counter()
        step()
        _wait()
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent[3:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
