"""Several finished runs -> one pool of pairs: the first step of a dataset (dataset.py).

Runs go together when the same models made them in the same way from other questions, or with other seeds.
What occurs twice is kept once: a question that was asked twice with the same seed, and a pair that another
seed or another question repeats to the letter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from visrl_data import diagnostics
from visrl_data.config import GenConfig, Thresholds
from visrl_data.errors import VisRLError
from visrl_data.pixels import StoredImages
from visrl_data.prompts import Prompt, PromptSet
from visrl_data.store import TABLES, Run

# Options in which the runs of one dataset may differ. Thresholds are compared as the filter last used them,
# models and prompts by their digests.
MAY_DIFFER = {
    *("source", "split", "limit", "images_root", "columns", "gold_space", "ship_images", "license"),
    *("seed", "round", "device", "batch_size", "chunk_size", "trust_remote_code"),
    *("model", "critic", "prompts", "box_win", "box_lose", "response_win", "response_lose", "box_critic"),
}
_MODEL_MAY_DIFFER = {"model", "revision", "device"}  # the name under which the same weights were found
_PATHS = ("model", "critic", "source", "images_root", "prompts")


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a dataset. id: 12 hex digits of a digest of `about`.

    about: what the dataset says of it: config, run (its identity), filter, counts, sha256. Absolute paths are
    cut to their last part: they are of no use to others, and name folders of the machine.
    """

    run: Run
    id: str
    about: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """What a dataset is made of.

    questions: QUESTION_SCHEMA with the columns `run` (the member's id) and `image_bytes` (size of the
    encoded image), without repeated ones. pairs: PAIR_SCHEMA and `run`, without repeated ones. report: of
    the questions, before repeated pairs are left out.
    """

    members: tuple[Member, ...]
    questions: pa.Table
    pairs: pa.Table
    repeated_questions: int
    repeated_pairs: int
    report: dict[str, Any]
    images: StoredImages

    @property
    def prompts(self) -> PromptSet:
        return recorded_prompts(self.members[0].about)


def recorded_prompts(about: dict[str, Any]) -> PromptSet:
    """The prompts of a run, from the texts that it recorded."""
    templates = about["run"]["prompts"]
    return PromptSet(
        **{name: Prompt(name, text) for name, text in ((i.split("@")[0], t) for i, t in templates.items())}
    )


def merge_runs(paths: Sequence[Path]) -> Pool:
    """Open finished runs and put their questions and pairs together, in the order given.

    Raises VisRLError when one is not finished, when they were made in different ways, or when there is no pair.
    """
    opened = [_open(Path(path)) for path in paths]
    if not opened:
        raise VisRLError("No run was named. Give at least one finished run folder.")
    members = tuple({member.id: member for member in reversed(opened)}[i] for i in dict.fromkeys(m.id for m in opened))
    for other in members[1:]:
        _check_alike(members[0], other)
    images = StoredImages(
        shard for member in members for shard in sorted((member.run.path / "images").glob("part-*.parquet"))
    )
    asked = pa.concat_tables([_with_run(member.run.table("questions"), member) for member in members])
    questions = asked.filter(_first_of(_question_keys(asked, members)))
    found = [_with_run(pq.read_table(member.run.path / "pairs.parquet"), member) for member in members]
    pairs = _of_questions(pa.concat_tables(found), questions, "question_id")
    distinct = pairs.filter(_first_of(_pair_keys(pairs)))
    if not distinct.num_rows:
        raise VisRLError(
            f"{paths[0]} holds no pair, so there is nothing to publish. "
            f"See why with `visrl inspect {paths[0]}`; other thresholds: `visrl filter {paths[0]} --sweep`."
        )
    sizes = pa.array([images.sizes.get(sha, 0) for sha in questions["image_sha256"].to_pylist()], pa.int64())
    return Pool(
        members=members,
        questions=questions.append_column("image_bytes", sizes),
        pairs=distinct,
        repeated_questions=sum(m.about["counts"]["questions"] for m in opened) - questions.num_rows,
        repeated_pairs=pairs.num_rows - distinct.num_rows,
        report=_report(members, questions, pairs, whole=asked.num_rows == questions.num_rows),
        images=images,
    )


def with_candidates(pool: Pool) -> pa.Table:
    """The questions that the dataset's tables speak of: those with a candidate."""
    there: set[str] = set()
    for member in pool.members:
        ids = pc.unique(member.run.table("candidates", ["question_id"])["question_id"]).to_pylist()
        there.update(f"{member.id}:{name}" for name in ids)
    return pool.questions.filter(pc.is_in(_run_and_id(pool.questions, "id"), value_set=pa.array(there, pa.string())))


def candidate_batches(pool: Pool, rows: int = 10_000) -> Iterator[pa.Table]:
    """The candidates of the pool's questions, with the column `run`, in their stored order."""
    for member in pool.members:
        for shard in sorted((member.run.path / "candidates").glob("part-*.parquet")):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(rows):
                    table = _with_run(pa.Table.from_batches([batch]), member)
                    yield _of_questions(table, pool.questions, "question_id")


def question_places(table: pa.Table, questions: pa.Table, column: str) -> pa.ChunkedArray:
    """For each row its question's row number; null when the question is not there. Ids are unique in a run."""
    return pc.index_in(_run_and_id(table, column), value_set=_run_and_id(questions, "id").combine_chunks())


def _run_and_id(table: pa.Table, column: str) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["run"], table[column], ":")


def _of_questions(table: pa.Table, questions: pa.Table, column: str) -> pa.Table:
    return table.filter(pc.is_valid(question_places(table, questions, column)))


def _with_run(table: pa.Table, member: Member) -> pa.Table:
    return table.append_column("run", pa.repeat(pa.scalar(member.id), table.num_rows))


def _open(path: Path) -> Member:
    run = Run(path)
    manifest = json.loads(json.dumps(run.manifest()))
    config, identity = manifest["config"], manifest["run"]
    for name in _PATHS:
        if name in config:
            config[name] = shareable(config[name])
    for role in ("actor", "critic"):
        if "model" in identity[role]:
            identity[role]["model"] = shareable(identity[role]["model"])
    if "origin_base" in identity:
        identity["origin_base"]["id"] = shareable(identity["origin_base"]["id"])
    # the digests of these two are of texts that hold the paths
    digests = {name: sha for name, sha in manifest["sha256"].items() if name not in ("config.toml", "run.json")}
    about = {**manifest, "sha256": digests}
    return Member(run, hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12], about)


def shareable(text: str) -> str:
    """An option's value without the folders of this machine: an absolute path is cut to its last part."""
    path = PurePath(text)
    return path.name if path.is_absolute() or text.startswith("~") else text


def _check_alike(first: Member, other: Member) -> None:
    mine, theirs = _conditions(first.about), _conditions(other.about)
    differing = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    if differing:
        shown = "\n".join(f"  {key}: {mine.get(key, 'unset')} / {theirs.get(key, 'unset')}" for key in differing)
        raise VisRLError(
            f"{first.run.path} and {other.run.path} were made in different ways:\n{shown}\n"
            "Their rows would not mean the same. Publish them as two datasets; if only thresholds differ, "
            "`visrl filter` gives both runs the same ones."
        )


def _conditions(about: dict[str, Any]) -> dict[str, Any]:
    run = about["run"]
    options = {spec.name: about["config"].get(spec.name) for spec in dataclasses.fields(GenConfig)}
    named = {name: value for name, value in options.items() if name not in MAY_DIFFER}
    for role in ("actor", "critic"):
        named |= {f"{role} {key}": value for key, value in run[role].items() if key not in _MODEL_MAY_DIFFER}
    named |= {key: run[key] for key in ("schema_version", "box_space", "crop_rule")}
    return named | {"prompts": sorted(run["prompts"])} | {f"filter {key}": v for key, v in about["filter"].items()}


def _first_of(keys: list[str]) -> pa.Array:
    """True where a key occurs for the first time."""
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    return pa.array([first[key] == i for i, key in enumerate(keys)], pa.bool_())


def _question_keys(questions: pa.Table, members: Sequence[Member]) -> list[str]:
    """Equal keys: the same question, with the same seeds."""
    seeds = {member.id: [member.about["config"][name] for name in ("seed", "round")] for member in members}
    columns = ("run", "source", "split", "id", "question", "answers", "image_sha256")
    return [json.dumps([seeds[run], *rest]) for run, *rest in _rows(questions, columns)]


def _pair_keys(pairs: pa.Table) -> list[str]:
    """Equal keys: the same picture, question, boxes and responses."""
    sides = (f"{side}_{name}" for side in ("win", "lose") for name in ("box_text", "response"))
    return [json.dumps(row) for row in _rows(pairs, ("image_sha256", "question", *sides))]


def pair_ids(pairs: pa.Table) -> list[str]:
    """Of each pair its question's id and 8 hex digits for picture, boxes and responses; stays between versions."""
    keys = [hashlib.sha256(key.encode()).hexdigest()[:8] for key in _pair_keys(pairs)]
    return [f"{name}-{key}" for name, key in zip(pairs["question_id"].to_pylist(), keys, strict=True)]


def _rows(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)


def _report(members: Sequence[Member], questions: pa.Table, pairs: pa.Table, whole: bool) -> dict[str, Any]:
    """The run's own report; of several runs, or of one without its repeated rows, a new one over all of them."""
    if len(members) == 1 and whole:
        return json.loads((members[0].run.path / "report.json").read_text(encoding="utf-8"))
    from visrl_data.finishing import COLUMNS

    config, used = members[0].about["config"], dict(members[0].about["filter"])
    box_critic = used.pop("box_critic")
    candidates, drops = [], []
    for member in members:
        candidates.append(_with_run(member.run.table("candidates", COLUMNS), member))
        unpaired = pq.read_table(member.run.path / "unpaired.parquet")
        drops += [_with_run(table, member) for table in (member.run.table("drops"), unpaired)]
    lost = pa.concat_tables(drops)
    early = pc.equal(lost["stage"], "source")
    at_source = lost.filter(early)
    at_source = at_source.filter(_first_of([json.dumps(row) for row in _rows(at_source, ("source", "id", "reason"))]))
    later = _of_questions(lost.filter(pc.invert(early)), questions, "id")
    pool = _of_questions(pa.concat_tables(candidates), questions, "question_id")
    return diagnostics.report(
        _own_ids(questions, "id").select(TABLES["questions"].names),
        _own_ids(pool, "question_id"),
        _own_ids(pa.concat_tables([at_source, later]), "id"),
        _own_ids(pairs, "question_id"),
        thresholds=Thresholds(**used),
        box_critic=box_critic,
        attempts=config["attempts"],
        score_step=config["score_step"],
        gold_rule=config["gold_rule"],
    )


def _own_ids(table: pa.Table, column: str) -> pa.Table:
    """Ids that are unique across the runs."""
    return table.set_column(table.column_names.index(column), column, _run_and_id(table, column)).drop(["run"])
