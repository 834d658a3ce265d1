"""The rows of a dataset's five configs, and their features.

    preferences  one readable row a pair: boxes, crops, responses, scores, where it comes from
    rl1          the box as a preference, in TRL's conversational format (Eq. 5)
    rl2          the box and the response; both responses under the crop of the WIN box (Eq. 7)
    candidates   the whole pool with every score and raw reply, no pictures
    images       each original image once

Made by dataset.py from runs and by rebuild.py from a published dataset; the rows that hold pictures are a
function of the preferences, the prompts and the pictures, so both give the same bytes.

In rl1 and rl2 the content of a turn is a list of {type, text}: pictures and text in the prompt's own order,
which survives Arrow (a key `image`, absent in some parts, would come back as null there and count as a picture).
Text that looks like a model's own marker of a picture or a turn is broken up by a zero-width space, as
the engine does, so that it stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Image, List, Value

from visrl_data.prompts import Part, PromptSet
from visrl_data.publishing import pixels
from visrl_data.publishing.merging import pair_ids, question_places
from visrl_data.publishing.parts import Member
from visrl_data.publishing.shards import SPLITS
from visrl_data.records import CANDIDATE_SCHEMA
from visrl_data.seeds import keyed_seed
from visrl_data.store import ROWS

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
_QUESTION = {
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
_MADE_BY = {"round": _INT, "seed": _LONG, "run": _TEXT, "generator_version": _TEXT}
_OF_QUESTION = {"image_width": "width", "image_height": "height", "source_split": "split"}

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
        **_QUESTION,
        "actor": _TEXT,
        "actor_digest": _TEXT,
        "critic": _TEXT,
        "critic_digest": _TEXT,
        "prompts": List(_TEXT),
        **_MADE_BY,
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
        **_QUESTION,
        **_MADE_BY,
    }
)
IMAGES = Features(
    {"sha256": _TEXT, "image": Image(), "width": _INT, "height": _INT}
    | dict.fromkeys(("source", "source_id", "source_url", "license"), _TEXT)
)
CONFIGS = {"preferences": PREFERENCES, "rl1": RL1, "rl2": RL2, "candidates": CANDIDATES, "images": IMAGES}

# What models write for a picture, a turn or a control token: <image>, <|im_end|>, <start_of_turn>, [INST] ...
_MARKER = re.compile(
    r"<(?=/?(?:image|video|audio|img|s|bos|eos|pad|unk|bbox|ref-object|\w+_of_\w+)>|\|)|\[(?=/?INST\])"
)


def split_of(image_sha256: str, share: float = VALIDATION_SHARE) -> str:
    """The split of all rows about an image: a keyed hash decides, so an image never changes sides."""
    return "validation" if keyed_seed("validation", image_sha256) < share * 2**64 else "train"


@dataclass(frozen=True, slots=True, eq=False)
class PairSet:
    """Pairs and what it takes to make training rows of them.

    pairs: the columns of PREFERENCES without `image`. embedded: sha256 of the pictures that `pixels` may be
    asked for; rows of others have no picture.
    """

    pairs: pa.Table
    prompts: PromptSet
    pixels: pixels.Pixels
    embedded: frozenset[str]


@dataclass(frozen=True, slots=True)
class Example:
    """One training row before any format. pictures: encoded, in the order of the prompt's pictures."""

    id: str
    pair_id: str
    step: str
    parts: tuple[Part, ...]
    pictures: tuple[bytes, ...]
    chosen: str
    rejected: str


def pair_columns(pairs: pa.Table, questions: pa.Table, members: Sequence[Member]) -> pa.Table:
    """PAIR_SCHEMA with `run`, and the questions -> the columns of PREFERENCES without the picture."""
    asked = questions.take(question_places(pairs, questions, "question_id"))
    columns: dict[str, Any] = {name: pairs[name] for name in PREFERENCES if name in pairs.column_names}
    columns |= _question_columns(asked) | {"id": pair_ids(pairs)}
    columns |= _per_run(pairs["run"].to_pylist(), {member.id: _origin(member) for member in members})
    schema = _without_picture()
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _without_picture() -> pa.Schema:
    return Features({name: kind for name, kind in PREFERENCES.items() if name != "image"}).arrow_schema


def _question_columns(asked: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: asked[_OF_QUESTION.get(name, name)] for name in _QUESTION}


def _per_run(runs: list[str], values: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    names = next(iter(values.values()))
    return {name: [values[run][name] for run in runs] for name in names}


def _origin(member: Member) -> dict[str, Any]:
    run = member.about["run"]

    def named(role: str) -> str:
        model, revision = run[role].get("model", run[role]["engine"]), run[role].get("revision")
        return f"{model}@{revision}" if revision and "@" not in model else model

    return {
        "actor": named("actor"),
        "actor_digest": run["actor"].get("digest", ""),
        "critic": named("critic"),
        "critic_digest": run["critic"].get("digest", ""),
        "prompts": list(run["prompts"]),
        "box_space": run["box_space"],
        **_made_by(member),
    }


def _made_by(member: Member) -> dict[str, Any]:
    config, run = member.about["config"], member.about["run"]
    return {
        "round": config["round"],
        "seed": config["seed"],
        "run": member.id,
        "generator_version": run["versions"]["visrl"],
    }


def candidate_columns(candidates: pa.Table, questions: pa.Table, members: Sequence[Member]) -> pa.Table:
    """CANDIDATE_SCHEMA with `run`, and the questions -> the columns of CANDIDATES."""
    asked = questions.take(question_places(candidates, questions, "question_id"))
    columns: dict[str, Any] = {name: candidates[name] for name in CANDIDATE_SCHEMA.names}
    columns |= _question_columns(asked) | {name: asked[name] for name in ("question", "answers")}
    columns |= _per_run(candidates["run"].to_pylist(), {member.id: _made_by(member) for member in members})
    return pa.table({name: columns[name] for name in CANDIDATES}).cast(CANDIDATES.arrow_schema)


def by_split(tables: Iterator[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """Cut tables that have an `image_sha256` by split, into pieces of ROWS rows however they came."""
    held = {split: CANDIDATES.arrow_schema.empty_table() for split in SPLITS}
    for table in tables:
        splits = pa.array([split_of(sha) for sha in table["image_sha256"].to_pylist()], pa.string())
        for split in SPLITS:
            held[split] = pa.concat_tables(
                [held[split], table.filter(pc.equal(splits, split)).cast(held[split].schema)]
            )
            while held[split].num_rows >= ROWS:
                yield split, held[split].slice(0, ROWS)
                held[split] = held[split].slice(ROWS)
    yield from held.items()


def preference_rows(pairs: PairSet) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row of PREFERENCES); the picture is null where it is not embedded."""
    for row in rows_of(pairs.pairs):
        sha = row["image_sha256"]
        picture = _stored(pairs.pixels(sha)) if sha in pairs.embedded else None
        yield split_of(sha), {**row, "image": picture}


def training_rows(pairs: PairSet, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row of RL1 or RL2) of the pairs whose picture is embedded."""
    names = CONFIGS[config]
    for split, example in examples(pairs, responses=config == "rl2"):
        row = {
            "id": example.id,
            "pair_id": example.pair_id,
            "step": example.step,
            "images": [_stored(picture) for picture in example.pictures],
            "prompt": [{"role": "user", "content": [_content(part) for part in example.parts]}],
            "chosen": _said(example.chosen),
            "rejected": _said(example.rejected),
        }
        yield split, {name: row[name] for name in names}


def examples(pairs: PairSet, responses: bool) -> Iterator[tuple[str, Example]]:
    """(split, training row): the focus row of each pair and, with `responses`, its response row after it.

    A pair whose responses are the same text has no response row: there is nothing to prefer.
    """
    for row in rows_of(pairs.pairs):
        sha, name = row["image_sha256"], row["id"]
        if sha not in pairs.embedded:
            continue
        split, question, original = split_of(sha), as_text(row["question"]), pairs.pixels(sha)
        whole = pixels.upright(original)
        boxes = (row["win_box_text"], row["lose_box_text"])
        parts = pairs.prompts.focus.parts(question=question)
        yield split, Example(f"{name}-focus" if responses else name, name, "focus", parts, (whole,), *boxes)
        if responses and not row["same_response"]:
            parts = pairs.prompts.answer.parts(question=question)
            seen = {"image": whole, "crop": pixels.crop(original, tuple(row["win_crop"]))}
            pictures = tuple(seen[part.kind] for part in parts if part.kind != "text")
            said = (as_text(row["win_response"]), as_text(row["lose_response"]))
            yield split, Example(f"{name}-response", name, "response", parts, pictures, *said)


def image_rows(candidates: Iterator[pa.Table], pairs: PairSet) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row of IMAGES): every embedded picture that a candidate is about, once, as its source had it."""
    seen: set[str] = set()
    columns = ["image_sha256", "image_width", "image_height", "source", "source_id", "source_url", "license"]
    for table in candidates:
        for sha, width, height, *origin in zip(*(table[name].to_pylist() for name in columns), strict=True):
            if sha in pairs.embedded and sha not in seen:
                seen.add(sha)
                row = {"sha256": sha, "image": _stored(pairs.pixels(sha)), "width": width, "height": height}
                yield split_of(sha), row | dict(zip(columns[3:], origin, strict=True))


def rows_of(table: pa.Table, at_once: int = 1_000) -> Iterator[dict[str, Any]]:
    for start in range(0, table.num_rows, at_once):
        yield from table.slice(start, at_once).to_pylist()


def as_text(text: str) -> str:
    """Break up what a tokenizer would read as a marker: "<image>" keeps its letters but is one no more."""
    return _MARKER.sub(lambda found: f"{found[0]}\u200b", text)


def _content(part: Part) -> dict[str, str | None]:
    return {"type": "text", "text": part.text} if part.kind == "text" else {"type": "image", "text": None}


def _said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _stored(data: bytes) -> dict[str, Any]:
    """A value of a `datasets` Image column."""
    return {"bytes": data, "path": None}
