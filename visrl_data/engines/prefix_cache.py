"""Reading many prompts at the cost of their differences. Used by transformers.py for the families that can.

    look        each distinct picture goes through the vision tower once, and its features are kept: an image is
                asked about in the focus pass, the answer pass and by the response critic, a crop in the answer pass
                and by the box critic
    read        prompts that begin alike (one image, one question; several crops or responses) share the beginning:
                it is read once, its key-value cache repeated, and only what follows is read for each

        |  padding | shared beginning | padding | what follows |       one row a prompt: ids, mask (U, L)

The last token of a prompt is not read here: whoever goes on from the cache (sampling, scoring) reads it first, and
gets its scores.

Which families: `shares_prefix` in models/families.py. Needed: plain causal attention, an image placeholder that
is one token repeated, and features that the model takes ready-made (`mm_encoder_outputs`).
"""

from __future__ import annotations

import inspect
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from visrl_data.engines.refusals import PROCESSOR_ERRORS, raise_refusals

KEPT_BYTES = 1 << 30  # of features, on the model's device


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """A picture as the model sees it. features: (tokens, D); grid: (1, 3) patches, for families that need it.

    The same picture, by the same weights, is the same object.
    """

    image: Image  # held, so that its id stays its own
    features: torch.Tensor
    grid: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A distinct prompt: its tokens, placeholders spread out, and its pictures in reading order."""

    ids: list[int]
    pictures: tuple[EncodedImage, ...]


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """Prompts in a cache, all but their last tokens.

    ids, mask: (U, L) of the U distinct prompts; positions: (..., U, L); deltas: what Qwen-VL adds to the positions
    of later tokens, (U, 1), else None. rows: for each text that was given, which of the U it is.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    deltas: torch.Tensor | None
    cache: Any
    rows: list[int]


def accepts_image_features(inner: Any) -> bool:
    """Whether this release of transformers takes a model's picture features ready-made."""
    return "mm_encoder_outputs" in inspect.signature(inner.forward).parameters


class Prefiller:
    """inner: the model without its output layer. at_once: most pictures that the vision tower is given."""

    def __init__(self, inner: Any, processor: Any, device: torch.device, dtype: torch.dtype, at_once: int) -> None:
        self._inner, self._processor = inner, processor
        self._device, self._dtype, self._at_once = device, dtype, at_once
        self._image_id: int = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        self._kept: OrderedDict[tuple[int, bool], EncodedImage] = OrderedDict()
        adapted = [name for name, _ in inner.named_parameters() if "lora_" in name]
        self._eyes_adapted = any(not name.startswith("language_model.") for name in adapted)

    def clear(self) -> None:
        """Let go of the kept features."""
        self._kept.clear()

    def encode_images(self, pictures: Sequence[Image], adapter: bool) -> list[EncodedImage]:
        """Each picture's features, made now or kept from before. The same picture is the same object."""
        keys = [(id(picture), adapter and self._eyes_adapted) for picture in pictures]
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._kept}
        todo = list(new.items())
        for start in range(0, len(todo), self._at_once):
            part = todo[start : start + self._at_once]
            for (key, _), seen in zip(part, self._encode([picture for _, picture in part]), strict=True):
                self._kept[key] = seen
        for key in keys:
            self._kept.move_to_end(key)
        found = [self._kept[key] for key in keys]
        size = sum(seen.features.nbytes for seen in self._kept.values())
        while size > KEPT_BYTES and len(self._kept) > 1:
            size -= self._kept.popitem(last=False)[1].features.nbytes
        return found

    def _encode(self, pictures: list[Image]) -> list[EncodedImage]:
        with raise_refusals(*PROCESSOR_ERRORS):
            made = self._processor(
                text=[self._processor.image_token] * len(pictures),
                images=[[picture] for picture in pictures],
                padding=True,
                return_tensors="pt",
            )
        wanted = ("pixel_values", "image_grid_thw", "image_sizes")
        inputs = {name: made[name].to(self._device) for name in wanted if name in made}
        inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
        features = self._inner.get_image_features(**inputs, return_dict=True).pooler_output
        grids = inputs.get("image_grid_thw")
        return [
            EncodedImage(picture, features[i], None if grids is None else grids[i : i + 1])
            for i, picture in enumerate(pictures)
        ]

    def prefill(
        self, texts: Sequence[str], images: Sequence[tuple[Image, ...]], adapter: bool, special: bool
    ) -> PrefixCache:
        """Prompts into a cache.

        texts: with one placeholder for each of `images`; special: whether the tokenizer adds its beginning of text.
        """
        prompts, rows = self._prompts(texts, images, adapter, special)
        groups, shared = group_by_prefix(prompts, self._image_id)
        ids, mask, width = self._laid_out(prompts, groups, shared)
        positions, deltas = self._positions(ids, mask, prompts)
        cache, first = None, [group[0] for group in groups]
        places = [g for g, group in enumerate(groups) for _ in group]
        whole = [self._pictures_within(prompt, shared[g]) for prompt, g in zip(prompts, places, strict=True)]
        if width:
            begun = [prompts[u].pictures[: whole[u]] for u in first]
            cache = self._forward(ids[first, :width], mask[first, :width], positions[..., first, :width], None, begun)
            if len(groups) < len(prompts):
                cache.batch_select_indices(torch.tensor(places, device=self._device))
        if ids.shape[1] - 1 > width:
            rest = [prompt.pictures[n:] for prompt, n in zip(prompts, whole, strict=True)]
            follows = slice(width, ids.shape[1] - 1)
            cache = self._forward(ids[:, follows], mask[:, :-1], positions[..., follows], cache, rest)
        return PrefixCache(ids, mask, positions, deltas, cache, rows)

    def _pictures_within(self, prompt: TokenizedPrompt, length: int) -> int:
        """How many pictures lie in the first tokens of a prompt."""
        ends = itertools.accumulate(len(seen.features) for seen in prompt.pictures)
        inside = prompt.ids[:length].count(self._image_id)
        return sum(end <= inside for end in ends)

    def _prompts(
        self, texts: Sequence[str], images: Sequence[tuple[Image, ...]], adapter: bool, special: bool
    ) -> tuple[list[TokenizedPrompt], list[int]]:
        """The distinct prompts, and which of them each text is."""
        keys = [(text, *map(id, pictures)) for text, pictures in zip(texts, images, strict=True)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        first = [keys.index(key) for key in numbers]
        seen = iter(self.encode_images([picture for i in first for picture in images[i]], adapter))
        pictures = [tuple(next(seen) for _ in images[i]) for i in first]
        spread = [self._spread(texts[i], shown) for i, shown in zip(first, pictures, strict=True)]
        made = self._processor.tokenizer(spread, add_special_tokens=special)["input_ids"]
        prompts = [TokenizedPrompt(ids, shown) for ids, shown in zip(made, pictures, strict=True)]
        return prompts, [numbers[key] for key in keys]

    def _spread(self, text: str, pictures: tuple[EncodedImage, ...]) -> str:
        """The text with each placeholder repeated as often as its picture has tokens."""
        mark = self._processor.image_token
        pieces = text.split(mark)
        if len(pieces) != len(pictures) + 1:
            raise ValueError(f"{len(pieces) - 1} places for {len(pictures)} pictures in a prompt")
        marks = [mark * len(seen.features) for seen in pictures]
        return pieces[0] + "".join(m + piece for m, piece in zip(marks, pieces[1:], strict=True))

    def _laid_out(
        self, prompts: list[TokenizedPrompt], groups: list[list[int]], shared: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """ids and mask (U, L) as in the head of this file, and the width of the shared part with its padding."""
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
        """(U, L), or (3, U, L) with deltas for models that place a picture's tokens in three dimensions."""
        if not hasattr(self._inner, "get_rope_index"):
            return (mask.cumsum(dim=1) - 1).clamp(min=0), None
        grids = [seen.grid for prompt in prompts for seen in prompt.pictures if seen.grid is not None]
        found: tuple[torch.Tensor, torch.Tensor] = self._inner.get_rope_index(
            ids,
            mm_token_type_ids=(ids == self._image_id).int(),
            image_grid_thw=torch.cat(grids) if grids else None,
            attention_mask=mask,
        )
        return found

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        pictures: Sequence[tuple[EncodedImage, ...]],
    ) -> Any:
        """The cache after these tokens. mask: of these and of all before."""
        features: Any = [seen.features for shown in pictures for seen in shown]
        ready = {"image": BaseModelOutputWithPooling(pooler_output=features)} if features else None
        made = self._inner(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            mm_encoder_outputs=ready,
        )
        return made.past_key_values

    def set_rope_deltas(self, read: PrefixCache, rows: list[int]) -> None:
        """Set the state of models that keep their positions' deltas, for decoding these rows."""
        if read.deltas is not None:
            self._inner.rope_deltas = read.deltas[rows]


def group_by_prefix(prompts: Sequence[TokenizedPrompt], image_id: int) -> tuple[list[list[int]], list[int]]:
    """Neighbours that begin with the same picture, as groups, and how many tokens all of a group begin with.

    At least one token of a prompt is never shared, nor a part of a picture. Of a prompt alone all but the last is.
    """
    groups: list[list[int]] = []
    for u, prompt in enumerate(prompts):
        before = prompts[groups[-1][0]].pictures[:1] if groups else ()
        if prompt.pictures and prompt.pictures[:1] == before:
            groups[-1].append(u)
        else:
            groups.append([u])
    return groups, [_shared([prompts[u] for u in group], image_id) for group in groups]


def _shared(group: list[TokenizedPrompt], image_id: int) -> int:
    length = min(len(prompt.ids) for prompt in group) - 1
    first = group[0]
    for other in group[1:]:
        same = (i for i, (a, b) in enumerate(zip(first.ids, other.ids, strict=False)) if a != b)
        length = min(length, next(same, length))
        pictures = zip(first.pictures, other.pictures, strict=False)
        alike = next((n for n, (a, b) in enumerate(pictures) if a is not b), len(first.pictures))
        if alike < len(first.pictures):
            length = min(length, _start(first, alike, image_id))
    return length


def _start(prompt: TokenizedPrompt, number: int, image_id: int) -> int:
    """Where the tokens of the prompt's picture of this number begin."""
    before = sum(len(seen.features) for seen in prompt.pictures[:number])
    return [i for i, token in enumerate(prompt.ids) if token == image_id][before]
