"""Define the columns of a dataset's five configs.

preferences  one readable row per pair: boxes, crops, responses, scores, provenance
rl1          the box as a preference, in TRL's conversational format (Eq. 5)
rl2          the box and the response; both responses under the crop of the WIN box (Eq. 7)
candidates   the whole pool with every score and raw reply, no images
images       each original image once
"""

from __future__ import annotations

from datasets import Features, Image, List, Value

from visrl_data.core.records import CANDIDATE_SCHEMA

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
