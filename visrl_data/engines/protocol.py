"""The interface of every engine: generate(requests) -> replies.

An engine runs chat turns with images. actor.py and critics.py build Requests; nothing else in the pipeline knows
what kind of model answers, or where.

    transformers.py   any local model, on this machine; the only one that can be deterministic
    openai.py         a server with OpenAI's API
    vllm.py           vLLM inside this process
    scripted.py       replies that a test writes

model_pair.py decides which model is on which engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Required

from typing_extensions import TypedDict

from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import ImageSettings
from visrl_data.core.prompts import PromptPart

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are sampled. temperature 0 is greedy; top_k 0 and top_p 1 switch those filters off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Request:
    """One user turn (after earlier turns and their replies, where parts hold some), to be answered once for each seed.

    images: one RGB image for each part that is a picture, in order.
    adapter: answer with the actor's adapter on; engines without an adapter ignore it.
    prefix, choices: when choices are given nothing is sampled; the reply holds the probabilities of the
    choices as the continuation of `prefix`, at the start of the assistant's turn.
    grammar: a Lark grammar that the reply must match (--constrain); "" for none. model_pair.py refuses the option for
    engines without `constrains`.
    logprob: whether the replies are to have theirs, from engines with `gives_logprobs`. No text depends on it.
    """

    parts: tuple[PromptPart, ...]
    images: tuple[Image, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    adapter: bool = False
    prefix: str = ""
    choices: tuple[str, ...] = ()
    grammar: str = ""
    logprob: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer for one seed. finish: "stop" or "length" (cut at max_new_tokens).

    choice_probs: normalized over the choices, all 0 where choice_mass is: the probability on all of them together.
    cached_prompt_tokens: how many of the prompt's the engine had in a cache, no part of the answer; None if not known.
    logprob: log-likelihood of the reply in nats, the token that ends it included: at temperature 1, over all tokens
    (those that a grammar allows), however it was sampled. Its last digits depend on the batch. None if not known.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    choice_probs: tuple[float, ...] = ()
    choice_mass: float | None = None
    cached_prompt_tokens: int | None = field(default=None, compare=False)
    logprob: float | None = field(default=None, compare=False)


@dataclass(slots=True)
class Usage:
    """What an engine did since its counters were reset. events: what is worth recording, a halved batch for one."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int | None = None
    completion_tokens: int = 0
    events: list[str] = field(default_factory=list)

    def count(self, replies: Sequence[Sequence[Reply]]) -> None:
        """Add replies to the counters."""
        for reply in (reply for group in replies for reply in group):
            self.calls += 1
            self.prompt_tokens += reply.prompt_tokens
            if reply.cached_prompt_tokens is not None:
                self.cached_prompt_tokens = (self.cached_prompt_tokens or 0) + reply.cached_prompt_tokens
            self.completion_tokens += reply.completion_tokens


class EngineLost(VisRLError):
    """The model can't be reached any more. Its replies until then are kept (reply_cache.py)."""


class ModelIdentity(TypedDict, total=False):
    """What the replies of a model depend on besides the requests; each kind of engine has its own of these keys.

    digest: of the weights, the adapter included; weights_digest: of those under it. device: its class, "cpu" or the
    GPU's name. quantization: of the weights, absent where there is none. vllm_options: settings on which replies
    depend. adapter: whether it is on. address, served: of a server, and what it says of the model.
    """

    engine: Required[str]
    model: str
    revision: str | None
    digest: str
    weights_digest: str
    device: str
    dtype: str
    quantization: str
    image_processor: str
    vllm: str
    vllm_options: dict[str, Any]
    address: str
    dialect: str
    served: dict[str, Any]
    adapter: bool


class Engine(Protocol):
    """What the pipeline needs of an engine."""

    name: str
    usage: Usage  # replaced by a fresh one after each chunk

    @property
    def image_settings(self) -> ImageSettings | None:
        """How the model is shown pictures; None where that is not known, as behind a server."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the same request gives the same reply whatever else is in the batch plan."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Return one list of replies a request, one reply a seed, in order.

        Raises RequestRefused (refusals.py) when the model does not take one of the requests: isolate_refused finds
        the question that it belongs to.
        """
        ...

    def resized_size(self, image: Image) -> tuple[int, int]:
        """Return (width, height) in pixels to which the model's processor resizes this image.

        Raises RequestRefused when it does not take the image.
        """
        ...

    def identity(self) -> ModelIdentity:
        """Return what the replies depend on besides the requests: weights' digests, dtype, device class."""
        ...


@dataclass(frozen=True, slots=True)
class Role:
    """Actor or critic: the engine that holds the model, and whether its adapter is on."""

    engine: Engine
    adapter: bool
