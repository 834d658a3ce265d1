"""Merge the rows of a pair that share a prefix into one row with branches: the language model reads the prefix once.

Both boxes of a pair follow one image and one question; so do both responses, with one more crop. The four rows
repeat almost all of their tokens. Used by collator.py, after the rows are encoded:

    image question request | win box | lose box | crop request | win response | lose response

Each row keeps its tokens, positions and labels, and every token attends to the same tokens as in a row of its own:
those before it on its path through the branches, by a full attention mask (L, L). So all log-probabilities equal
those of separate rows. A branch that carries loss begins with a copy of the last token of its prompt, so that
each token predicts the one after it.

The shared prefix is found by comparing tokens and images, for any prompt and chat template. branching() decides, by
the model, whether rows are merged at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from visrl_data.engines.recurrent_cache import is_recurrent
from visrl_data.models.families import family_of_model
from visrl_train.image_features import encoder, select

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Branches:
    """Merges rows for one model.

    placeholder: the image token; padding: any other token. rope_index: Qwen's positions on three axes (3, B, L), from
    input_ids and the sizes of the images; None for a model with plain positions.
    """

    placeholder: int
    padding: int
    rope_index: Callable[..., Any] | None = None

    def join(self, rows: Batch, groups: Sequence[Sequence[int]]) -> Batch:
        """Merge R rows, as Turns.encode returns them, into one row for each of G groups.

        groups: the indices of the rows, each in one group. Returns input_ids, completion_mask (G, L); attention_mask
        (G, 1, L, L), true where a token attends to another; position_ids (G, L) or (3, G, L); completions (R, 3): the
        merged row that holds the completion of each row, its first token and the one after its last; and the tensors
        of the images that remain.
        """
        keys = self._keys(rows)
        if keys is None:
            return rows
        starts = rows["completion_mask"].argmax(dim=1).tolist()
        trees = [_lay_out(keys, starts, group) for group in groups]
        length = max(len(tree.tokens) for tree in trees)
        positions = self._positions(rows)
        size = (len(trees), length)
        joined = {
            "input_ids": torch.full(size, self.padding),
            "attention_mask": torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1, 1),
            "position_ids": positions.new_zeros(*positions.shape[:-2], *size),
            "completion_mask": torch.zeros(size, dtype=torch.long),
            "completions": torch.zeros(len(keys), 3, dtype=torch.long),
        }
        for i, tree in enumerate(trees):
            row_index, position = torch.tensor(tree.tokens).unbind(dim=1)
            joined["input_ids"][i, : len(tree.tokens)] = rows["input_ids"][row_index, position]
            joined["position_ids"][..., i, : len(tree.tokens)] = positions[..., row_index, position]
            for row, places in tree.paths.items():
                path = torch.tensor(places)
                joined["attention_mask"][i, 0, path[:, None], path] = torch.ones(len(path), len(path)).tril().bool()
                first, end = places[starts[row]], places[-1] + 1
                joined["completion_mask"][i, first:end] = 1
                joined["completions"][row] = torch.tensor([i, first, end])
        kept = _remaining_images(keys, trees)
        return {**joined, "pictures": rows["pictures"][kept], **select(rows, kept)}

    def _keys(self, rows: Batch) -> list[list[int]] | None:
        """Return each row's tokens, with -1 - its number for an image: equal keys are equal inputs.

        None if the placeholders of two images can't be separated, as when they are adjacent.
        """
        numbers = rows["pictures"].tolist()[::-1]
        lengths = rows["attention_mask"].sum(dim=1).tolist()
        keys: list[list[int]] = []
        for ids, length in zip(rows["input_ids"].tolist(), lengths, strict=True):
            keys.append([])
            for token, run in itertools.groupby(ids[:length]):
                if token == self.placeholder:
                    if not numbers:
                        return None
                    token = -1 - numbers.pop()
                keys[-1] += [token for _ in run]
        return None if numbers else keys

    def _positions(self, rows: Batch) -> torch.Tensor:
        """Return the position of each token in its own row: (R, L) or (3, R, L)."""
        ids = rows["input_ids"]
        if self.rope_index is None:
            return torch.arange(ids.shape[1]).expand(ids.shape)
        names = ("mm_token_type_ids", "image_grid_thw", "attention_mask")
        positions: torch.Tensor = self.rope_index(ids, **{name: rows[name] for name in names})[0]
        return positions


def branching(model: Any, processor: Any) -> Branches | None:
    """Return how rows of this model are merged; None where they stay separate, which gives the same losses.

    It needs a family that can share prefixes, and attention that applies a given mask unchanged: torch's own, without
    a sliding window, which the mask would override. Linear attention (Qwen3.5) applies none: its state has read all
    tokens before, those of other branches too.
    """
    inner = encoder(model)
    if inner is None or not family_of_model(inner).shares_prefix:
        return None
    text = inner.config.get_text_config()
    if is_recurrent(text) or text._attn_implementation != "sdpa" or getattr(text, "sliding_window", None) is not None:
        return None
    placeholder, padding = processor.image_token_id, processor.tokenizer.pad_token_id
    return Branches(placeholder, padding, _rope_index(inner))


def sums(log_probs: torch.Tensor, completions: torch.Tensor | None) -> torch.Tensor:
    """Sum log-probabilities (B, L - 1) of each token after the first over each row's completion: (R,).

    completions: those of Branches.join; None for rows that were not merged.
    """
    if completions is None:
        return log_probs.sum(dim=1)
    return torch.stack([log_probs[i, first - 1 : end - 1].sum() for i, first, end in completions.tolist()])


def lengths(batch: Batch) -> torch.Tensor:
    """Return the number of tokens of each row's completion, (R,), in a batch of merged or separate rows."""
    if "completions" in batch:
        return batch["completions"][:, 2] - batch["completions"][:, 1]
    return batch["completion_mask"].sum(dim=1)


def _rope_index(inner: Any) -> Callable[..., Any] | None:
    """Return Qwen's method, bound to a model without weights, since the collator may go to another process."""
    if not hasattr(inner, "get_rope_index"):
        return None
    bare: Any = object.__new__(type(inner))
    nn.Module.__init__(bare)
    bare.config = inner.config
    index: Callable[..., Any] = bare.get_rope_index
    return index


@dataclass(frozen=True, slots=True)
class _Tree:
    """Rows of a group laid out one after another, each without the prefix that it shares with an earlier one.

    tokens: (row, position in it) of each. paths: where each row's tokens are. shared: how many are an earlier row's.
    """

    tokens: list[tuple[int, int]]
    paths: dict[int, list[int]]
    shared: dict[int, int]


def _lay_out(keys: list[list[int]], starts: list[int], group: Sequence[int]) -> _Tree:
    """Lay out a group of rows. starts: where each row's completion begins; the token before it is never shared."""
    tree = _Tree([], {}, {})
    for row in group:
        # The token before a completion is left out of the prefix: it is copied, since it predicts in each branch.
        prefixes = [
            (_common_prefix(keys[row], keys[other], min(starts[row], starts[other]) - 1), other) for other in tree.paths
        ]
        shared, other = max(prefixes, default=(0, row))
        before, length = len(tree.tokens), len(keys[row])
        tree.paths[row] = [*tree.paths.get(other, [])[:shared], *range(before, before + length - shared)]
        tree.shared[row] = shared
        tree.tokens.extend((row, position) for position in range(shared, length))
    return tree


def _common_prefix(row: list[int], other: list[int], limit: int) -> int:
    """Return the length of the common prefix of two rows, at most `limit`; no image is cut."""
    count = next((i for i in range(limit) if row[i] != other[i]), limit)
    while count and row[count] < 0 and row[count] == row[count - 1]:
        count -= 1
    return count


def _remaining_images(keys: list[list[int]], trees: list[_Tree]) -> list[int]:
    """Return the indices of the rows' images that the trees still contain, in reading order."""
    ends = list(itertools.accumulate(map(_count_images, keys)))
    kept: list[int] = []
    for tree in trees:
        for row, shared in tree.shared.items():
            kept += range(ends[row] - _count_images(keys[row][shared:]), ends[row])
    return kept


def _count_images(keys: list[int]) -> int:
    """Count the images of a row, or of a part of it that cuts none."""
    return sum(key < 0 for key, _ in itertools.groupby(keys))
