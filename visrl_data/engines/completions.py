"""Read a server's answer to a chat request: a reply, a refusal, or nothing that can be read. Used by openai.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visrl_data.engines.protocol import Reply
from visrl_data.engines.reply_cache import Refusal

if TYPE_CHECKING:
    import openai

NO_CHOICE = Refusal("the server's reply holds no choice")
_MAX_CHARACTERS = 300
# How a 403 of a moderation differs from one of a key: by its code or type, or by what it says was flagged.
_MODERATION = ("moderation", "content_filter", "content_policy")
_FLAGGED = ("flagged_input", "reasons")


def parse_completion(completion: Any) -> Reply | Refusal | None:
    """Read a chat completion; None when it is none."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        return None
    if not choices:
        return NO_CHOICE
    message, finish = (getattr(choices[0], name, None) for name in ("message", "finish_reason"))
    content = getattr(message, "content", None) or ""
    if message is None or not isinstance(content, str):
        return None
    if finish == "content_filter" or getattr(message, "refusal", None):
        return Refusal(f"refused by the server: {getattr(message, 'refusal', None) or 'content_filter'}")
    usage = completion.usage
    return Reply(
        content.encode("utf-8", "replace").decode().strip(),  # JSON can spell half a character; a file can't hold it
        "length" if finish == "length" else "stop",
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
    )


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
    text = str(body.get("message") or body.get("detail") or error.message)
    return " ".join((text.replace(key, "***") if key else text).split())[:_MAX_CHARACTERS]
