"""Encode turns and the replies to learn as tensors, with the same tokens as in generation.

Used by collator.py for every stage. The prompt is written by the engine's own code (engines/transformers.py),
so that training and generation cannot diverge. Prompt and reply go through the processor in ONE call: masks over
the whole sequence (Mllama's cross-attention) would be wrong if the two were processed separately.

    prompt | lead reply end | padding      input_ids (B, L), padded on the right
      0    |       1        |    0         completion_mask (B, L)

lead is what the chat template writes before a reply (a space, for LLaVA-1.5); end is the special token that
it writes after one, or the tokenizer's end-of-text token where it writes none.

PaliGemma's processor takes the reply as `suffix`: it ends the prompt itself, and its token_type_ids separate the
reply, with causal attention, from the prompt, with full attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from visrl_data.core.boxes import box_tokens
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptPart
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.messages import adds_special, plain_text, prompt_text, render_chat
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.refusals import PROCESSOR_ERRORS, RequestRefused, RequestTooLong, raise_refusals

_MARK = "MARK"


@dataclass(frozen=True, slots=True)
class Turn:
    """A user turn and the reply to learn. id is for messages; images: one for each image part."""

    id: str
    parts: tuple[PromptPart, ...]
    images: tuple[Image, ...]
    reply: str


class Turns:
    """Encodes turns with one processor.

    max_tokens: the maximum sequence length of the model. tell_pictures: say which images of a batch are the same, for
    models that encode them once (image_features.py).
    """

    def __init__(self, processor: Any, max_tokens: int | None = None, tell_pictures: bool = False) -> None:
        self.processor = processor
        self.max_tokens = max_tokens
        self.tell_pictures = tell_pictures
        tokenizer = processor.tokenizer
        self._special = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        never = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._never_in_replies = sorted({t for t in never if t.strip()}, key=len, reverse=True)
        self._lead, self._end = _around_a_reply(processor, self._never_in_replies)
        self._takes_suffix = "suffix" in inspect.signature(type(processor).__call__).parameters

    def prompt(self, turn: Turn) -> str:
        """Return the text before the reply, as the engine passes it to the processor."""
        return prompt_text(Request(turn.parts, turn.images, (), Sampling()), self.processor, self._special)

    def resized_size(self, image: Image) -> tuple[int, int]:
        """Return (width, height) in pixels to which the processor resizes an image, as the engine reports it."""
        return picture_size(self.processor, image)

    def plain(self, text: str) -> str:
        """Return a text as the engine writes it into a prompt."""
        return plain_text(text, self._special)

    def completion(self, reply: str) -> str:
        """Return the text that carries the loss. Special tokens in a reply are escaped, except those of a box."""
        marks = box_tokens(reply)
        for token in self._never_in_replies:
            if token not in marks:
                reply = reply.replace(token, f"{token[0]}\u200b{token[1:]}")
        return self._lead + reply + self._end

    def encode(self, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask, completion_mask (B, L), and the processor's tensors of all N images.

        pictures (N,), with tell_pictures: which images are the same object, numbered as they first appear.
        Raises RequestRefused when the processor does not take a row or the model's context does not hold it, and
        VisRLError when a row has no token to learn, or when the processor cut it.
        """
        prompts = [self.prompt(turn) for turn in turns]
        replies = [self.completion(turn.reply) for turn in turns]
        encode = self._encode_suffixes if self._takes_suffix else self._encode_joined
        try:
            batch = encode(turns, prompts, replies)
        except RequestRefused as error:
            if len(turns) == 1:
                raise type(error)(f"Row {turns[0].id}: {error}") from error
            for turn in turns:  # the one that is refused names itself
                self.encode([turn])
            raise
        if self.tell_pictures:
            numbers: dict[int, int] = {}
            shown = [numbers.setdefault(id(image), len(numbers)) for turn in turns for image in turn.images]
            batch["pictures"] = torch.tensor(shown)
        return batch

    def _encode_joined(self, turns: Sequence[Turn], prompts: list[str], replies: list[str]) -> dict[str, torch.Tensor]:
        """Encode prompt and reply as one text."""
        texts = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
        special = adds_special(self.processor, texts[0])
        batch = self._process(turns, text=texts, add_special_tokens=special)
        mask = torch.zeros_like(batch["attention_mask"])
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            before, whole = (self._ids(part, special) for part in (prompt, text))
            ids = batch["input_ids"][i, : lengths[i]].tolist()
            self._check(turns[i].id, before, whole, ids)
            mask[i, lengths[i] - (len(whole) - len(before)) : lengths[i]] = 1
        return {**batch, "completion_mask": mask}

    def _encode_suffixes(
        self, turns: Sequence[Turn], prompts: list[str], replies: list[str]
    ) -> dict[str, torch.Tensor]:
        """Encode the reply as suffix; the processor writes the end-of-text token after it."""
        suffixes = [reply.removesuffix(self.processor.tokenizer.eos_token) for reply in replies]
        batch = self._process(turns, text=prompts, suffix=suffixes)
        batch.pop("labels")
        mask = batch["token_type_ids"] * batch["attention_mask"]
        for turn, reply, ids, in_reply in zip(turns, replies, batch["input_ids"], mask.bool(), strict=True):
            if ids[in_reply].tolist() != self._ids(reply, False):
                raise VisRLError(f"Row {turn.id}: the processor cut or changed its reply; expected it whole.")
            self._check_length(len(ids))
        return {**batch, "completion_mask": mask}

    def _process(self, turns: Sequence[Turn], **texts: Any) -> dict[str, torch.Tensor]:
        pictures = [list(turn.images) for turn in turns]
        options = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        with raise_refusals(*PROCESSOR_ERRORS):
            batch = self.processor(images=pictures, **texts, **options)
        # Llama 4's processor gives bfloat16, whatever the dtype of the model.
        return {name: values.float() if values.is_floating_point() else values for name, values in batch.items()}

    def _ids(self, text: str, special: bool) -> list[int]:
        """Tokenize a text without expanding its image placeholders."""
        tokens: list[int] = self.processor.tokenizer(text, add_special_tokens=special)["input_ids"]
        return tokens

    def _check(self, row: str, before: list[int], whole: list[int], ids: list[int]) -> None:
        """Check that the processed row starts and ends as its text does, so that no token of it was cut."""
        reply = whole[len(before) :]
        if not reply or whole[: len(before)] != before:
            raise VisRLError(
                f"Row {row}: its prompt and its reply share a token, so the loss can't cover the reply alone."
            )
        if ids[0] != whole[0] or ids[-len(reply) :] != reply or len(ids) < len(whole):
            raise VisRLError(f"Row {row}: the processor cut or changed its tokens; expected them whole.")
        self._check_length(len(ids))

    def _check_length(self, length: int) -> None:
        if self.max_tokens is not None and length > self.max_tokens:
            raise RequestTooLong(
                f"it has {length} tokens, more than the {self.max_tokens} of the model. "
                "Limit the images with --max-pixels; a truncated row would lose its reply."
            )


def _around_a_reply(processor: Any, special: list[str]) -> tuple[str, str]:
    """Return what the chat template writes before a reply (after the generation prompt), and the token after it."""

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    chat = [message("user", "question")]
    prompt = render_chat(processor, chat)
    whole = render_chat(processor, [*chat, message("assistant", _MARK)], generation=False)
    before, _, after = whole.rpartition(_MARK)
    lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
    end = next((token for token in special if after.lstrip().startswith(token)), processor.tokenizer.eos_token)
    return lead, end
