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


Step = Callable[[Callable[..., Any]], torch.Tensor]  # forward -> logits (B, 1, vocabulary)


def rows(small: bool) -> Iterator[Row]:
    """The graph and the compiler after all that is sure: a capture that fails may spoil what follows."""
    models.stand_in_for_videos()
    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as work:
        folder = tiny("qwen7b", Path(work)) if small else large.qwen7b(Path(work) / "qwen7b")
        with large.made_in_place():
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
        model.to("cuda" if cuda else "cpu")
        for way in (eager, graph, compiled) if cuda else (eager,):
            batches = BATCHES[::-1] if way is compiled else BATCHES  # 96, compiled, was not reached yet
            for batch in batches[: 1 if small else None]:
                yield attempt({"way": way.__name__, "batch": batch}, measure, way, model, batch, small)


@torch.inference_mode()
def measure(way: Callable[[Any, Step], Row], model: Any, batch: int, small: bool) -> Row:
    return way(model, step_of(model, batch, 16 if small else CONTEXT))


def step_of(model: Any, batch: int, context: int) -> Step:
    """One token more for each row of a cache that holds so many already."""
    text, device = model.config.get_text_config(), model.device
    cache = StaticCache(model.config, max_cache_len=context + ROOM)
    size = (batch, text.num_key_value_heads, context, text.hidden_size // text.num_attention_heads)
    for layer in range(text.num_hidden_layers):
        cache.update(*torch.randn(2, *size, dtype=model.dtype, device=device), layer)
    inputs = {
        "input_ids": torch.randint(100, (batch, 1), device=device),
        "attention_mask": (torch.arange(context + ROOM, device=device) <= context).expand(batch, 1, 1, -1),
        "position_ids": torch.full((3, batch, 1), context, device=device),
        "past_key_values": cache,
    }

    def step(forward: Callable[..., Any]) -> torch.Tensor:
        for layer in cache.layers:
            layer.cumulative_length.fill_(context)  # the same place again, so that steps are alike
        logits: torch.Tensor = forward(**inputs).logits
        return logits

    return step


def eager(model: Any, step: Step) -> Row:
    return {"ms a step": _median(lambda: step(model.forward))}


def graph(model: Any, step: Step) -> Row:
    expected = step(model.forward).clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(model.forward)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        logits = step(model.forward)
    captured.replay()
    return {"ms a step": _median(captured.replay), "off by": (logits - expected).abs().max().item()}


def compiled(model: Any, step: Step) -> Row:
    expected = step(model.forward).clone()
    forward = torch.compile(model.forward, mode="reduce-overhead", dynamic=False)
    began = time.perf_counter()
    logits = step(forward).clone()
    _wait()
    took = time.perf_counter() - began
    off = (logits - expected).abs().max().item()
    return {"ms a step": _median(lambda: step(forward)), "off by": off, "compiling, s": took}


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
