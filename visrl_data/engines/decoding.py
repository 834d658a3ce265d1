"""How the transformers engine turns scores into replies: keyed sampling, and the probabilities of choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from visrl_data.engines import Reply, Sampling
from visrl_data.errors import VisRLError
from visrl_data.seeds import generator


class KeyedSampler(LogitsProcessor):
    """Draws each row's token from its own stream; returns scores that leave only that token.

    scores: (rows, vocabulary). Temperature, then top-k, then top-p (the smallest set whose probability
    reaches top_p), as transformers' own warpers define them.
    """

    def __init__(self, sampling: Sampling, seeds: list[int]) -> None:
        self._sampling = sampling
        self._streams = [generator(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64)
        k = self._sampling.top_k or scores.shape[-1]
        top, order = scores.float().cpu().topk(min(k, scores.shape[-1]), dim=-1)  # (rows, k), falling
        probs = torch.softmax(top.double() / self._sampling.temperature, dim=-1)
        before = probs.cumsum(dim=-1) - probs
        probs = torch.where(before < self._sampling.top_p, probs, 0.0)
        cumulative = probs.cumsum(dim=-1)
        drawn = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(dim=-1, keepdim=True)
        drawn = drawn.clamp(max=probs.shape[-1] - 1)
        token = order.gather(-1, drawn).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token, 0.0)


def branch_nodes(tokenizer: Any, prefix: str, choices: tuple[str, ...]) -> dict[tuple[int, ...], dict[int, list[int]]]:
    """The branching nodes of the tree of the choices' tokens: path -> {next token: choices below it}.

    Raises VisRLError when the nodes do not lie on one path, so that one forward could not read them.
    """
    start = len(tokenizer(prefix, add_special_tokens=False)["input_ids"])
    paths = [tokenizer(prefix + c, add_special_tokens=False)["input_ids"][start:] for c in choices]
    tree: dict[tuple[int, ...], dict[int, list[int]]] = {}
    for index, path in enumerate(paths):
        for depth, token in enumerate(path):
            tree.setdefault(tuple(path[:depth]), {}).setdefault(token, []).append(index)
    nodes = {path: below for path, below in tree.items() if len(below) > 1}
    deepest = max(nodes, key=len, default=())
    if not nodes or any(deepest[: len(path)] != path for path in nodes):
        raise VisRLError(
            "This model's tokenizer splits the scores so that their probabilities can't be read in one forward. "
            "Use --score-mode text."
        )
    return nodes


def choice_reply(
    probs: np.ndarray, branches: dict[tuple[int, ...], dict[int, list[int]]], choices: tuple[str, ...], tokens: int
) -> Reply:
    """probs: (positions, vocabulary), the position after 0, 1, ... tokens of the deepest path."""
    weights = np.ones(len(choices))
    for path, below in branches.items():
        for token, indices in below.items():
            weights[indices] *= probs[len(path), token]
    mass = float(weights.sum())
    return Reply("", "stop", tokens, 0, tuple((weights / mass).tolist()), mass)
