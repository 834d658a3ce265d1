"""Prefill prompts with shared prefixes into a model with linear attention (Qwen3.5). Used by prefix_cache.py.

A layer of linear attention keeps a state in place of keys and values. The state has read all tokens before it: it can
be copied at the end of a prefix, but neither cut nor, since padding makes it decay, padded after that. So

    |  padding | shared prefix |             one row a group: it runs once, and is copied for each prompt
               | suffix |                    prompts whose suffixes have one length run together
    |    padding | shared prefix suffix |    all prompts, as one cache: keys are padded on the left, states are joined
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

STATEFUL = frozenset({"linear_attention", "conv"})
"""Layer types that keep a state in place of keys and values."""


def is_recurrent(config: Any) -> bool:
    """Return whether a language model has layers that keep a state, by its configuration."""
    return not STATEFUL.isdisjoint(getattr(config, "layer_types", None) or ())


@dataclass(frozen=True, slots=True)
class Prompts:
    """U prompts, padded on the left, in G groups.

    ids, mask: (U, L); positions: (..., U, L). lengths: of each prompt. places: the group of each. shared: how many
    tokens the prompts of each group share.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    lengths: list[int]
    places: list[int]
    shared: list[int]

    def suffix_length(self, u: int) -> int:
        """Return how many tokens of a prompt run after its prefix; its last token runs later."""
        return self.lengths[u] - 1 - self.shared[self.places[u]]


def prefill(prompts: Prompts, config: Any, forward: Callable[..., Any], padding: int) -> Any:
    """Run prompts, without their last tokens, into a cache of their order.

    config: of the language model. forward: (ids, mask, positions, cache, prompt numbers, is prefix) -> cache.
    """
    before, prefix_mask = _prefill_prefixes(prompts, forward, padding)
    pieces: list[list[int]] = []
    caches = []
    for length in sorted({prompts.suffix_length(u) for u in range(len(prompts.ids))}):
        piece = [u for u in range(len(prompts.ids)) if prompts.suffix_length(u) == length]
        groups = [prompts.places[u] for u in piece]
        cache = None if before is None else gather([before], groups, config)
        if length:
            place = slice(-1 - length, -1)
            mask = functional.pad(prefix_mask[groups], (0, length), value=1)
            cache = forward(prompts.ids[piece, place], mask, prompts.positions[..., piece, place], cache, piece, False)
        pieces.append(piece)
        caches.append(cache)
    places = {u: row for row, u in enumerate(u for piece in pieces for u in piece)}
    return gather(caches, [places[u] for u in range(len(places))], config, prompts.ids.shape[1] - 1)


def _prefill_prefixes(prompts: Prompts, forward: Callable[..., Any], padding: int) -> tuple[Any, torch.Tensor]:
    """Run the prefix of each group, from its first prompt. Return the cache and its mask (G, W); none without."""
    width, device = max(prompts.shared), prompts.ids.device
    first = [prompts.places.index(group) for group in range(len(prompts.shared))]
    ends = [prompts.ids.shape[1] - prompts.lengths[u] + n for u, n in zip(first, prompts.shared, strict=True)]
    columns = torch.tensor(ends, device=device)[:, None] + torch.arange(-width, 0, device=device)
    mask = torch.arange(width, 0, -1, device=device) <= torch.tensor(prompts.shared, device=device)[:, None]
    columns = columns.clamp(min=0)
    positions = prompts.positions[..., first, :]
    if not width:
        return None, mask.int()
    ids = prompts.ids[first].gather(1, columns).masked_fill(~mask, padding)
    positions = positions.gather(-1, columns.expand(*positions.shape[:-1], -1))
    return forward(ids, mask.int(), positions, None, first, True), mask.int()


def gather(caches: Sequence[Any], rows: list[int], config: Any, length: int | None = None) -> Any:
    """Return a new cache of these rows of several, counted through. length: of the keys, padded or cut on the left."""
    cache = DynamicCache(config=config)
    for number, layers in enumerate(zip(*(each.layers for each in caches), strict=True)):
        copy_layer(layers, rows, cache, number, length)
    return cache


def copy_layer(layers: Sequence[Any], rows: Any, cache: Any, number: int, length: int | None = None) -> None:
    """Copy rows of a layer of several caches to an empty cache's layer of this number."""
    if hasattr(layers[0], "recurrent_states"):
        cache.update_conv_state(torch.cat([layer.conv_states[0] for layer in layers])[rows], number)
        cache.update_recurrent_state(torch.cat([layer.recurrent_states[0] for layer in layers])[rows], number)
        return
    keys, values = (
        torch.cat([_aligned(states, length) for states in parts])[rows]
        for parts in zip(*((layer.keys, layer.values) for layer in layers), strict=True)
    )
    cache.update(keys, values, number)


def _aligned(states: torch.Tensor, length: int | None) -> torch.Tensor:
    """Return keys or values (B, heads, L, D) with a length of their own: what is cut off is padding."""
    return states if length is None else functional.pad(states, (0, 0, length - states.shape[2], 0))
