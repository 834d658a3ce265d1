"""Prefill many prompts with shared prefixes. Used by transformers.py for the families that allow it.

    images          each distinct image goes through the vision tower once (image_encoder.py)
    prefill         prompts with a common prefix (one image, one question; several crops or responses) share it: it
                    runs once, its key-value cache is repeated, and only the suffix runs for each prompt

        |  padding | shared prefix | padding | suffix |       one row a prompt: ids, mask (U, L)

The last token of a prompt is left out: sampling or scoring from the cache runs it first, and gets its logits.

Which families: `shares_prefix` in models/families.py. It takes causal attention, or linear attention
(recurrent_cache.py has its own layout), an image placeholder that is one token repeated, and a model that accepts
ready-made image features (`mm_encoder_outputs`), with those that Qwen3-VL adds to the hidden states of its first layers
(deepstack).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from visrl_data.engines import recurrent_cache
from visrl_data.engines.image_encoder import EncodedImage, ImageEncoder, join_features


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A distinct prompt: its tokens, with one placeholder for each image token, and its images in reading order."""

    ids: list[int]
    pictures: tuple[EncodedImage, ...]


@dataclass(frozen=True, slots=True)
class TokenizedBatch:
    """The distinct prompts of a batch, and the number of each text's among them."""

    distinct: list[TokenizedPrompt]
    rows: list[int]


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """The key-value cache of prompts without their last tokens.

    ids, mask: (U, L) of the U distinct prompts; positions: (..., U, L); deltas: what Qwen-VL adds to the positions
    of later tokens, (U, 1), else None. rows: the number in 0..U-1 of each prompt as requested.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    deltas: torch.Tensor | None
    cache: Any
    rows: list[int]


class Prefiller:
    """Encode images and prefill prompts for one model.

    inner: the model without its output layer. max_images: the most that the vision tower takes at once.
    """

    def __init__(self, inner: Any, processor: Any, device: torch.device, dtype: torch.dtype, max_images: int) -> None:
        self._inner, self._processor = inner, processor
        self._device = device
        self._image_id: int = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        self._is_recurrent = recurrent_cache.is_recurrent(inner.config.get_text_config())
        self.images = ImageEncoder(inner, processor, device, dtype, max_images)

    def prefill(self, batch: TokenizedBatch) -> PrefixCache:
        """Run prompts into a cache."""
        prompts, rows = batch.distinct, batch.rows
        groups, shared = group_by_prefix(prompts, self._image_id)
        places = [g for g, group in enumerate(groups) for _ in group]
        if self._is_recurrent:
            return self._prefill_recurrent(batch, places, shared)
        ids, mask, width = self._lay_out(prompts, groups, shared)
        positions, deltas = self._positions(ids, mask, prompts)
        cache, first = None, [group[0] for group in groups]
        whole = [self._pictures_within(prompt, shared[g]) for prompt, g in zip(prompts, places, strict=True)]
        if width:
            # The prefix runs once for each group, from its first prompt; then its cache is repeated for the others.
            prefix = [prompts[u].pictures[: whole[u]] for u in first]
            cache = self._forward(ids[first, :width], mask[first, :width], positions[..., first, :width], None, prefix)
            if len(groups) < len(prompts):
                cache.batch_select_indices(torch.tensor(places, device=self._device))
        if ids.shape[1] - 1 > width:
            rest = [prompt.pictures[n:] for prompt, n in zip(prompts, whole, strict=True)]
            suffix = slice(width, ids.shape[1] - 1)
            cache = self._forward(ids[:, suffix], mask[:, :-1], positions[..., suffix], cache, rest)
        return PrefixCache(ids, mask, positions, deltas, cache, rows)

    def _prefill_recurrent(self, batch: TokenizedBatch, places: list[int], shared: list[int]) -> PrefixCache:
        """Do the same for a model with linear attention."""
        prompts = batch.distinct
        ids, mask, _ = self._lay_out(prompts, [[*range(len(prompts))]], [0])
        positions, deltas = self._positions(ids, mask, prompts)
        whole = [self._pictures_within(prompt, shared[g]) for prompt, g in zip(prompts, places, strict=True)]

        def forward(
            ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, rows: list[int], prefix: bool
        ) -> Any:
            pictures = [prompts[u].pictures[slice(whole[u]) if prefix else slice(whole[u], None)] for u in rows]
            return self._forward(ids, mask, positions, cache, pictures)

        lengths = [len(prompt.ids) for prompt in prompts]
        laid_out = recurrent_cache.Prompts(ids, mask, positions, lengths, places, shared)
        config, padding = self._inner.config.get_text_config(), self._processor.tokenizer.pad_token_id
        cache = recurrent_cache.prefill(laid_out, config, forward, padding)
        return PrefixCache(ids, mask, positions, deltas, cache, batch.rows)

    def _pictures_within(self, prompt: TokenizedPrompt, length: int) -> int:
        """Count the images whose tokens all lie in the first `length` of a prompt."""
        ends = itertools.accumulate(len(image.features) for image in prompt.pictures)
        inside = prompt.ids[:length].count(self._image_id)
        return sum(end <= inside for end in ends)

    def tokenize(
        self, texts: Sequence[str], images: Sequence[tuple[Image, ...]], adapter: bool, special: bool
    ) -> TokenizedBatch:
        """Tokenize prompts; their images are encoded, which says how many tokens each takes.

        texts: with one placeholder for each of `images`; special: whether the tokenizer adds its beginning of text.
        """
        keys = [(text, *map(id, pictures)) for text, pictures in zip(texts, images, strict=True)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        first = [keys.index(key) for key in numbers]
        encoded = iter(self.images.encode([picture for i in first for picture in images[i]], adapter))
        pictures = [tuple(next(encoded) for _ in images[i]) for i in first]
        expanded = [self._expand(texts[i], shown) for i, shown in zip(first, pictures, strict=True)]
        tokens = self._processor.tokenizer(expanded, add_special_tokens=special, verbose=False)["input_ids"]
        prompts = [TokenizedPrompt(ids, shown) for ids, shown in zip(tokens, pictures, strict=True)]
        return TokenizedBatch(prompts, [numbers[key] for key in keys])

    def _expand(self, text: str, pictures: tuple[EncodedImage, ...]) -> str:
        """Repeat each placeholder of a text as often as its image has tokens."""
        mark = self._processor.image_token
        pieces = text.split(mark)
        if len(pieces) != len(pictures) + 1:
            raise ValueError(f"{len(pieces) - 1} placeholders for {len(pictures)} images in a prompt")
        marks = [mark * len(image.features) for image in pictures]
        return pieces[0] + "".join(m + piece for m, piece in zip(marks, pieces[1:], strict=True))

    def _lay_out(
        self, prompts: list[TokenizedPrompt], groups: list[list[int]], shared: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return ids and mask (U, L) as drawn at the top of this file, and the width of the padded prefix."""
        width = max(shared)
        rest = max(len(prompts[u].ids) - n for group, n in zip(groups, shared, strict=True) for u in group)
        ids = torch.full((len(prompts), width + rest), self._processor.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for group, length in zip(groups, shared, strict=True):
            for u in group:
                tokens = torch.tensor(prompts[u].ids)
                for part, end in ((tokens[:length], width), (tokens[length:], width + rest)):
                    ids[u, end - len(part) : end], mask[u, end - len(part) : end] = part, 1
        return ids.to(self._device), mask.to(self._device), width

    def _positions(
        self, ids: torch.Tensor, mask: torch.Tensor, prompts: list[TokenizedPrompt]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (U, L), or (3, U, L) with deltas for models that place image tokens in three dimensions."""
        if not hasattr(self._inner, "get_rope_index"):
            return (mask.cumsum(dim=1) - 1).clamp(min=0), None
        grids = [image.grid for prompt in prompts for image in prompt.pictures if image.grid is not None]
        positions: tuple[torch.Tensor, torch.Tensor] = self._inner.get_rope_index(
            ids,
            mm_token_type_ids=(ids == self._image_id).int(),
            image_grid_thw=torch.cat(grids) if grids else None,
            attention_mask=mask,
        )
        return positions

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        pictures: Sequence[tuple[EncodedImage, ...]],
    ) -> Any:
        """Return the cache after these tokens. mask: of these and of all before."""
        images = [image for shown in pictures for image in shown]
        output = self._inner(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            mm_encoder_outputs={"image": join_features(images)} if images else None,
        )
        return output.past_key_values

    def set_rope_deltas(self, prefix: PrefixCache, rows: list[int]) -> None:
        """Set the state of models that keep their positions' deltas, for decoding these rows."""
        if prefix.deltas is not None:
            self._inner.rope_deltas = prefix.deltas[rows]


def group_by_prefix(prompts: Sequence[TokenizedPrompt], image_id: int) -> tuple[list[list[int]], list[int]]:
    """Group neighbors with the same first image. Return the groups, and how many tokens the prompts of each share.

    The last token of a prompt is never shared, nor a part of an image. A prompt alone shares all but the last.
    """
    groups: list[list[int]] = []
    for u, prompt in enumerate(prompts):
        before = prompts[groups[-1][0]].pictures[:1] if groups else ()
        if prompt.pictures and prompt.pictures[:1] == before:
            groups[-1].append(u)
        else:
            groups.append([u])
    return groups, [_shared_length([prompts[u] for u in group], image_id) for group in groups]


def _shared_length(group: list[TokenizedPrompt], image_id: int) -> int:
    length = min(len(prompt.ids) for prompt in group) - 1
    first = group[0]
    for other in group[1:]:
        same = (i for i, (a, b) in enumerate(zip(first.ids, other.ids, strict=False)) if a != b)
        length = min(length, next(same, length))
        pictures = zip(first.pictures, other.pictures, strict=False)
        alike = next((n for n, (a, b) in enumerate(pictures) if a is not b), len(first.pictures))
        if alike < len(first.pictures):
            length = min(length, _image_start(first, alike, image_id))
    return length


def _image_start(prompt: TokenizedPrompt, number: int, image_id: int) -> int:
    """Return where the tokens of the prompt's image of this number begin."""
    before = sum(len(image.features) for image in prompt.pictures[:number])
    return [i for i, token in enumerate(prompt.ids) if token == image_id][before]
