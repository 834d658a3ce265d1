"""Rows of a pair that begin alike become one row with branches: the language model reads the beginning once.

The boxes of win and lose stand under one image and one question; so do both responses, under one crop more. Of
four rows almost all is said four times. Used by collator.py, after the rows are encoded:

    image question request | win box | lose box | crop request | win response | lose response

Each row keeps its tokens, its positions and its labels, and every token sees what it saw in a row of its own:
what lies before it on its own path through the branches, by an attention mask of the whole square. So all
log-probabilities are those of the rows apart. A branch that carries loss begins with the last token of its prompt,
said anew, so that the token after each one is the one that it predicts.

Rows share what they are found to share: tokens and pictures from the first on, whatever prompts and template
make of them. branching() decides, by the model, whether rows are joined at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from visrl_data.models.families import family_of
from visrl_train.image_features import encoder, only

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Branches:
    """How rows of one model are joined.

    placeholder: the token that stands for pictures; padding: any other one. rope_index: Qwen's positions of three
    axes (3, B, L), from input_ids and the pictures' sizes; None for a model that counts tokens.
    """

    placeholder: int
    padding: int
    rope_index: Callable[..., Any] | None = None

    def join(self, rows: Batch, groups: Sequence[Sequence[int]]) -> Batch:
        """What Turns.encode made of R rows, with `pictures` -> the same with a row for each of G groups of them.

        groups: the numbers of the rows, each in one group. input_ids, completion_mask (G, L); attention_mask
        (G, 1, L, L), true where a token sees another; position_ids (G, L) or (3, G, L); completions (R, 3): in
        which row of the batch the completion of each row is, its first token and the one after its last;
        and the pictures that are left.
        """
        keys = self._keys(rows)
        if keys is None:
            return rows
        starts = rows["completion_mask"].argmax(dim=1).tolist()
        trees = [_laid_out(keys, starts, group) for group in groups]
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
            which, place = torch.tensor(tree.tokens).unbind(dim=1)
            joined["input_ids"][i, : len(tree.tokens)] = rows["input_ids"][which, place]
            joined["position_ids"][..., i, : len(tree.tokens)] = positions[..., which, place]
            for row, places in tree.paths.items():
                path = torch.tensor(places)
                joined["attention_mask"][i, 0, path[:, None], path] = torch.ones(len(path), len(path)).tril().bool()
                first, end = places[starts[row]], places[-1] + 1
                joined["completion_mask"][i, first:end] = 1
                joined["completions"][row] = torch.tensor([i, first, end])
        kept = _pictures(keys, trees)
        return {**joined, "pictures": rows["pictures"][kept], **only(rows, kept)}

    def _keys(self, rows: Batch) -> list[list[int]] | None:
        """Each row's tokens, -1 - its number where a picture stands: what has equal keys is the same to the model.

        None if the placeholders don't tell the pictures apart, as when two stand side by side.
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
        """Of each token in its own row: (R, L) or (3, R, L)."""
        ids = rows["input_ids"]
        if self.rope_index is None:
            return torch.arange(ids.shape[1]).expand(ids.shape)
        names = ("mm_token_type_ids", "image_grid_thw", "attention_mask")
        positions: torch.Tensor = self.rope_index(ids, **{name: rows[name] for name in names})[0]
        return positions


def branching(model: Any, processor: Any) -> Branches | None:
    """How rows of this model are joined; None where each stays on its own, which gives the same losses.

    It needs a family whose texts can share their beginning, and attention that takes a mask as it is given: torch's
    own, without a sliding window, which the mask would undo.
    """
    inner = encoder(model)
    if inner is None or not family_of(inner.config.model_type).shares_prefix:
        return None
    text = inner.config.get_text_config()
    if text._attn_implementation != "sdpa" or getattr(text, "sliding_window", None) is not None:
        return None
    placeholder, padding = processor.image_token_id, processor.tokenizer.pad_token_id
    return Branches(placeholder, padding, _rope_index(inner))


def sums(log_probs: torch.Tensor, completions: torch.Tensor | None) -> torch.Tensor:
    """Log-probabilities (B, L - 1) of each token after the first -> (R,), summed over each row's completion.

    completions: of Branches.join; None for rows that were not joined.
    """
    if completions is None:
        return log_probs.sum(dim=1)
    return torch.stack([log_probs[i, first - 1 : end - 1].sum() for i, first, end in completions.tolist()])


def lengths(batch: Batch) -> torch.Tensor:
    """How many tokens each row's completion has, (R,), in a batch of joined rows or of rows apart."""
    if "completions" in batch:
        return batch["completions"][:, 2] - batch["completions"][:, 1]
    return batch["completion_mask"].sum(dim=1)


def _rope_index(inner: Any) -> Callable[..., Any] | None:
    """Qwen's own method, on a model without weights: the collator may go to another process."""
    if not hasattr(inner, "get_rope_index"):
        return None
    bare: Any = object.__new__(type(inner))
    nn.Module.__init__(bare)
    bare.config = inner.config
    index: Callable[..., Any] = bare.get_rope_index
    return index


@dataclass(frozen=True, slots=True)
class _Tree:
    """Rows of a group laid out one after another, each without the beginning that it shares with an earlier one.

    tokens: (row, place in it) of each. paths: where each row's tokens lie. shared: how many are an earlier row's.
    """

    tokens: list[tuple[int, int]]
    paths: dict[int, list[int]]
    shared: dict[int, int]


def _laid_out(keys: list[list[int]], starts: list[int], group: Sequence[int]) -> _Tree:
    """starts: where each row's completion begins; the token before it is never shared."""
    tree = _Tree([], {}, {})
    for row in group:
        found = [(_alike(keys[row], keys[other], min(starts[row], starts[other]) - 1), other) for other in tree.paths]
        shared, other = max(found, default=(0, row))
        before, length = len(tree.tokens), len(keys[row])
        tree.paths[row] = [*tree.paths.get(other, [])[:shared], *range(before, before + length - shared)]
        tree.shared[row] = shared
        tree.tokens.extend((row, place) for place in range(shared, length))
    return tree


def _alike(row: list[int], other: list[int], most: int) -> int:
    """How many first tokens two rows have in common, at most so many; none of a picture that is not whole."""
    count = next((i for i in range(most) if row[i] != other[i]), most)
    while count and row[count] < 0 and row[count] == row[count - 1]:
        count -= 1
    return count


def _pictures(keys: list[list[int]], trees: list[_Tree]) -> list[int]:
    """Which of the rows' pictures the trees still show, in reading order."""
    ends = list(itertools.accumulate(map(_count, keys)))
    kept: list[int] = []
    for tree in trees:
        for row, shared in tree.shared.items():
            kept += range(ends[row] - _count(keys[row][shared:]), ends[row])
    return kept


def _count(keys: list[int]) -> int:
    """The pictures of a row, or of a part of it that cuts none."""
    return sum(key < 0 for key, _ in itertools.groupby(keys))
