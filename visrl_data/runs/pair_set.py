"""Turn preference pairs into training examples: text parts, pictures, chosen and rejected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from visrl_data.core.prompts import PromptPart, PromptSet
from visrl_data.runs import stored_images
from visrl_data.runs.dataset_files import split_of

# What models write for a picture, a turn or a control token: <image>, <|im_end|>, <start_of_turn>, [INST] ...
_MARKER = re.compile(
    r"<(?=/?(?:image|video|audio|img|s|bos|eos|pad|unk|bbox|ref-object|\w+_of_\w+)>|\|)|\[(?=/?INST\])"
)


@dataclass(frozen=True, slots=True, eq=False)
class PairTable:
    """Pairs and what it takes to make training rows of them.

    pairs: the columns of PREFERENCES without `image`. embedded: sha256 of the pictures that `pixels` may be
    asked for; rows of others have no picture.
    """

    pairs: pa.Table
    prompts: PromptSet
    pixels: stored_images.Pixels
    embedded: frozenset[str]


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One training row before any format. pictures: encoded, in the order of the prompt's pictures."""

    id: str
    pair_id: str
    step: str
    parts: tuple[PromptPart, ...]
    pictures: tuple[bytes, ...]
    chosen: str
    rejected: str


def training_examples(pairs: PairTable, responses: bool) -> Iterator[tuple[str, TrainingExample]]:
    """(split, training row): the focus row of each pair and, with `responses`, its response row after it.

    A pair whose responses are the same text has no response row: there is nothing to prefer.
    """
    for row in rows_of(pairs.pairs):
        sha, name = row["image_sha256"], row["id"]
        if sha not in pairs.embedded:
            continue
        split, question, original = split_of(sha), as_text(row["question"]), pairs.pixels(sha)
        whole = stored_images.upright(original)
        boxes = (row["win_box_text"], row["lose_box_text"])
        parts = pairs.prompts.focus.parts(question=question)
        yield split, TrainingExample(f"{name}-focus" if responses else name, name, "focus", parts, (whole,), *boxes)
        if responses and not row["same_response"]:
            parts = pairs.prompts.answer.parts(question=question)
            seen = {"image": whole, "crop": stored_images.crop(original, tuple(row["win_crop"]))}
            pictures = tuple(seen[part.kind] for part in parts if part.kind != "text")
            said = (as_text(row["win_response"]), as_text(row["lose_response"]))
            yield split, TrainingExample(f"{name}-response", name, "response", parts, pictures, *said)


def rows_of(table: pa.Table, at_once: int = 1_000) -> Iterator[dict[str, Any]]:
    for start in range(0, table.num_rows, at_once):
        yield from table.slice(start, at_once).to_pylist()


def as_text(text: str) -> str:
    """Break up what a tokenizer would read as a marker: "<image>" keeps its letters but is one no more."""
    return _MARKER.sub(lambda found: f"{found[0]}\u200b", text)
