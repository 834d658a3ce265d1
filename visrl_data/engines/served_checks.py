"""Find out at the start what a server does with what is sent to it: options, grammars, pictures. Used by openai.py.

What a server ignores without a word is found out too: a grammar that allows one text only, and a picture whose tokens
are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptPart
from visrl_data.engines.chat_server import ChatServer
from visrl_data.engines.messages import adds_special, prompt_text
from visrl_data.engines.protocol import EngineLost, Reply, Request, Sampling
from visrl_data.engines.reply_cache import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import openai

Body = dict[str, Any]

_PICTURES = ((1600, 1000), (640, 400))  # width, height: the second where the first is too large for the context
_WORD = "zq7"  # that no model says to a gray picture and a question mark
LOGPROBS = {"logprobs": True}  # the field of a request that asks for them
GRAMMAR_HEADER = "%llguidance {}\n"  # which other readers of grammars do not take, xgrammar for one


def trial_request(size: tuple[int, int], sampling: Sampling) -> Request:
    """Return a first request, with a gray picture of this size."""
    parts = (PromptPart("image"), PromptPart("text", "?"))
    return Request(parts, (Image.new("RGB", size, (128, 128, 128)),), (0,), sampling)


def grammar_field(grammar: str) -> dict[str, Any]:
    """Return the field of a request that constrains its reply by a Lark grammar."""
    return {"structured_outputs": {"grammar": GRAMMAR_HEADER + grammar}}


async def check_options(server: ChatServer, client: openai.AsyncOpenAI, trial: Body) -> None:
    """Raise VisRLError where the server refuses a first request."""
    outcome = await server.request(client, trial)
    if isinstance(outcome, Refusal):
        raise VisRLError(
            f"{server.model.address} refuses a first request to {server.model.id} ({outcome.reason}). "
            "The model must take pictures. For a server that does not know top_k, add --top-k 0."
        )


async def gives_logprobs(server: ChatServer, client: openai.AsyncOpenAI, trial: Body) -> bool:
    """Return whether the server tells how likely the tokens of a reply were; some refuse to, some ignore the field."""
    try:
        outcome = await server.request(client.with_options(max_retries=0), trial | LOGPROBS)
    except EngineLost:
        return False
    return isinstance(outcome, Reply) and outcome.logprob is not None


async def check_grammars(server: ChatServer, client: openai.AsyncOpenAI, trial: Body) -> None:
    """Raise VisRLError where a grammar has no effect, or another one than here."""
    extra = trial.get("extra_body", {}) | grammar_field(f'start: "{_WORD}"')
    try:
        outcome = await server.request(client.with_options(max_retries=0), trial | {"extra_body": extra})
        problem = "ignores a grammar" if isinstance(outcome, Reply) else f"refuses a grammar ({outcome.reason})"
    except EngineLost as error:
        outcome, problem = None, f"can't read a grammar ({str(error).rstrip('.')})"
    if not isinstance(outcome, Reply) or outcome.text != _WORD:
        raise VisRLError(
            f"--constrain: {server.model.address} {problem}. Start vLLM with "
            """--structured-outputs-config '{"backend": "guidance"}', or leave out --constrain."""
        )


async def compare_pictures(
    server: ChatServer,
    client: openai.AsyncOpenAI,
    body: Callable[[Request], Body],
    processor: Any,
    special: Sequence[str],
) -> str:
    """Return how the server shows a picture otherwise than VisRL; "" where nothing is known of it.

    Compared by the number of tokens, where the server counts them. processor: as the server loads it.
    """
    images = processor.image_processor
    if getattr(images, "do_center_crop", False) and "shortest_edge" in images.size:
        return "the server shows the center of a picture alone; serve the folder that `visrl merge` makes"
    for size in _PICTURES:
        request = trial_request(size, Sampling(max_new_tokens=1))
        ours = _prompt_tokens(processor, request, special)
        outcome = await server.request(client, body(request))
        if isinstance(outcome, Reply):
            return _difference(size, ours, outcome.prompt_tokens)
    return ""


def _prompt_tokens(processor: Any, request: Request, special: Sequence[str]) -> int:
    """Return the number of tokens of a request's prompt, as the engines that run here read it."""
    text = prompt_text(request, processor, special)
    special_tokens = adds_special(processor, text)
    batch = processor(text=[text], images=[[*request.images]], add_special_tokens=special_tokens, return_tensors="pt")
    return int(batch["input_ids"].shape[1])


def _difference(size: tuple[int, int], ours: int, theirs: int) -> str:
    if not theirs or ours == theirs:
        return ""
    width, height = size
    return (
        f"the server shows a picture of {width} x {height} pixels in a prompt of {theirs} tokens, where the model's "
        f"own processor makes {ours}"
    )
