"""Write a Request as chat messages: in the form of OpenAI's API, for servers, or as a local model's prompt."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from visrl_data.engines.protocol import Request

# The opening of <|any_mark|>, of Gemma 4's <|turn> and <turn|>, or of a mark by which families write an image, a turn
# or an end.
_MARKUP = re.compile(
    r"<(?=\|[^<>|\s]+\|?>|[^<>|\s]+\|>|/?(?:image|img|video|audio|s|bos|eos|pad|start_of_turn|end_of_turn|start_of_image"
    r"|end_of_image|image_soft_token|start_of_audio|end_of_audio|audio_soft_token|IMG_(?:CONTEXT|START|ATOM|GRID|COL|ROW"
    r"|END)|fake_token_around_image|global-img|end_of_utterance|im_(?:start|end|patch|col)|low_res_im_start)>)"
)

_REASONING = re.compile(r"\b(?:enable_thinking\b|thinking(?= is ))")  # a template's switch; Kimi's is the short one


def chat_messages(
    request: Request, picture: Callable[[Image], dict[str, Any]], plain: Callable[[str], str] = str
) -> list[dict[str, Any]]:
    """Return the turns of a request in the form of OpenAI's API.

    picture: makes the content part of an image. plain: applied to each text.
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


def prompt_text(request: Request, processor: Any, special: Sequence[str]) -> str:
    """Return a request's prompt by the processor's chat template, with a placeholder for each image."""
    turns = chat_messages(request, lambda _: {"type": "image"}, lambda text: plain_text(text, special))
    for turn in turns:
        if turn["role"] == "assistant":  # templates read parts, where servers take a text
            turn["content"] = [{"type": "text", "text": turn["content"]}]
    return render_chat(processor, turns) + request.prefix


def render_chat(processor: Any, turns: list[dict[str, Any]], generation: bool = True) -> str:
    """Return a chat as text. generation: with the beginning of a reply.

    A model that reasons or not by its chat template is asked not to: boxes, answers and scores are short.
    """
    switch = dict.fromkeys(_REASONING.findall(str(processor.chat_template)), False)
    text: str = processor.apply_chat_template(turns, add_generation_prompt=generation, tokenize=False, **switch)
    return text


def adds_special(processor: Any, text: str) -> bool:
    """Return whether the tokenizer must add its beginning of text: not where the chat template has."""
    bos = processor.tokenizer.bos_token
    return not (bos and text.startswith(bos))


def plain_text(text: str, special: Sequence[str]) -> str:
    """Break up special tokens (the longest first): a question that holds `<image>` stays a text that says so."""
    for token in special:
        if token.strip() and token in text:
            text = text.replace(token, f"{token[0]}\u200b{token[1:]}" if len(token) > 1 else "\u200b")
    return text


def plain_markup(text: str) -> str:
    """Break up what is a special token of many models, for a server whose tokenizer is not known here."""
    return _MARKUP.sub("<\u200b", text)


def data_url(image: Image) -> str:
    """Return the image as a data URL: lossless PNG, base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # fast rather than small: it crosses one network, once
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
