"""Turns with a reply to learn, as tensors; the same tokens that generation sees.

Used by collator.py for every stage. The prompt is written by the engine's own code (engines/transformers.py),
so training and generation cannot drift apart. Prompt and reply go through the processor in ONE call:
masks that cover the whole sequence (Mllama's cross-attention) come out right, which they do not when the
two are processed apart.

    prompt | lead reply end | padding      input_ids (B, L), padded on the right
      0    |       1        |    0         completion_mask (B, L)

lead is what the chat template puts before a reply (a blank, for LLaVA-1.5); end is the special token that
it writes after one, or the tokenizer's end of text where it writes none.

PaliGemma's processor wants the reply apart, as `suffix`: it closes the prompt itself, and its token_type_ids
tell the reply, which is read in order, from the prompt, which is seen at once.
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
from visrl_data.engines.messages import plain_text
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.transformers import TransformersEngine

_MARK = "MARK"


@dataclass(frozen=True, slots=True)
class Turn:
    """A user turn and the reply to learn. id is for messages; images: one for each picture part."""

    id: str
    parts: tuple[PromptPart, ...]
    images: tuple[Image, ...]
    reply: str


class Turns:
    """Writes turns with one processor.

    max_tokens: the longest sequence that the model can read. tell_pictures: say which pictures of a batch are
    the same, for models that encode them once (pictures.py).
    """

    # The engine's own methods: they need a processor and its special tokens, but no model.
    _text: Any = TransformersEngine._text
    resized_size: Any = TransformersEngine.resized_size

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
        """The text before the reply, as the engine gives it to the processor."""
        text: str = self._text(Request(turn.parts, turn.images, (), Sampling()))
        return text

    def plain(self, text: str) -> str:
        """A text as the engine writes it into a prompt."""
        return plain_text(text, self._special)

    def completion(self, reply: str) -> str:
        """The text that carries the loss. Special tokens spelt out in a reply stay text; the marks of a box do not."""
        marks = box_tokens(reply)
        for token in self._never_in_replies:
            if token not in marks:
                reply = reply.replace(token, f"{token[0]}\u200b{token[1:]}")
        return self._lead + reply + self._end

    def encode(self, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, completion_mask (B, L), and the processor's tensors of all N pictures.

        pictures (N,), if asked for: which are the same object, numbered as they first appear.
        Raises VisRLError when a row has no token to learn, or not all of what it should hold.
        """
        prompts = [self.prompt(turn) for turn in turns]
        replies = [self.completion(turn.reply) for turn in turns]
        made = self._joined(turns, prompts, replies) if not self._takes_suffix else self._apart(turns, prompts, replies)
        if self.tell_pictures:
            numbers: dict[int, int] = {}
            shown = [numbers.setdefault(id(image), len(numbers)) for turn in turns for image in turn.images]
            made["pictures"] = torch.tensor(shown)
        return made

    def _joined(self, turns: Sequence[Turn], prompts: list[str], replies: list[str]) -> dict[str, torch.Tensor]:
        """Prompt and reply as one text."""
        texts = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
        bos = self.processor.tokenizer.bos_token
        special = not (bos and texts[0].startswith(bos))
        made = self._process(turns, text=texts, add_special_tokens=special)
        mask = torch.zeros_like(made["attention_mask"])
        lengths = made["attention_mask"].sum(dim=1).tolist()
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            before, whole = (self._ids(part, special) for part in (prompt, text))
            ids = made["input_ids"][i, : lengths[i]].tolist()
            self._check(turns[i].id, before, whole, ids)
            mask[i, lengths[i] - (len(whole) - len(before)) : lengths[i]] = 1
        return {**made, "completion_mask": mask}

    def _apart(self, turns: Sequence[Turn], prompts: list[str], replies: list[str]) -> dict[str, torch.Tensor]:
        """The reply as suffix; the processor writes the end of text after it."""
        suffixes = [reply.removesuffix(self.processor.tokenizer.eos_token) for reply in replies]
        made = self._process(turns, text=prompts, suffix=suffixes)
        made.pop("labels")
        mask = made["token_type_ids"] * made["attention_mask"]
        for turn, reply, ids, learnt in zip(turns, replies, made["input_ids"], mask.bool(), strict=True):
            if ids[learnt].tolist() != self._ids(reply, False):
                raise VisRLError(f"Row {turn.id}: the processor cut or changed its reply; expected it whole.")
            self._check_length(turn.id, len(ids))
        return {**made, "completion_mask": mask}

    def _process(self, turns: Sequence[Turn], **texts: Any) -> dict[str, torch.Tensor]:
        pictures = [list(turn.images) for turn in turns]
        options = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        return dict(self.processor(images=pictures, **texts, **options))

    def _ids(self, text: str, special: bool) -> list[int]:
        """The tokens of a text whose image placeholders are not spread out."""
        tokens: list[int] = self.processor.tokenizer(text, add_special_tokens=special)["input_ids"]
        return tokens

    def _check(self, row: str, before: list[int], whole: list[int], ids: list[int]) -> None:
        """The row as processed begins and ends as its text does: nothing of it, no image token, was cut."""
        learnt = whole[len(before) :]
        if not learnt or whole[: len(before)] != before:
            raise VisRLError(f"Row {row}: its prompt and its reply share a token, so the reply can't be learnt alone.")
        if ids[0] != whole[0] or ids[-len(learnt) :] != learnt or len(ids) < len(whole):
            raise VisRLError(f"Row {row}: the processor cut or changed its tokens; expected them whole.")
        self._check_length(row, len(ids))

    def _check_length(self, row: str, length: int) -> None:
        if self.max_tokens is not None and length > self.max_tokens:
            raise VisRLError(
                f"Row {row} has {length} tokens, the model reads {self.max_tokens}. "
                "Bound the pictures with --max-pixels; cutting the row would cut what is to be learnt."
            )


def _around_a_reply(processor: Any, special: list[str]) -> tuple[str, str]:
    """What the chat template writes before a reply (after the generation prompt), and the token that ends it."""

    def say(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    def written(chat: list[dict[str, Any]], generation: bool) -> str:
        text: str = processor.apply_chat_template(chat, add_generation_prompt=generation, tokenize=False)
        return text

    asked = [say("user", "question")]
    prompt, whole = written(asked, True), written([*asked, say("assistant", _MARK)], False)
    before, _, after = whole.rpartition(_MARK)
    lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
    end = next((token for token in special if after.lstrip().startswith(token)), processor.tokenizer.eos_token)
    return lead, end
