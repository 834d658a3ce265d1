"""Turn logits into replies, for the transformers engine: keyed sampling, grammars, and the probabilities of choices."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from visrl_data.core.errors import VisRLError
from visrl_data.core.seeds import generator
from visrl_data.engines.protocol import Reply, Sampling


class KeyedSampler(LogitsProcessor):
    """Draw each row's token from its own random stream, and mask all others.

    scores: (rows, vocabulary). Temperature, then top-k, then top-p (the smallest set whose probability
    reaches top_p), as transformers' own warpers define them.
    """

    def __init__(self, sampling: Sampling, seeds: list[int]) -> None:
        self._sampling = sampling
        self._streams = [generator(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64)
        k = self._sampling.top_k or scores.shape[-1]
        highest = scores.float().topk(min(k, scores.shape[-1]), dim=-1)  # (rows, k), falling; on the scores' device
        top, order = (part.cpu() for part in highest)
        probs = torch.softmax(top.double() / self._sampling.temperature, dim=-1)
        before = probs.cumsum(dim=-1) - probs
        probs = torch.where(before < self._sampling.top_p, probs, 0.0)
        cumulative = probs.cumsum(dim=-1)
        drawn = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(dim=-1, keepdim=True)
        drawn = drawn.clamp(max=probs.shape[-1] - 1)
        token = order.gather(-1, drawn).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token, 0.0)


class ForcedTokens(LogitsProcessor):
    """Force the same tokens in all rows, one a step, then leave the scores as they are."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = list(tokens)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._tokens:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._tokens.pop(0)] = 0.0
        return forced


class LogprobRecorder(LogitsProcessor):
    """Note the log-probability of each new token at temperature 1; change nothing.

    Before the sampler, so that it sees the logits as they came, and behind a grammar, as in vLLM. The token that was
    chosen from them is known a step later.
    """

    def __init__(self) -> None:
        self._scores: torch.Tensor | None = None  # (rows, vocabulary), of the last step
        self._logprobs: list[torch.Tensor] = []  # (rows,) for each token

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        self._note(input_ids[:, -1])
        self._scores = scores
        return scores

    def read(self, ids: torch.Tensor) -> list[list[float]]:
        """Return for each row of what was generated, ids (rows, length), the log-probabilities of its new tokens."""
        self._note(ids[:, -1])
        self._scores = None
        return torch.stack(self._logprobs, dim=1).tolist()

    def _note(self, tokens: torch.Tensor) -> None:
        if self._scores is not None:
            chosen = self._scores.gather(1, tokens[:, None])[:, 0].float()
            self._logprobs.append(chosen - self._scores.float().logsumexp(dim=-1))


NAMED_TOKEN = re.compile(r'"(<[^<>"]+>)"')
_MAX_GRAMMARS = 256  # kept compiled: those of boxes in pixels differ by the size of the image


class GrammarCompiler:
    """Compile grammars for one tokenizer, each once.

    Raises VisRLError when the package for grammars is not installed.
    """

    def __init__(self, tokenizer: Any, eos: list[int]) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self._tokenizers: dict[int, Any] = {}  # by the width of the logits
        self._compiled: dict[tuple[str, int], Any] = {}

    def processor(self, grammars: Sequence[str]) -> GrammarLogitsProcessor:
        """Return the logits processor for a batch with these grammars, one a row."""
        return GrammarLogitsProcessor(self, grammars)

    def matchers(self, grammars: Sequence[str], width: int) -> list[Any]:
        """Return one matcher a row, for logits of this width."""
        try:
            from llguidance import LLMatcher, hf
        except ImportError as error:
            raise VisRLError("--constrain needs a package that reads grammars: pip install '.[grammar]'") from error
        if width not in self._tokenizers:
            self._tokenizers[width] = hf.from_tokenizer(self._tokenizer, n_vocab=width, eos_token=self._eos)
        if len(self._compiled) > _MAX_GRAMMARS:
            self._compiled.clear()
        for text in dict.fromkeys(grammars):
            if (text, width) in self._compiled:
                continue
            matcher = LLMatcher(self._tokenizers[width], with_tokens(text, self._tokenizer.get_added_vocab()))
            if matcher.is_error():
                raise VisRLError(
                    f"This tokenizer does not support the grammar {text.splitlines()[0]!r}: {matcher.get_error()}"
                )
            self._compiled[text, width] = matcher
        return [self._compiled[text, width].deep_copy() for text in grammars]


def with_tokens(grammar: str, added: Collection[str]) -> str:
    """Turn a grammar's quoted marks that are single tokens, among a tokenizer's added ones, into these tokens."""
    return NAMED_TOKEN.sub(lambda match: match[1] if match[1] in added else match[0], grammar)


class GrammarLogitsProcessor(LogitsProcessor):
    """Mask each row's tokens but those that its grammar allows next; all but the end once it is complete."""

    def __init__(self, grammars: GrammarCompiler, rows: Sequence[str]) -> None:
        self._grammars = grammars
        self._rows = rows
        self._matchers: list[Any] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask the scores. input_ids: (rows, length so far); scores: (rows, vocabulary)."""
        from llguidance import numpy as masks

        width = scores.shape[-1]
        if not self._matchers:
            self._matchers = self._grammars.matchers(self._rows, width)
        else:
            for matcher, token in zip(self._matchers, input_ids[:, -1].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        bits = masks.allocate_token_bitmask(len(self._matchers), width)
        for row, matcher in enumerate(self._matchers):
            masks.fill_next_token_bitmask(matcher, bits, row)
        packed = torch.from_numpy(bits.view(np.uint8)).to(scores.device)  # eight tokens a byte, lowest bit first
        places = torch.arange(8, dtype=torch.uint8, device=scores.device)
        forbidden = ((packed[:, :, None] >> places) & 1).flatten(1)[:, :width] == 0
        return scores.masked_fill(forbidden, -torch.inf)


def branch_nodes(tokenizer: Any, prefix: str, choices: tuple[str, ...]) -> dict[tuple[int, ...], dict[int, list[int]]]:
    """Return the branching nodes of the tree of the choices' tokens: path -> {next token: choices below it}.

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
            "This model's tokenizer splits the scores so that one forward pass can't give their probabilities. "
            "Use --score-mode text."
        )
    return nodes


def choice_reply(
    probs: Mapping[tuple[int, int], float] | np.ndarray,
    branches: dict[tuple[int, ...], dict[int, list[int]]],
    choices: tuple[str, ...],
    tokens: int,
) -> Reply:
    """Return a reply with the choices' probabilities; all of them 0 where those of their tokens are.

    probs: (positions, vocabulary), after 0, 1, ... tokens of the longest path; or only those at the branches.
    """
    weights = np.ones(len(choices))
    for path, below in branches.items():
        for token, indices in below.items():
            weights[indices] *= probs[len(path), token]
    mass = float(weights.sum())
    shares = weights / mass if mass else weights
    return Reply("", "stop", tokens, 0, tuple(shares.tolist()), mass)
