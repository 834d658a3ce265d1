"""A Request as chat messages in the form that OpenAI's API defines; servers and vLLM take the same."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from visrl_data.core.errors import VisRLError
from visrl_data.engines.protocol import Request


def chat_messages(
    request: Request, picture: Callable[[Image], dict[str, Any]], plain: Callable[[str], str] = str
) -> list[dict[str, Any]]:
    """The turns of a request. picture: makes the content part of an image; plain: what is done to texts.

    Parts keep their order; a part of kind "reply" is a turn of the assistant.
    """
    pictures = iter(request.images)
    turns: list[dict[str, Any]] = [{"role": "user", "content": []}]
    for part in request.parts:
        if part.kind == "reply":
            turns += [{"role": "assistant", "content": plain(part.text)}, {"role": "user", "content": []}]
        elif part.kind == "text":
            turns[-1]["content"].append({"type": "text", "text": plain(part.text)})
        else:
            turns[-1]["content"].append(picture(next(pictures)))
    return turns


def plain_text(text: str, special: Sequence[str]) -> str:
    """Break up special tokens (the longest first): a question that holds `<image>` stays a text that says so."""
    for token in special:
        if token.strip() and token in text:
            text = text.replace(token, f"{token[0]}\u200b{token[1:]}" if len(token) > 1 else "\u200b")
    return text


def data_url(image: Image) -> str:
    """The picture itself as an address: lossless PNG, base64."""
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=1)  # quick: the picture crosses one network, once
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def refuse_choices(requests: Sequence[Request], engine: str) -> None:
    """Raises VisRLError for requests that ask for probabilities, which only the transformers engine reads."""
    if any(request.choices for request in requests):
        raise VisRLError(
            f"The {engine} engine can't read the probabilities of scores. "
            "Use --score-mode text, or a critic on the transformers engine."
        )
