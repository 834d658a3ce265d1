"""Make the rows of a dataset's five configs.

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
from visrl_data.engines.protocol import ModelIdentity
from visrl_data.publishing.merge import question_places
from visrl_data.runs.dataset_files import SPLITS, split_of
from visrl_data.runs.dataset_schema import CANDIDATES, CONFIGS, PREFERENCES, QUESTION_COLUMNS
from visrl_data.runs.manifest import critic_identity
from visrl_data.runs.pair_ids import pair_ids
from visrl_data.runs.pair_set import PairTable, rows_of, training_examples
from visrl_data.runs.parts import Member

_OF_QUESTION = {"image_width": "width", "image_height": "height", "source_split": "split"}


def pair_columns(pairs: pa.Table, questions: pa.Table, members: Sequence[Member]) -> pa.Table:
    """Turn PAIR_SCHEMA with `run`, and the questions, into the columns of PREFERENCES without the picture."""
    features = Features({name: kind for name, kind in PREFERENCES.items() if name != "image"})
    ids = pa.array(pair_ids(pairs), pa.string())
    return _columns(features.arrow_schema, pairs.append_column("id", ids), questions, members)


def candidate_columns(candidates: pa.Table, questions: pa.Table, members: Sequence[Member]) -> pa.Table:
    """Turn CANDIDATE_SCHEMA with `run`, and the questions, into the columns of CANDIDATES."""
    return _columns(CANDIDATES.arrow_schema, candidates, questions, members)


def _columns(schema: pa.Schema, table: pa.Table, questions: pa.Table, members: Sequence[Member]) -> pa.Table:
    """Take each column of a schema from the runs' manifests, the questions or the table."""
    of_rows = questions.take(question_places(table, questions, "question_id"))
    facts = {member.id: _run_facts(member) for member in members}

    def column(name: str) -> Any:
        if name in facts[members[0].id]:
            return [facts[run][name] for run in table["run"].to_pylist()]
        if name in QUESTION_COLUMNS:
            return of_rows[_OF_QUESTION.get(name, name)]
        return table[name] if name in table.column_names else of_rows[name]

    return pa.table({name: column(name) for name in schema.names}).cast(schema)


def _run_facts(member: Member) -> dict[str, Any]:
    config, run = member.about["config"], member.about["run"]
    critic = critic_identity(run, config)

    def name(identity: ModelIdentity) -> str:
        model, revision = identity.get("model", identity["engine"]), identity.get("revision")
        return f"{model}@{revision}" if revision and "@" not in model else model

    return {
        "actor": name(run["actor"]),
        "actor_digest": run["actor"].get("digest", ""),
        "critic": name(critic) if critic else "",
        "critic_digest": critic.get("digest", "") if critic else "",
        "prompts": list(run["prompts"]),
        "box_space": run["box_space"],
        "round": config["round"],
        "seed": config["seed"],
        "run": member.id,
        "generator_version": run["versions"]["visrl"],
    }


def by_split(tables: Iterator[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """Cut tables that have an `image_sha256` by split, into pieces of ROWS rows whatever their own size."""
    pending = {split: CANDIDATES.arrow_schema.empty_table() for split in SPLITS}
    for table in tables:
        splits = pa.array([split_of(sha) for sha in table["image_sha256"].to_pylist()], pa.string())
        for split in SPLITS:
            pending[split] = pa.concat_tables(
                [pending[split], table.filter(pc.equal(splits, split)).cast(pending[split].schema)]
            )
            while pending[split].num_rows >= ROWS:
                yield split, pending[split].slice(0, ROWS)
                pending[split] = pending[split].slice(ROWS)
    yield from pending.items()


def preference_rows(pairs: PairTable) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (split, row of PREFERENCES); the picture is null where it is not embedded."""
    for row in rows_of(pairs.pairs):
        sha = row["image_sha256"]
        picture = _stored(pairs.pixels(sha)) if sha in pairs.embedded else None
        yield split_of(sha), {**row, "image": picture}


def training_rows(pairs: PairTable, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (split, row of RL1 or RL2) of the pairs whose picture is embedded."""
    names = CONFIGS[config]
    for split, example in training_examples(pairs, responses=config == "rl2"):
        row = {
            "id": example.id,
            "pair_id": example.pair_id,
            "step": example.step,
            "images": [_stored(picture) for picture in example.pictures],
            "prompt": [{"role": "user", "content": [_content(part) for part in example.parts]}],
            "chosen": _turn(example.chosen),
            "rejected": _turn(example.rejected),
        }
        yield split, {name: row[name] for name in names}


def image_rows(candidates: Iterator[pa.Table], pairs: PairTable) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (split, row of IMAGES): every embedded picture that a candidate is about, once, as its source had it."""
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


def _turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _stored(data: bytes) -> dict[str, Any]:
    """Return a value of a `datasets` Image column."""
    return {"bytes": data, "path": None}
