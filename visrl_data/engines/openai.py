"""Run models on any server with OpenAI's chat API: vLLM, SGLang, TGI, `transformers serve`, or a commercial one.

- One request for each reply, with its own seed; a server that caches prefixes reads the shared prompt once.
- At most `in_flight` requests are open at a time. Lost connections, 408, 409, 429 and 5xx are retried with growing
  pauses, or as Retry-After says (the openai package does this). A server that stays away ends the run with
  EngineLost; the replies received until then are in the reply cache.
- A small request at the start checks that the server answers, accepts the key, knows the model, takes pictures and
  the sampling options. After it, a 400, 413 or 422 is about one question, which is dropped; so is a 403 of a
  moderation, while any other 403 is about the key.
- The key is read from the environment when it is needed; it is in no option, file, log or message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import ImageSettings
from visrl_data.core.prompts import PromptPart
from visrl_data.engines.bounded_client import BoundedClient
from visrl_data.engines.completions import (
    NO_CHOICE,
    error_text,
    is_moderated,
    mask_key,
    model_facts,
    parse_completion,
)
from visrl_data.engines.image_processing import limit_pixels, picture_size, read_settings
from visrl_data.engines.messages import chat_messages, data_url, plain_markup, reject_choices
from visrl_data.engines.protocol import EngineLost, ModelIdentity, Reply, Request, Sampling, Usage
from visrl_data.engines.refusals import refusal
from visrl_data.engines.reply_cache import Refusal, ReplyCache
from visrl_data.models.families import check_loadable, family_at
from visrl_data.models.model_folder import find_model
from visrl_data.models.served import ServedModel

try:
    import openai
except ImportError as error:
    raise VisRLError("The openai engine needs a package: pip install '.[openai]'") from error

RETRIES = 8  # half a second, doubled up to eight seconds: some 40 seconds in all
TIMEOUT = 600.0  # seconds for one whole reply, the wait in the server's queue included; twice that with all retries
_PAUSES = (0.5, 1.0)  # seconds before a reply that can't be read is requested again
_SEEDS = 2**31  # every server takes seeds below it
_BAD_REQUEST = (400, 413, 422)
_BAD_KEY = (401, 403)


@dataclass(frozen=True, slots=True)
class _Call:
    """One request to the server. key: digest of everything that its reply depends on."""

    key: str
    body: dict[str, Any]


class OpenAIEngine:
    """A served model.

    sampling: how the requests will sample; checked by a first request. dialect: "standard", or "transformers" for
    `transformers serve`. Raises VisRLError when the server can't be used, with what to do about it.
    """

    name = "openai"
    deterministic = False

    def __init__(
        self,
        model: ServedModel,
        sampling: Sampling,
        in_flight: int = 16,
        dialect: str = "standard",
        retries: int = RETRIES,
        trust_remote_code: bool = False,
    ) -> None:
        self.model = model
        self.dialect = dialect
        self.trust_remote_code = trust_remote_code
        self.in_flight = in_flight
        self.retries = retries
        self.usage = Usage()
        self.reply_cache = ReplyCache()
        self._processor: Any = None
        self._image_settings: ImageSettings | None = None
        self.served = _run(self._probe_server(sampling))

    def identity(self) -> ModelIdentity:
        return {
            "engine": self.name,
            "model": self.model.id,
            "address": self.model.address,
            "dialect": self.dialect,
            "served": self.served,
        }

    @property
    def image_settings(self) -> ImageSettings | None:
        """How the model's own processor shows pictures, where boxes needed it; what the server does can't be seen."""
        return self._image_settings

    def resized_size(self, image: Image.Image) -> tuple[int, int]:
        """Return (width, height) in pixels after the resize of the model's own image processor, as its folder sets it.

        Raises VisRLError when the served name is neither a folder here nor a Hub id.
        """
        if self._processor is None:
            self._processor, self._image_settings = _processor_of(self.model.id, self.trust_remote_code)
        return picture_size(self._processor, image)

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Return one reply a seed for each request. Raises EngineLost, RequestRefused."""
        reject_choices(requests, self.name)
        calls = self._calls(requests)
        missing = {call.key: call for group in calls for call in group if not self._has(call.key)}
        if missing:
            try:
                _run(self._fetch(iter(missing.values()), min(self.in_flight, len(missing))))
            finally:
                self.reply_cache.sync()
        return [[self._reply(call.key) for call in group] for group in calls]

    def _calls(self, requests: Sequence[Request]) -> list[list[_Call]]:
        """Return the calls of each request. A picture is encoded once, however many requests show it."""
        urls: dict[int, dict[str, Any]] = {}

        def picture(image: Image.Image) -> dict[str, Any]:
            if id(image) not in urls:
                urls[id(image)] = {"type": "image_url", "image_url": {"url": data_url(image)}}
            return urls[id(image)]

        calls = []
        for request in requests:
            messages = chat_messages(request, picture, plain_markup)
            content = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
            bodies = [self._options(request.sampling, seed) for seed in request.seeds]
            calls.append([_Call(_digest(content, body), {"messages": messages, **body}) for body in bodies])
        return calls

    def _options(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        """Return a body's options. Those without effect are left out: not every server takes every field."""
        body: dict[str, Any] = {
            "model": self.model.id,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature == 0:
            return body
        body |= {"top_p": sampling.top_p, "seed": seed % _SEEDS}
        if self.dialect == "transformers":  # samples only with do_sample, and takes top_k here only
            body["extra_body"] = {"generation_config": json.dumps({"do_sample": True, "top_k": sampling.top_k})}
        elif sampling.top_k > 0:
            body["extra_body"] = {"top_k": sampling.top_k}
        return body

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
                    outcome = await self._request(client, call.body)
                except EngineLost as error:
                    lost.append(error)
                    return
                self.reply_cache.put(call.key, outcome)
                if isinstance(outcome, Reply):
                    self.usage.count([[outcome]])

        async with self._client(self.retries) as client:
            await asyncio.gather(*(work(client) for _ in range(workers)))
        if lost:
            raise lost[0]

    async def _request(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> Reply | Refusal:
        """Request a reply; again when what comes can't be read or holds no choice.

        Raises EngineLost when the server stays away, fails, or keeps sending what can't be read.
        """
        outcome = await self._request_once(client, body)
        for pause in _PAUSES:
            if outcome is not None and outcome != NO_CHOICE:
                break
            await asyncio.sleep(pause)
            outcome = await self._request_once(client, body)
        if outcome is None:
            raise EngineLost(f"{self.model.address} sends replies that are not chat completions.")
        return outcome

    async def _request_once(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> Reply | Refusal | None:
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                return parse_completion(await client.chat.completions.create(**body), self._key)
        except TimeoutError:
            raise EngineLost(f"No whole reply from {self.model.address} within {2 * TIMEOUT / 60:g} minutes.") from None
        except openai.APIStatusError as error:
            if error.status_code in _BAD_REQUEST or is_moderated(error):
                return Refusal(f"{error.status_code}: {self._error_text(error)}")
            raise EngineLost(await self._explain(client, error)) from None
        except openai.APIConnectionError as error:
            cause = mask_key(str(error.__cause__ or "") or str(error), self._key)
            raise EngineLost(f"No answer from {self.model.address} ({cause}).") from None
        except ValueError:
            return None  # not JSON

    def _client(self, retries: int) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.model.address,
            api_key=self._key or "none",
            max_retries=retries,
            timeout=TIMEOUT,
            default_headers={"Accept-Encoding": "identity"},
            http_client=BoundedClient(TIMEOUT),
        )

    @property
    def _key(self) -> str | None:
        return os.environ.get(self.model.key)

    async def _probe_server(self, sampling: Sampling) -> dict[str, Any]:
        """Check the server by a first request. Return what it lists about the model. Raises VisRLError."""
        trial = Request((PromptPart("image"), PromptPart("text", "?")), (Image.new("RGB", (64, 64)),), (0,), sampling)
        [[call]] = self._calls([trial])
        async with self._client(min(self.retries, 2)) as client:
            models = await self._list_models(client)
            outcome = await self._request(client, call.body)
        if isinstance(outcome, Refusal):
            raise VisRLError(
                f"{self.model.address} refuses a first request to {self.model.id} ({outcome.reason}). "
                "The model must take pictures. For `transformers serve` add --dialect transformers; "
                "for a server that does not know top_k, add --top-k 0."
            )
        return model_facts(models.get(self.model.id, {}), self._key)

    async def _list_models(self, client: openai.AsyncOpenAI) -> dict[str, dict[str, Any]]:
        """Return what the server says about its models, by name; nothing where it has no list."""
        try:
            models = (await client.with_options(max_retries=0).models.list()).data
            return {model.id: model.to_dict() for model in models}
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return {}

    async def _explain(self, client: openai.AsyncOpenAI, error: openai.APIStatusError) -> str:
        """Say what is wrong with the server or the key, and what to do about it."""
        text, address = self._error_text(error), self.model.address
        if error.status_code in _BAD_KEY:
            problem = "refuses the key in" if self._key else "needs a key; put it into"
            return f"{address} {problem} the environment variable {self.model.key} ({error.status_code}: {text})."
        if error.status_code == 404:
            names = mask_key(", ".join(await self._list_models(client)), self._key)
            hint = f"It serves: {names}." if names else "Does the address end in /v1?"
            return f"{address} has no model {self.model.id} (404: {text}). {hint}"
        if 300 <= error.status_code < 400:
            return f"{address} redirects to {error.response.headers.get('location')}: give that as the address."
        return f"{address} keeps failing ({error.status_code}: {text})."

    def _error_text(self, error: openai.APIStatusError) -> str:
        return error_text(error, self._key)


T = TypeVar("T")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, also where a loop is running already, as in a notebook: there in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _digest(content: str, options: dict[str, Any]) -> str:
    return hashlib.sha256(f"{content}\0{json.dumps(options, sort_keys=True)}".encode()).hexdigest()


def _processor_of(model: str, trust_remote_code: bool) -> tuple[Any, ImageSettings]:
    """Load the processor of a local folder or of a Hub id[@rev]: its few small files are fetched, no weights.

    It bounds pictures as the model was trained, and is otherwise as servers load it. Return it with its settings.
    """
    from transformers import AutoProcessor

    try:
        folder = find_model(model, trust_remote_code, weights=False)
        weights, family = folder.weights.path, family_at(folder.weights.path)
        check_loadable(model, weights, trust_remote_code)
        processor = AutoProcessor.from_pretrained(weights, trust_remote_code=trust_remote_code)
        if folder.max_pixels is not None:
            limit_pixels(processor, family, folder.max_pixels, model)
        return processor, read_settings(processor, family, folder.max_pixels)
    except (ImportError, OSError, ValueError, VisRLError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
    raise VisRLError(
        f"Boxes in pixels of the resized picture need the size at which {model} sees it, and its processor can't be "
        f"loaded here: {reason}. Serve it under its Hub id or a local folder, or use another --box-space."
    )
