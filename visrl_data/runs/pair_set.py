"""Turn preference pairs into training examples: prompt parts, images, chosen and rejected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from visrl_data.core.prompts import PromptPart, PromptSet
from visrl_data.runs import stored_images
from visrl_data.runs.dataset_files import split_of
from visrl_data.runs.image_fit import ImageFit

# How models write an image, a turn or a control token: <image>, <|im_end|>, <start_of_turn>, [INST] ...
_MARKER = re.compile(
    r"<(?=/?(?:image|video|audio|img|s|bos|eos|pad|unk|bbox|ref-object|\w+_of_\w+)>|\|)|\[(?=/?INST\])"
)


@dataclass(frozen=True, slots=True, eq=False)
class PairTable:
    """Pairs, and what training examples are built from.

    pairs: the columns of PREFERENCES without `image`. embedded: sha256 of the images that `pixels` returns; pairs of
    other images were published without theirs. fit: how the pictures of training examples are changed.
    """

    pairs: pa.Table
    prompts: PromptSet
    pixels: stored_images.Pixels
    embedded: frozenset[str]
    fit: ImageFit


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A training example before any format. pictures: encoded images, in the order of the prompt's placeholders."""

    id: str
    pair_id: str
    step: str
    parts: tuple[PromptPart, ...]
    pictures: tuple[bytes, ...]
    chosen: str
    rejected: str


def training_examples(pairs: PairTable, responses: bool) -> Iterator[tuple[str, TrainingExample]]:
    """Yield (split, example): of each pair the focus example and, with `responses`, its response example after it.

    A pair whose responses are the same text has no response example: there is nothing to prefer.
    """
    for row in rows_of(pairs.pairs):
        sha, name = row["image_sha256"], row["id"]
        if sha not in pairs.embedded:
            continue
        split, question, original = split_of(sha), as_text(row["question"]), pairs.pixels(sha)
        whole = pairs.fit.whole(stored_images.upright(original), row)
        boxes = (row["win_box_text"], row["lose_box_text"])
        parts = pairs.prompts.focus.parts(question=question)
        yield split, TrainingExample(f"{name}-focus" if responses else name, name, "focus", parts, (whole,), *boxes)
        if responses and not row["same_response"]:
            parts = pairs.prompts.answer.parts(question=question)
            # both responses under the WIN box's crop (Eq. 7)
            images = {"image": whole, "crop": pairs.fit.crop(stored_images.crop(original, tuple(row["win_crop"])))}
            pictures = tuple(images[part.kind] for part in parts if part.kind != "text")
            responses_of = (as_text(row["win_response"]), as_text(row["lose_response"]))
            yield split, TrainingExample(f"{name}-response", name, "response", parts, pictures, *responses_of)


def rows_of(table: pa.Table, batch_size: int = 1_000) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as dicts."""
    for start in range(0, table.num_rows, batch_size):
        yield from table.slice(start, batch_size).to_pylist()


def as_text(text: str) -> str:
    """Break up what a tokenizer would read as a marker: "<image>" keeps its letters but is no marker any more."""
    return _MARKER.sub(lambda marker: f"{marker[0]}\u200b", text)
