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

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features

from visrl_data.core.files import ROWS
from visrl_data.core.prompts import PromptPart
from visrl_data.core.records import CANDIDATE_SCHEMA
from visrl_data.publishing.merge import pair_ids, question_places
from visrl_data.runs.dataset_files import SPLITS, split_of
from visrl_data.runs.dataset_schema import CANDIDATES, CONFIGS, PREFERENCES, QUESTION_COLUMNS
from visrl_data.runs.pair_set import PairTable, rows_of, training_examples
from visrl_data.runs.parts import Member

_OF_QUESTION = {"image_width": "width", "image_height": "height", "source_split": "split"}


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
    return {name: asked[_OF_QUESTION.get(name, name)] for name in QUESTION_COLUMNS}


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


def preference_rows(pairs: PairTable) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row of PREFERENCES); the picture is null where it is not embedded."""
    for row in rows_of(pairs.pairs):
        sha = row["image_sha256"]
        picture = _stored(pairs.pixels(sha)) if sha in pairs.embedded else None
        yield split_of(sha), {**row, "image": picture}


def training_rows(pairs: PairTable, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row of RL1 or RL2) of the pairs whose picture is embedded."""
    names = CONFIGS[config]
    for split, example in training_examples(pairs, responses=config == "rl2"):
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


def image_rows(candidates: Iterator[pa.Table], pairs: PairTable) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row of IMAGES): every embedded picture that a candidate is about, once, as its source had it."""
    seen: set[str] = set()
    columns = ["image_sha256", "image_width", "image_height", "source", "source_id", "source_url", "license"]
    for table in candidates:
        for sha, width, height, *origin in zip(*(table[name].to_pylist() for name in columns), strict=True):
            if sha in pairs.embedded and sha not in seen:
                seen.add(sha)
                row = {"sha256": sha, "image": _stored(pairs.pixels(sha)), "width": width, "height": height}
                yield split_of(sha), row | dict(zip(columns[3:], origin, strict=True))


def _content(part: PromptPart) -> dict[str, str | None]:
    return {"type": "text", "text": part.text} if part.kind == "text" else {"type": "image", "text": None}


def _said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _stored(data: bytes) -> dict[str, Any]:
    """A value of a `datasets` Image column."""
    return {"bytes": data, "path": None}
