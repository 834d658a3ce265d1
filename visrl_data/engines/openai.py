"""Run models on any server with OpenAI's chat API: vLLM, SGLang, TGI, `transformers serve`, or a commercial one.

- One request for each reply, with its own seed; a server that caches prefixes reads the shared prompt once.
- At most `in_flight` requests are open at a time. A server that stays away ends the run with EngineLost; the replies
  received until then are in the reply cache (chat_server.py says what is retried and what a question is dropped for).
- Requests at the start find out whether the server answers, accepts the key, knows the model, takes pictures and the
  sampling options; which program it is, where that matters; whether grammars have an effect (--constrain); how the
  texts of scores part (--score-mode expected); and where the model's folder is here, whether a picture takes as many
  tokens as with its own processor (served_checks.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import SCORE_CHOICES, SCORE_PREFIX
from visrl_data.engines import served_checks
from visrl_data.engines.chat_server import RETRIES, TELL_THEIR_NAME, ChatServer, run
from visrl_data.engines.completions import model_facts
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.messages import chat_messages, data_url, plain_markup, plain_text
from visrl_data.engines.protocol import EngineLost, ModelIdentity, Reply, Request, Sampling, Usage
from visrl_data.engines.refusals import refusal
from visrl_data.engines.reply_cache import Refusal, ReplyCache
from visrl_data.engines.served_processor import load_served_processor
from visrl_data.engines.served_scores import ScoreTree, request_tree
from visrl_data.models.served import ServedModel

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

_SEEDS = 2**31  # every server takes seeds below it


@dataclass(frozen=True, slots=True)
class _Call:
    """One request to the server. key: digest of everything that its reply depends on."""

    key: str
    body: dict[str, Any]


class OpenAIEngine:
    """A served model.

    image_settings: how the model's own processor shows pictures, where its folder is here.

    sampling: how the requests will sample. constrain, expected_scores, logprobs: whether some will have a grammar, or
    choices, or ask for the log-likelihood of their replies. gives_logprobs: whether the server then gives it.
    All of it is tried at the start. Raises VisRLError when the server can't be used, with what to do about it.
    """

    name = "openai"
    deterministic = False
    constrains = True

    def __init__(
        self,
        model: ServedModel,
        sampling: Sampling,
        in_flight: int = 16,
        retries: int = RETRIES,
        trust_remote_code: bool = False,
        constrain: bool = False,
        expected_scores: bool = False,
        logprobs: bool = False,
    ) -> None:
        self.model = model
        self.dialect = "standard"
        self.in_flight = in_flight
        self.retries = retries
        self.usage = Usage()
        self.reply_cache = ReplyCache()
        self._server = ChatServer(model)
        self._processor, self.image_settings, self._no_processor = load_served_processor(model, trust_remote_code)
        self._special = _special_tokens(self._processor)
        self._tree: ScoreTree | None = None
        self._difference = ""
        self.gives_logprobs = False
        self.served = run(self._check_server(sampling, constrain, expected_scores, logprobs))

    def identity(self) -> ModelIdentity:
        return {
            "engine": self.name,
            "model": self.model.id,
            "address": self.model.address,
            "dialect": self.dialect,
            "served": self.served,
        }

    def resized_size(self, image: Image.Image) -> tuple[int, int]:
        """Return (width, height) in pixels after the resize of the model's own image processor, as its folder sets it.

        Raises VisRLError when that folder is not here, or the server resizes otherwise.
        """
        problem = self._no_processor or self._difference
        if problem:
            raise VisRLError(
                f"Boxes in pixels of the resized picture need the size at which {self.model.id} sees it: {problem}. "
                "Serve it under its Hub id or from a folder of this machine, without limits of the server's own; or "
                "use another --box-space."
            )
        return picture_size(self._processor, image)

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Return one reply a seed for each request. Raises EngineLost, RequestRefused."""
        calls = self._calls(requests)
        missing = {call.key: call for group in calls for call in group if not self._has(call.key)}
        if missing:
            try:
                run(self._fetch(iter(missing.values()), min(self.in_flight, len(missing))))
            finally:
                self.reply_cache.sync()
        replies = [[self._reply(call.key) for call in group] for group in calls]
        if self._tree is not None and requests[0].choices:
            return [[self._tree.reply(group)] for group in replies]
        return replies

    def _calls(self, requests: Sequence[Request]) -> list[list[_Call]]:
        """Return the calls of each request. A picture is encoded once, however many requests show it."""
        urls: dict[int, dict[str, Any]] = {}

        def picture(image: Image.Image) -> dict[str, Any]:
            if id(image) not in urls:
                urls[id(image)] = {"type": "image_url", "image_url": {"url": data_url(image)}}
            return urls[id(image)]

        calls = []
        for request in requests:
            messages = chat_messages(request, picture, self._plain)
            content = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
            # Not in the key: no reply depends on it, and those in a cache of an earlier version stay.
            wanted = served_checks.LOGPROBS if request.logprob and self.gives_logprobs else {}
            calls.append(
                [
                    _Call(_digest(content, body, len(messages)), body | wanted)
                    for body in self._bodies(request, messages)
                ]
            )
        return calls

    def _plain(self, text: str) -> str:
        """Break up special tokens: exactly the model's, where they are known here."""
        return plain_text(text, self._special) if self._processor is not None else plain_markup(text)

    def _bodies(self, request: Request, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not request.choices:
            return [{"messages": messages, **self._options(request, seed)} for seed in request.seeds]
        if self._tree is None or self._tree.choices != request.choices:
            raise VisRLError("This engine was not started for probabilities of choices. Use --score-mode text.")
        return self._tree.bodies(messages, self.model.id)

    def _options(self, request: Request, seed: int) -> dict[str, Any]:
        """Return a body's options. Those without effect are left out: not every server takes every field."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model.id,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        extra: dict[str, Any] = self._grammar(request.grammar) if request.grammar else {}
        if sampling.temperature > 0:
            body |= {"top_p": sampling.top_p, "seed": seed % _SEEDS}
            if self.dialect == "transformers":  # samples only with do_sample, and takes top_k here only
                extra |= {"generation_config": json.dumps({"do_sample": True, "top_k": sampling.top_k})}
            elif sampling.top_k > 0:
                extra |= {"top_k": sampling.top_k}
        return body | {"extra_body": extra} if extra else body

    def _grammar(self, grammar: str) -> dict[str, Any]:
        """Return the field of a grammar. Raises VisRLError where it is not known here which marks are tokens."""
        from visrl_data.engines.decoding import NAMED_TOKEN, with_tokens

        if self._processor is None and NAMED_TOKEN.search(grammar):
            raise VisRLError(
                f"--constrain: the boxes of {self.model.id} may hold special tokens, and {self._no_processor}. "
                "Serve it under its Hub id or from a folder of this machine, or leave out --constrain."
            )
        return served_checks.grammar_field(with_tokens(grammar, self._special))

    def _has(self, key: str) -> bool:
        outcome = self.reply_cache.get(key)
        if isinstance(outcome, Reply) and self.reply_cache.inherited(key):
            self.usage.count([[outcome]])
        return outcome is not None

    def _reply(self, key: str) -> Reply:
        outcome = self.reply_cache.get(key)
        if isinstance(outcome, Refusal):
            raise refusal(outcome.reason)
        assert outcome is not None, "every call has been made"
        return outcome

    async def _fetch(self, calls: Iterator[_Call], workers: int) -> None:
        """Make the calls, `workers` at a time. After a lost one none is started; open ones may finish."""
        lost: list[EngineLost] = []

        async def work(client: openai.AsyncOpenAI) -> None:
            for call in calls:
                if lost:
                    return
                try:
                    outcome = await self._server.request(client, call.body)
                except EngineLost as error:
                    lost.append(error)
                    return
                self.reply_cache.put(call.key, outcome)
                if isinstance(outcome, Reply):
                    self.usage.count([[outcome]])

        async with self._server.client(self.retries) as client:
            await asyncio.gather(*(work(client) for _ in range(workers)))
        if lost:
            raise lost[0]

    async def _check_server(
        self, sampling: Sampling, constrain: bool, expected_scores: bool, logprobs: bool
    ) -> dict[str, Any]:
        """Find out what the server does with requests. Return what it lists about the model. Raises VisRLError."""
        async with self._server.client(min(self.retries, 2)) as client:
            listing = (await self._server.list_models(client)).get(self.model.id, {})
            names_itself = listing.get("owned_by") in TELL_THEIR_NAME
            if not names_itself and await self._server.is_transformers_serve(client):
                self.dialect = "transformers"
            await served_checks.check_options(self._server, client, self._trial(sampling))
            if logprobs:
                self.gives_logprobs = await served_checks.gives_logprobs(self._server, client, self._trial(sampling))
            greedy = self._trial(Sampling(max_new_tokens=8))
            if constrain:
                await served_checks.check_grammars(self._server, client, greedy)
            if expected_scores:
                self._tree = await request_tree(self._server, client, greedy, SCORE_PREFIX, SCORE_CHOICES)
            if self._processor is not None:
                self._difference = await served_checks.compare_pictures(
                    self._server, client, self._body, self._processor, self._special
                )
        if self._difference:
            logger.warning(
                "%s: %s. Boxes may be read as on another picture: docs/engines.md says how to serve the same one.",
                self.model.id, self._difference,
            )  # fmt: skip
        return model_facts(listing, self._server.key)

    def _trial(self, sampling: Sampling) -> dict[str, Any]:
        return self._body(served_checks.trial_request((64, 64), sampling))

    def _body(self, request: Request) -> dict[str, Any]:
        [[call]] = self._calls([request])
        return call.body


def _digest(content: str, body: dict[str, Any], turns: int) -> str:
    """Return the key of a call. content: digest of the request's `turns`; the body may hold one more."""
    options = {name: value for name, value in body.items() if name != "messages"}
    if len(body["messages"]) > turns:
        options["messages"] = body["messages"][turns:]
    return hashlib.sha256(f"{content}\0{json.dumps(options, sort_keys=True)}".encode()).hexdigest()


def _special_tokens(processor: Any) -> list[str]:
    """Return the tokens that a text may not hold whole, the longest first."""
    return sorted(processor.tokenizer.get_added_vocab(), key=len, reverse=True) if processor is not None else []
