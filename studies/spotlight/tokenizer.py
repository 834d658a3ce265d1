"""Spotlight's tokenizer: few tokens for what the pipeline says, no loss for anything else.

Used by build.py. Unigram without pre-tokenizer, every piece at the same cost, so that the fewest
pieces win: each fixed sentence of the prompts is one piece, each coordinate "0.000" to "1.000" is one
piece, each score "0.0" to "1.0" is one piece, frequent words are one piece; other text falls back to
characters and bytes. Special tokens cannot be forged: the template breaks their opening mark in text.
"""

from __future__ import annotations

import string

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from studies.spotlight.phrases import FREQUENT_WORDS
from visrl_data.core import prompts
from visrl_data.spotlight.scenes import COLORS, SHAPES

PAD, END, USER, ASSISTANT, SYSTEM, IMAGE = (
    "<|sl_pad|>",
    "<|sl_end|>",
    "<|sl_user|>",
    "<|sl_assistant|>",
    "<|sl_system|>",
    "<|sl_image|>",
)
MARK = "<|sl_"
"""Opening of every special token; in a message's text the template writes it as "<| sl_"."""
SPECIAL = (PAD, END, USER, ASSISTANT, SYSTEM, IMAGE)
COORDINATES = tuple(f"{k / 1000:.3f}" for k in range(1001))

CHAT_TEMPLATE = (
    "{%- macro clean(text) -%}{{ text | replace('<|sl_', '<| sl_') }}{%- endmacro -%}"
    "{%- for message in messages -%}"
    "{{ '<|sl_' ~ message.role ~ '|>' }}"
    "{%- if message.content is string -%}{{ clean(message.content) }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<|sl_image|>' }}{%- else -%}{{ clean(part.text) }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|sl_end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|sl_assistant|>' }}{%- endif -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer with its special tokens and chat template, padding on the left."""
    words = [form for word in _words() for form in (word, " " + word)]
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    learned = [*COORDINATES, *prompts.SCORE_CHOICES, prompts.SCORE_PREFIX, ", ", *_sentences(), *words, *characters]
    never_by_text = [*SPECIAL, "<|sl_unknown|>", *(f"<0x{k:02X}>" for k in range(256))]
    vocabulary = [(piece, -100.0) for piece in never_by_text] + [(piece, -1.0) for piece in dict.fromkeys(learned)]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=len(SPECIAL), byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM, IMAGE],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _sentences() -> list[str]:
    """Return the fixed stretches of the four default prompts, between fields and pictures."""
    found = []
    for prompt in prompts.PromptSet().all():
        blank = dict.fromkeys(("question", "answer", "response"), "\0")
        for part in prompt.parts(**blank):
            found += [piece for piece in part.text.split("\0") if len(piece) > 1]
    return found


def _words() -> list[str]:
    known = [*COLORS, *SHAPES, *FREQUENT_WORDS]
    return [form for word in known for form in (word, word.capitalize())] + list(string.ascii_uppercase)
