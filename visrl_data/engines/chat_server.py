"""Talk to a server with OpenAI's API: requests with retries, what it lists of itself, and what its errors mean.

Used by openai.py and served_checks.py. Lost connections, 408, 409, 429 and 5xx are retried with growing pauses, or as
Retry-After says (the openai package does this); a 400, 413 or 422 is about one request, and so is a 403 of a
moderation, while any other 403 is about the key. The key is read from the environment when it is needed; it is in no
option, file, log or message.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from visrl_data.core.errors import VisRLError
from visrl_data.engines.bounded_client import BoundedClient
from visrl_data.engines.completions import (
    NO_CHOICE,
    NO_COMPLETION,
    error_text,
    failure_text,
    is_moderated,
    mask_key,
    parse_completion,
)
from visrl_data.engines.protocol import EngineLost, Reply
from visrl_data.engines.reply_cache import Refusal
from visrl_data.models.served import ServedModel

try:
    import openai
except ImportError as error:
    raise VisRLError("The openai engine needs a package: pip install '.[openai]'") from error

RETRIES = 8  # half a second, doubled up to eight seconds: some 40 seconds in all
TIMEOUT = 600.0  # seconds for one whole reply, the wait in the server's queue included; twice that with all retries
TELL_THEIR_NAME = ("vllm", "sglang")  # programs whose list of models is whole, and names them as the owner
_PAUSES = (0.5, 1.0)  # seconds before a reply that can't be read is requested again
_BAD_REQUEST = (400, 413, 422)
_BAD_KEY = (401, 403)
_NOT_JSON = (ValueError, RecursionError)  # the latter for lists in lists without end


class ChatServer:
    """The server of a model."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    @property
    def key(self) -> str | None:
        return os.environ.get(self.model.key)

    def client(self, retries: int) -> openai.AsyncOpenAI:
        """Return a client, to be used as a context."""
        return openai.AsyncOpenAI(
            base_url=self.model.address,
            api_key=self.key or "none",
            max_retries=retries,
            timeout=TIMEOUT,
            default_headers={"Accept-Encoding": "identity"},
            http_client=BoundedClient(TIMEOUT),
        )

    async def request(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> Reply | Refusal:
        """Request a reply; again when what comes can't be read or holds no choice.

        Raises EngineLost when the server stays away, fails, or keeps sending what can't be read.
        """
        outcome = await self._request_once(client, body)
        for pause in _PAUSES:
            if not isinstance(outcome, str) and outcome != NO_CHOICE:
                break
            await asyncio.sleep(pause)
            outcome = await self._request_once(client, body)
        if isinstance(outcome, str):
            raise EngineLost(f"{self.model.address} {outcome}.")
        return outcome

    async def _request_once(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> Reply | Refusal | str:
        """Return the outcome of one request; a text where it can't be read, which says what the server does."""
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                completion = await client.chat.completions.create(**body)
            first_token = "logprob_token_ids" in body.get("extra_body", {})
            reply = parse_completion(completion, self.key, first_token)
            return reply or failure_text(completion, self.key)
        except TimeoutError:
            raise EngineLost(f"No whole reply from {self.model.address} within {2 * TIMEOUT / 60:g} minutes.") from None
        except openai.APIStatusError as error:
            if error.status_code in _BAD_REQUEST or is_moderated(error):
                return Refusal(f"{error.status_code}: {error_text(error, self.key)}")
            raise EngineLost(await self._explain(client, error)) from None
        except openai.APIConnectionError as error:
            raise self._no_answer(error) from None
        except _NOT_JSON:
            return NO_COMPLETION

    async def list_models(self, client: openai.AsyncOpenAI) -> dict[str, dict[str, Any]]:
        """Return what the server says about its models, by name; nothing where it has no list."""
        return _by_name(await self._get(client, f"{self.model.address}/models"))

    async def list_model(self) -> dict[str, Any]:
        """Return what the server says about this model. Raises EngineLost when it does not answer this key."""
        async with self.client(retries=2) as client:
            try:
                listing = await client.get(f"{self.model.address}/models", cast_to=object)
            except openai.APIConnectionError as error:
                raise self._no_answer(error) from None
            except openai.APIStatusError as error:
                if error.status_code in _BAD_KEY:
                    raise EngineLost(await self._explain(client, error)) from None
                return {}
            except _NOT_JSON:
                return {}
        rows = _by_name(listing)
        if self.model.id not in rows and any(row.get("owned_by") in TELL_THEIR_NAME for row in rows.values()):
            raise EngineLost(self._unknown_model(rows))
        return rows.get(self.model.id, {})

    async def is_transformers_serve(self, client: openai.AsyncOpenAI) -> bool:
        """Return whether the server is `transformers serve`, by the routes that it lists."""
        # Tried again: a server that failed to list its models may have closed the connection.
        routes = (await self._get(client, f"{self._root}/openapi.json", retries=2)).get("paths")
        return isinstance(routes, dict) and {"/load_model", "/reset"} <= routes.keys()

    async def tokenize(self, client: openai.AsyncOpenAI, text: str) -> list[int] | None:
        """Return the token ids of a text by itself; None where the server does not tokenize, as vLLM does."""
        body = {"model": self.model.id, "prompt": text, "add_special_tokens": False}
        tokens = (await self._post(client, f"{self._root}/tokenize", body)).get("tokens")
        return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else None

    async def detokenize(self, client: openai.AsyncOpenAI, tokens: list[int]) -> str | None:
        """Return the text of token ids; None where the server has no such route."""
        body = {"model": self.model.id, "tokens": tokens}
        text = (await self._post(client, f"{self._root}/detokenize", body)).get("prompt")
        return text if isinstance(text, str) else None

    def _unknown_model(self, rows: Collection[str], words: str = "") -> str:
        names = mask_key(", ".join(rows), self.key)
        hint = f"It serves: {names}." if names else "Does the address end in /v1?"
        return f"{self.model.address} has no model {self.model.id}{words}. {hint}"

    def _no_answer(self, error: openai.APIConnectionError) -> EngineLost:
        cause = mask_key(str(error.__cause__ or "") or str(error), self.key)
        return EngineLost(f"No answer from {self.model.address} ({cause}).")

    @property
    def _root(self) -> str:
        return self.model.address.removesuffix("/v1")

    async def _get(self, client: openai.AsyncOpenAI, url: str, retries: int = 0) -> dict[str, Any]:
        return await self._answer(client.with_options(max_retries=retries).get(url, cast_to=object))

    async def _post(self, client: openai.AsyncOpenAI, url: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._answer(client.post(url, cast_to=object, body=body))

    async def _answer(self, call: Coroutine[Any, Any, object]) -> dict[str, Any]:
        """Return the JSON object of an answer; an empty one where there is none."""
        try:
            answer = await call
        except (openai.OpenAIError, *_NOT_JSON):
            return {}
        return answer if isinstance(answer, dict) else {}

    async def _explain(self, client: openai.AsyncOpenAI, error: openai.APIStatusError) -> str:
        """Say what is wrong with the server or the key, and what to do about it."""
        text, address = error_text(error, self.key), self.model.address
        if error.status_code in _BAD_KEY:
            problem = "refuses the key in" if self.key else "needs a key; put it into"
            return f"{address} {problem} the environment variable {self.model.key} ({error.status_code}: {text})."
        if error.status_code == 404:
            return self._unknown_model(await self.list_models(client), f" (404: {text})")
        if 300 <= error.status_code < 400:
            return f"{address} redirects to {error.response.headers.get('location')}: give that as the address."
        return f"{address} keeps failing ({error.status_code}: {text})."


def list_model(model: ServedModel) -> dict[str, Any]:
    """Return what a server lists about a model; nothing where it has no list. Raises EngineLost."""
    return run(ChatServer(model).list_model())


def _by_name(listing: object) -> dict[str, dict[str, Any]]:
    """Return the rows of a list of models by the models' names."""
    rows = listing.get("data") if isinstance(listing, dict) else None
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {row["id"]: row for row in rows if isinstance(row.get("id"), str)}


T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, also where a loop is running already, as in a notebook: there in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
