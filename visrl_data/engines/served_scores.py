"""The probabilities of scores over a server (--score-mode expected), as in vllm.py: one token after each place at which
the texts of the scores part. It takes a server that continues a message and shows its tokens, which vLLM is.

Used by openai.py: the tree is requested once, at the start; then each request of a critic is one call a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visrl_data.core.errors import VisRLError
from visrl_data.engines.chat_server import ChatServer
from visrl_data.engines.completions import read_logprobs
from visrl_data.engines.protocol import Reply
from visrl_data.engines.reply_cache import Refusal

if TYPE_CHECKING:
    import openai

Path = tuple[int, ...]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScoreTree:
    """Where the tokens of choices part. branches: as branch_nodes returns them. texts: path -> the text up to there."""

    choices: tuple[str, ...]
    branches: dict[Path, dict[int, list[int]]]
    texts: dict[Path, str]

    def bodies(self, messages: list[dict[str, Any]], model: str) -> list[Body]:
        """Return a request for each place: the probabilities of what may come after this beginning of a reply."""
        return [self._body(messages, model, path) for path in self.branches]

    def _body(self, messages: list[dict[str, Any]], model: str, path: Path) -> Body:
        return {
            "model": model,
            "messages": [*messages, {"role": "assistant", "content": self.texts[path]}],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "extra_body": {
                "add_generation_prompt": False,
                "continue_final_message": True,
                "logprob_token_ids": sorted(self.branches[path]),
                "return_tokens_as_token_ids": True,
            },
        }

    def reply(self, replies: Sequence[Reply]) -> Reply:
        """Return the probabilities of the choices, from the replies to `bodies`."""
        from visrl_data.engines.decoding import choice_reply

        probs = {
            (len(path), token): math.exp(logprob)
            for path, reply in zip(self.branches, replies, strict=True)
            for token, logprob in read_logprobs(reply.text).items()
        }
        return choice_reply(probs, self.branches, self.choices, max(reply.prompt_tokens for reply in replies))


async def request_tree(
    server: ChatServer, client: openai.AsyncOpenAI, trial: Body, prefix: str, choices: tuple[str, ...]
) -> ScoreTree:
    """Return the tree of these choices after `prefix`, by the server's tokenizer, tried by the messages of `trial`.

    Raises VisRLError where the server or its model can't give their probabilities.
    """
    from visrl_data.engines.decoding import branch_nodes

    tokens = {text: await server.tokenize(client, text) for text in (prefix, *(prefix + c for c in choices))}
    if any(ids is None for ids in tokens.values()):
        raise _unsupported(server, "it does not tokenize")
    branches = branch_nodes(lambda text, **_: {"input_ids": tokens[text]}, prefix, choices)
    texts = {path: prefix + (await server.detokenize(client, [*path]) or "" if path else "") for path in branches}
    tree = ScoreTree(choices, branches, texts)
    plain = await server.request(client, trial)
    replies = [await server.request(client, body) for body in tree.bodies(trial["messages"], server.model.id)]
    for path, reply in zip(branches, replies, strict=True):
        if isinstance(plain, Refusal) or isinstance(reply, Refusal):
            raise _unsupported(server, f"it refuses to continue a message ({reply})")
        if reply.prompt_tokens - plain.prompt_tokens != len(tokens[prefix] or ()) + len(path):
            raise _unsupported(server, "its chat template or tokenizer changes the beginning of a reply")
        if not branches[path].keys() <= read_logprobs(reply.text).keys():
            raise _unsupported(server, "it does not return the probabilities of given tokens")
    return tree


def _unsupported(server: ChatServer, reason: str) -> VisRLError:
    return VisRLError(
        f"--score-mode expected: {server.model.address} can't give the probabilities of {server.model.id}'s scores: "
        f"{reason}. Use vLLM 0.32 or later, --score-mode text, or a --critic-engine that runs here."
    )
