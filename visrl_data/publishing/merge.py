"""Merge runs, and datasets that were made of runs (parts.py), into one pool: the first step of dataset.py.

Runs can be merged when the same models made them under the same conditions, from other questions or with other
seeds. Repeats are kept once: a question with the same seed, and a pair that another seed or another question
gives word for word.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.attempts import plan_from
from visrl_data.core.conditions import check_same
from visrl_data.core.config import current_options
from visrl_data.core.errors import VisRLError
from visrl_data.core.pair_rule import rule_from
from visrl_data.core.prompts import PromptSet, recorded_prompts
from visrl_data.core.records import CANDIDATE_SCHEMA, QUESTION_SCHEMA
from visrl_data.report import run_statistics
from visrl_data.runs import parts
from visrl_data.runs.manifest import RunManifest, bound_of_images
from visrl_data.runs.marks import join_marks
from visrl_data.runs.pair_ids import distinct_pairs, first_of, pair_ids, rows
from visrl_data.runs.parts import DatasetPart, Member
from visrl_data.runs.run_report import RunReport
from visrl_data.runs.stored_images import StoredImages

# Options in which the runs of one dataset may differ. Thresholds are compared as the filter last used them,
# models and prompts by their digests.
MAY_DIFFER = {
    *("source", "split", "skip", "limit", "images_root", "allow_urls", "columns", "gold_space", "gold_format"),
    *("ship_images", "license"),
    *("seed", "round", "device", "batch_size", "chunk_size", "in_flight", "trust_remote_code"),
    *("model", "critic", "prompts", "box_win", "box_lose", "response_win", "response_lose", "box_critic"),
    *("lose", "vllm_options"),  # those of vLLM on which replies depend are compared with the models
}
# The name under which the same weights were found, and where they ran.
_MODEL_MAY_DIFFER = {f"{role}.{name}" for role in ("actor", "critic") for name in ("model", "revision", "device")}


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """What a dataset is made of.

    parts: each without the runs of an earlier one. tables: RUN_TABLES of all parts; questions without repeats,
    and their drops and pairs. distinct: the pairs without repeats. report: of the questions, before repeated pairs
    are left out. published: sha256 of the pictures that a merged dataset shows. marks: what people
    marked of the distinct pairs.
    """

    parts: tuple[DatasetPart, ...]
    tables: dict[str, pa.Table]
    distinct: pa.Table
    repeated_questions: int
    report: RunReport
    images: StoredImages
    published: frozenset[str]
    marks: pa.Table

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(member for part in self.parts for member in part.members)

    @property
    def questions(self) -> pa.Table:
        return self.tables["questions"]

    @property
    def repeated_pairs(self) -> int:
        return int(self.tables["pairs"].num_rows - self.distinct.num_rows)

    @property
    def prompts(self) -> PromptSet:
        return recorded_prompts(self.members[0].about["run"]["prompts"])


def merge(sources: Sequence[DatasetPart]) -> Pool:
    """Put the questions and pairs of parts together, in the order given.

    Raises VisRLError when their runs were made in different ways, or when there is no pair.
    """
    if not sources:
        raise VisRLError("No run was named. Give at least one finished run folder.")
    pool_parts = tuple(part for part in _without_earlier(sources) if part.members)
    members = [member for part in pool_parts for member in part.members]
    advice = "Publish them as two datasets; if only names that begin with `filter` differ, `visrl filter` helps."
    for other in members[1:]:  # made under different conditions, their rows would not mean the same
        subject, first, second = f"{members[0].place} and {other.place}", members[0].about, other.about
        unrecorded = {"image_settings"} - (first["run"].keys() & second["run"].keys())
        check_same(subject, _conditions(first), _conditions(second), advice, _MODEL_MAY_DIFFER | unrecorded)
    everything = _all(pool_parts, "questions")
    questions = everything.filter(first_of(_question_keys(everything, members)))
    pairs = _of_questions(_all(pool_parts, "pairs"), questions, "question_id")
    distinct = distinct_pairs(pairs)
    if not distinct.num_rows:
        place, name = members[0].place, shlex.quote(members[0].place)
        raise VisRLError(
            f"{place} holds no pair, so there is nothing to publish. "
            f"See why with `visrl inspect {name}`; other thresholds: `visrl filter {name} --sweep`."
        )
    tables = {"questions": questions, "drops": _drops(pool_parts, questions), "pairs": pairs}
    total = sum(member.about["counts"]["questions"] for part in sources for member in part.members)
    return Pool(
        parts=pool_parts,
        tables=tables,
        distinct=distinct,
        repeated_questions=total - questions.num_rows,
        report=_report(pool_parts, tables, whole=everything.num_rows == questions.num_rows),
        images=StoredImages(file for part in sources for file in part.images),
        marks=_marks_of(sources, distinct),
        published=frozenset(StoredImages(file for part in sources if part.dataset for file in part.images).sizes),
    )


def _marks_of(sources: Sequence[DatasetPart], pairs: pa.Table) -> pa.Table:
    """Return what people marked of these pairs."""
    marks = join_marks(*(part.marks for part in sources))
    return marks.filter(pc.is_in(marks["pair_id"], value_set=pa.array(pair_ids(pairs), pa.string())))


def _without_earlier(sources: Sequence[DatasetPart]) -> Iterator[DatasetPart]:
    """Yield each part without the runs of an earlier one: a run counts in the first part that holds it."""
    seen: set[str] = set()
    for part in sources:
        new = [member for member in part.members if member.id not in seen]
        seen.update(member.id for member in new)
        yield parts.keep_members(part, new)


def _all(pool_parts: Sequence[DatasetPart], name: str) -> pa.Table:
    return pa.concat_tables([part.tables[name] for part in pool_parts])


def _drops(pool_parts: Sequence[DatasetPart], questions: pa.Table) -> pa.Table:
    """Return the drops of rows that became no question, each once; then those of the questions."""
    drops = _all(pool_parts, "drops")
    is_source = pc.equal(drops["stage"], "source")
    at_source = drops.filter(is_source)
    at_source = at_source.filter(first_of([json.dumps(row) for row in rows(at_source, ("source", "id", "reason"))]))
    return pa.concat_tables([at_source, _of_questions(drops.filter(pc.invert(is_source)), questions, "id")])


def with_candidates(pool: Pool) -> pa.Table:
    """Return the questions that have a candidate."""
    tables = (table for part in pool.parts for table in parts.candidate_tables(part, ["question_id"]))
    ids = {key for table in tables for key in pc.unique(_run_and_id(table, "question_id")).to_pylist()}
    return pool.questions.filter(pc.is_in(_run_and_id(pool.questions, "id"), value_set=pa.array(ids, pa.string())))


def candidate_batches(pool: Pool) -> Iterator[pa.Table]:
    """Yield the candidates of the pool's questions, with the column `run`, in their stored order."""
    for part in pool.parts:
        for table in parts.candidate_tables(part, CANDIDATE_SCHEMA.names):
            yield _of_questions(table, pool.questions, "question_id")


def question_places(table: pa.Table, questions: pa.Table, column: str) -> pa.ChunkedArray:
    """Return for each row the row number of its question, or null. Ids are unique in a run."""
    return pc.index_in(_run_and_id(table, column), value_set=_run_and_id(questions, "id").combine_chunks())


def _run_and_id(table: pa.Table, column: str) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["run"], table[column], ":")


def _of_questions(table: pa.Table, questions: pa.Table, column: str) -> pa.Table:
    return table.filter(pc.is_valid(question_places(table, questions, column)))


def _conditions(about: RunManifest) -> dict[str, Any]:
    run = about["run"]
    options = current_options(about["config"])
    return {
        **{name: value for name, value in options.items() if name not in MAY_DIFFER},
        **{"actor": run["actor"], "critic": run["critic"], "prompts": sorted(run["prompts"])},
        **{"schema_version": run["schema_version"], "box_space": run["box_space"], "crop_rule": run["crop_rule"]},
        **{"max_pixels": bound_of_images(about), "image_settings": run.get("image_settings")},
        "filter": {"lose": "uniform", **about["filter"]},  # which none is written for
    }


def _question_keys(questions: pa.Table, members: Sequence[Member]) -> list[str]:
    """Return keys that are equal for the same question with the same seeds."""
    seeds = {member.id: [member.about["config"][name] for name in ("seed", "round")] for member in members}
    columns = ("run", "source", "split", "id", "question", "answers", "image_sha256")
    return [json.dumps([seeds[run], *rest]) for run, *rest in rows(questions, columns)]


def _report(pool_parts: Sequence[DatasetPart], tables: dict[str, pa.Table], whole: bool) -> RunReport:
    """Read the report of a single run; compute one over several parts, one without its repeats, or a dataset."""
    if len(pool_parts) == 1 and whole and not pool_parts[0].dataset:
        return shareable_report(pool_parts[0].report)
    from visrl_data.pipeline.finalize import COLUMNS

    about = pool_parts[0].members[0].about
    config = current_options(about["config"])
    candidates = pa.concat_tables(table for part in pool_parts for table in parts.candidate_tables(part, COLUMNS))
    pool = _of_questions(candidates, tables["questions"], "question_id")
    report = run_statistics.build_report(
        _own_ids(tables["questions"], "id").select(QUESTION_SCHEMA.names),
        _own_ids(pool, "question_id"),
        _own_ids(tables["drops"], "id"),
        _own_ids(tables["pairs"], "question_id"),
        rule=rule_from(about["filter"]),
        plan=plan_from(config),
        score_step=config["score_step"],
        gold_rule=config["gold_rule"],
    )
    for example in report["drops"]["examples"]:
        example["id"] = example["id"].partition(":")[2]  # as the dataset has it, without the run
    return shareable_report(report)


def shareable_report(report: RunReport) -> RunReport:
    """Return a report without the details of rows dropped at the source: they quote the row, paths included."""
    for example in report["drops"].get("examples", []):
        if example["stage"] == "source":
            example["detail"] = ""
    return report


def _own_ids(table: pa.Table, column: str) -> pa.Table:
    """Make ids unique across the runs."""
    return table.set_column(table.column_names.index(column), column, _run_and_id(table, column)).drop(["run"])
