"""Read a server's answer to a chat request: a reply, a refusal, or nothing that can be read. Used by openai.py."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from visrl_data.engines.protocol import Reply
from visrl_data.engines.reply_cache import Refusal

if TYPE_CHECKING:
    import openai

NO_CHOICE = Refusal("the server's reply holds no choice")
NO_COMPLETION = "sends replies that are not chat completions"
_FAILED = ("error", "abort")  # why a reply ends in the middle of a word
_MAX_CHARACTERS = 300
_TOKEN_ID = "token_id:"  # before a token's id, under return_tokens_as_token_ids
_MIN_KEY = 6  # characters; shorter ones are placeholders such as EMPTY, and words of replies
# How a 403 of a moderation differs from one of a key: by its code or type, or by what it says was flagged.
_MODERATION = ("moderation", "content_filter", "content_policy")
_FLAGGED = ("flagged_input", "reasons")


def parse_completion(completion: Any, key: str | None, first_token: bool = False) -> Reply | Refusal | None:
    """Read a chat completion; None when it is none. key: masked wherever the server repeats it.

    first_token: the reply's text is what `read_logprobs` reads, in place of the one token that was sampled.
    """
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        return None
    if not choices:
        return NO_CHOICE
    message, finish = (getattr(choices[0], name, None) for name in ("message", "finish_reason"))
    content = getattr(message, "content", None) or ""
    if message is None or not isinstance(content, str) or finish in _FAILED:
        return None
    if finish == "content_filter" or getattr(message, "refusal", None):
        return Refusal(f"refused by the server: {_line(getattr(message, 'refusal', None) or 'content_filter', key)}")
    if first_token:
        logprobs = _first_logprobs(choices[0])
        return None if logprobs is None else Reply(logprobs, "stop", _token_count(completion, "prompt_tokens"), 0)
    content = content.encode("utf-8", "replace").decode()  # JSON can spell half a character; a file can't hold it
    return Reply(
        mask_key(content, key).strip(),
        "length" if finish == "length" else "stop",
        _token_count(completion, "prompt_tokens"),
        _token_count(completion, "completion_tokens"),
        logprob=_sum_logprobs(choices[0]),
    )


def failure_text(completion: Any, key: str | None) -> str:
    """Say what a server does whose answer is no reply: gateways send the error of what is behind them as one."""
    choices = getattr(completion, "choices", None)
    answers = [completion, *(choices if isinstance(choices, list) else ())]
    errors = [getattr(answer, "error", None) for answer in answers]
    words = next((error["message"] for error in errors if isinstance(error, dict) and error.get("message")), None)
    if words or any(getattr(answer, "finish_reason", None) in _FAILED for answer in answers):
        return f"keeps failing ({_line(words or 'its replies break off', key)})"
    return NO_COMPLETION


def _sum_logprobs(choice: Any) -> float | None:
    """Return the log-likelihood of the tokens that the server lists, in nats; None where it lists none."""
    try:
        logprobs = [float(token.logprob) for token in choice.logprobs.content]
        total = math.fsum(logprobs)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
    return total if logprobs and math.isfinite(total) else None


def _first_logprobs(choice: Any) -> str | None:
    """Return the log probabilities at a choice's first token as JSON, by token id; None where there are none."""
    try:
        rows = choice.logprobs.content[0].top_logprobs
        logprobs = {int(row.token.removeprefix(_TOKEN_ID)): float(row.logprob) for row in rows}
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError):
        return None
    # Rounding may lift one a little over 0; what is NaN or far over it is no logarithm of a probability.
    return json.dumps(logprobs) if all(logprob < 1 for logprob in logprobs.values()) else None


def read_logprobs(text: str) -> dict[int, float]:
    """Return token id -> log probability, from the text of a reply to a request for them."""
    return {int(token): logprob for token, logprob in json.loads(text).items()}


def _token_count(completion: Any, name: str) -> int:
    """Return a count of the reply's `usage`, 0 where the server sends none or something else."""
    count = getattr(getattr(completion, "usage", None), name, None)
    return count if type(count) is int and 0 <= count < 2**40 else 0


def model_facts(about: Any, key: str | None) -> dict[str, Any]:
    """Return what a server's list of models says about a model, as far as it is recorded in a run."""
    facts = {name: about.get(name) for name in ("owned_by", "root", "max_model_len")}
    return {
        name: _line(value, key) if isinstance(value, str) else value
        for name, value in facts.items()
        if isinstance(value, (str, int))
    }


def is_moderated(error: openai.APIStatusError) -> bool:
    """Return whether a 403 is about the request's content, not about the key."""
    body = error.body if error.status_code == 403 and isinstance(error.body, dict) else {}
    kind = f"{body.get('code')} {body.get('type')}".lower()
    metadata = body.get("metadata")
    flagged = isinstance(metadata, dict) and any(metadata.get(key) for key in _FLAGGED)
    return flagged or any(word in kind for word in _MODERATION)


def error_text(error: openai.APIStatusError, key: str | None) -> str:
    """Return the server's words on one line, without the key, which some servers repeat."""
    body = error.body if isinstance(error.body, dict) else {"message": error.body}
    return _line(body.get("message") or body.get("detail") or error.message, key)


def mask_key(text: str, key: str | None) -> str:
    """Return a text of the server without the key."""
    return text.replace(key, "***") if key and len(key) >= _MIN_KEY else text


def _line(text: object, key: str | None) -> str:
    """Return the server's words on one line, of bounded length, without the key."""
    return " ".join(mask_key(str(text), key).encode("utf-8", "replace").decode().split())[:_MAX_CHARACTERS]
