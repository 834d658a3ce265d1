"""The columns of a dataset's five configs, its splits, and the names of its files.

preferences  one readable row a pair: boxes, crops, responses, scores, where it comes from
rl1          the box as a preference, in TRL's conversational format (Eq. 5)
rl2          the box and the response; both responses under the crop of the WIN box (Eq. 7)
candidates   the whole pool with every score and raw reply, no pictures
images       each original image once
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from visrl_data.core.records import CANDIDATE_SCHEMA
from visrl_data.core.seeds import keyed_seed

SPLITS = ("train", "validation")


def split_files(folder: Path, config: str, split: str) -> list[Path]:
    """The shards of a config's split in a dataset folder, in order."""
    return sorted((folder / "data" / config).glob(f"{split}-*-of-*.parquet"))


KIND = "visrl dataset"


SCHEMA_VERSION = 1
"""Of the dataset's columns and files; apart from the data version, which is the tag."""


VALIDATION_SHARE = 0.1


_TEXT, _FLOAT, _INT, _FLAG, _LONG = (Value(kind) for kind in ("string", "float64", "int32", "bool", "int64"))


_BOX, _CROP = List(_FLOAT), List(_INT)


_TURNS = List({"role": _TEXT, "content": List({"type": _TEXT, "text": _TEXT})})


_SIDE = {
    "box": _BOX,
    "box_text": _TEXT,
    "response": _TEXT,
    "box_score": _FLOAT,
    "response_score": _FLOAT,
    "crop": _CROP,
    "box_origin": _TEXT,
    "index": _INT,
    "ties": _INT,
}


# Of the question, in preferences and candidates. image_bytes: size of the encoded image.
QUESTION_COLUMNS = {
    "gold_boxes": List(_BOX),
    "image_sha256": _TEXT,
    "image_bytes": _LONG,
    "image_width": _INT,
    "image_height": _INT,
    "source": _TEXT,
    "source_split": _TEXT,
    "source_id": _TEXT,
    "source_url": _TEXT,
    "license": _TEXT,
}


MADE_BY_COLUMNS = {"round": _INT, "seed": _LONG, "run": _TEXT, "generator_version": _TEXT}


PREFERENCES = Features(
    {
        "id": _TEXT,
        "question_id": _TEXT,
        "image": Image(),
        "question": _TEXT,
        "answers": List(_TEXT),
        **{f"{side}_{name}": feature for name, feature in _SIDE.items() for side in ("win", "lose")},
        "same_response": _FLAG,
        "box_space": _TEXT,
        **QUESTION_COLUMNS,
        "actor": _TEXT,
        "actor_digest": _TEXT,
        "critic": _TEXT,
        "critic_digest": _TEXT,
        "prompts": List(_TEXT),
        **MADE_BY_COLUMNS,
    }
)


RL1 = Features({"id": _TEXT, "images": List(Image()), "prompt": _TURNS, "chosen": _TURNS, "rejected": _TURNS})


RL2 = Features({"id": _TEXT, "pair_id": _TEXT, "step": _TEXT, **{name: RL1[name] for name in RL1 if name != "id"}})


CANDIDATES = Features(
    {
        **Features.from_arrow_schema(CANDIDATE_SCHEMA),
        "box": _BOX,
        "cells": _CROP,
        "crop": _CROP,
        "question": _TEXT,
        "answers": List(_TEXT),
        **QUESTION_COLUMNS,
        **MADE_BY_COLUMNS,
    }
)


IMAGES = Features(
    {"sha256": _TEXT, "image": Image(), "width": _INT, "height": _INT}
    | dict.fromkeys(("source", "source_id", "source_url", "license"), _TEXT)
)


CONFIGS = {"preferences": PREFERENCES, "rl1": RL1, "rl2": RL2, "candidates": CANDIDATES, "images": IMAGES}


def split_of(image_sha256: str, share: float = VALIDATION_SHARE) -> str:
    """The split of all rows about an image: a keyed hash decides, so an image never changes sides."""
    return "validation" if keyed_seed("validation", image_sha256) < share * 2**64 else "train"


@dataclass(frozen=True, slots=True)
class Facts:
    """One split of one config, as its files say. num_bytes: of the columns before compression."""

    rows: int
    num_bytes: int
    file_bytes: int
    schema: pa.Schema


def read_facts(folder: Path, configs: Iterable[str]) -> dict[str, dict[str, Facts]]:
    """What the parquet files of a dataset folder say of themselves, by config and split; only what is there."""
    found = {config: {split: _facts(files) for split in SPLITS if (files := split_files(folder, config, split))}
             for config in configs}  # fmt: skip
    return {config: splits for config, splits in found.items() if splits}


def _facts(files: list[Path]) -> Facts:
    footers = [pq.read_metadata(file) for file in files]
    groups = [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)]
    return Facts(
        rows=sum(footer.num_rows for footer in footers),
        num_bytes=sum(group.total_byte_size for group in groups),
        file_bytes=sum(file.stat().st_size for file in files),
        schema=pq.read_schema(files[0]),
    )
