"""Open what a dataset is built from: finished runs, and earlier datasets. publishing/merge.py merges them.

A dataset folder keeps the tables of its runs in runs/ (questions, drops, pairs), its candidates and the images
that it may show. So it can stand for its runs: merging it with a new run gives the rows that merging all the
runs would give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import ROWS
from visrl_data.core.reading import open_parquet, with_later_columns
from visrl_data.core.records import CANDIDATE_SCHEMA, DROP_SCHEMA, PAIR_SCHEMA, QUESTION_SCHEMA
from visrl_data.core.text import one_line
from visrl_data.runs.calibrations import read_attached, run_key
from visrl_data.runs.dataset_folder import COPY_AGAIN, Dataset, check_dataset_files, dataset_report, shards
from visrl_data.runs.dataset_trust import check_table, run_id
from visrl_data.runs.manifest import CalibrationSummary, RunManifest
from visrl_data.runs.marks import FOLDER, join_marks, published_folder, read_dataset_marks, read_marks
from visrl_data.runs.run_folder import PAGE, Run, check_files
from visrl_data.runs.run_report import RunReport
from visrl_data.runs.stored_images import StoredImages

_RUN = pa.field("run", pa.string())
# The tables of a part: those of its runs, with the columns run (a member's id) and image_bytes (the size of the
# encoded image).
RUN_TABLES = {
    "questions": QUESTION_SCHEMA.append(_RUN).append(pa.field("image_bytes", pa.int64())),
    "drops": DROP_SCHEMA.append(_RUN),
    "pairs": PAIR_SCHEMA.append(_RUN),
}
_PATHS = ("model", "critic", "source", "images_root", "prompts")
_READ = ("report.json", "runs/", "audit/", "data/candidates/", "data/images/")  # of a dataset folder


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a dataset. id: 12 hex digits of a digest of `about`. place: where it is, for messages.

    about: its manifest as it is published. Absolute paths are cut to their last part: they are of no use to others,
    and name folders of this machine. calibration: the last one of its critic, where there was one.
    """

    id: str
    about: RunManifest
    place: str
    calibration: CalibrationSummary | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DatasetPart:
    """A run or a dataset to merge. tables: those of RUN_TABLES. candidates, images: parquet files.

    dataset: USER/NAME@TAG or the folder's name, "" for a run. commit: of a dataset on the Hub, else "". run: the
    folder of a run. marks: what people marked of its pairs (marks.MARK_SCHEMA).
    """

    members: tuple[Member, ...]
    tables: dict[str, pa.Table]
    candidates: tuple[Path, ...]
    images: tuple[Path, ...]
    report: RunReport
    marks: pa.Table
    run: Path | None = None
    dataset: str = ""
    commit: str = ""


def run_part(path: Path) -> DatasetPart:
    """Open a finished run. Raises VisRLError when it is none, or when its files were changed.

    The details of rows that were dropped at the source are left out: they quote the row, paths included.
    """
    run = Run(path)
    check_files(run)
    member = run_member(run)
    images = tuple(run.shards("images"))
    sizes = StoredImages(images).sizes
    questions, drops = run.table("questions"), run.table("drops")
    at_source = pc.equal(drops["stage"], "source")
    detail = pc.if_else(at_source, pa.scalar(""), drops["detail"])
    drops = drops.set_column(drops.column_names.index("detail"), "detail", detail)
    tables = {
        "questions": questions.append_column(
            "image_bytes", pa.array([sizes.get(sha, 0) for sha in questions["image_sha256"].to_pylist()], pa.int64())
        ),
        "drops": pa.concat_tables([drops, run.unpaired()]),
        "pairs": run.pairs(),
    }
    return DatasetPart(
        members=(member,),
        tables={name: _with_run(table, member).select(RUN_TABLES[name].names) for name, table in tables.items()},
        candidates=tuple(run.shards("candidates")),
        images=images,
        report=run.report(),
        marks=read_marks(run.path / FOLDER),
        run=run.path,
    )


def dataset_part(dataset: Dataset, name: str, commit: str = "") -> DatasetPart:
    """Open a dataset folder as the runs that it was built from. name, commit: where it comes from.

    Raises VisRLError when the folder was changed, was rebuilt, or has no tables of its runs.
    """
    manifest = dataset.manifest
    if "rebuilt" in manifest:
        raise VisRLError(
            f"{name} was rebuilt with images that its sources do not let others publish, so it can't be merged "
            "into another dataset. Give the published one, as USER/NAME@TAG."
        )
    if missing := sorted({f"runs/{table}.parquet" for table in RUN_TABLES} - manifest["sha256"].keys()):
        raise VisRLError(f"{name} has no {missing[0]}, so it can't be merged. Merge the runs that it was built from.")
    check_dataset_files(dataset, _READ, name if commit else "")
    members = []
    for run in manifest["runs"]:
        about = cast(RunManifest, {key: value for key, value in run.items() if key not in ("id", "calibration")})
        if run["id"] != run_id(about):
            raise VisRLError(f"{name}: its run {one_line(run['id'])} is not what its id says. Fetch the dataset again.")
        members.append(Member(run["id"], about, f"{name}, run {run['id']}", run.get("calibration")))
    return DatasetPart(
        members=tuple(members),
        tables=run_tables(dataset, name),
        candidates=_checked_candidates(dataset, name),
        images=tuple(shards(dataset, "images")),
        report=dataset_report(dataset),
        marks=join_marks(read_dataset_marks(dataset.folder), read_marks(published_folder(name))),
        dataset=name,
        commit=commit,
    )


def run_tables(dataset: Dataset, name: str) -> dict[str, pa.Table]:
    """Return the tables in runs/ of a dataset folder. name: for messages. Raises VisRLError when one is damaged."""
    return {table: _run_table(dataset.folder, name, table) for table in RUN_TABLES}


def _run_table(folder: Path, name: str, table: str) -> pa.Table:
    path = f"runs/{table}.parquet"
    return check_table(f"{name}: {path}", _readable(name, folder, path).read(), RUN_TABLES[table])


def _checked_candidates(dataset: Dataset, name: str) -> tuple[Path, ...]:
    """Return the candidates' files, whose columns and numbers are those of a dataset."""
    files = tuple(shards(dataset, "candidates"))
    for path in files:
        parquet = _readable(name, dataset.folder, path.relative_to(dataset.folder).as_posix())
        for batch in parquet.iter_batches(ROWS):
            check_table(f"{name}: {path.name}", pa.Table.from_batches([batch]), CANDIDATE_SCHEMA.append(_RUN))
    return files


def _readable(name: str, folder: Path, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(folder / path)
    except (pa.ArrowException, OSError) as error:
        raise VisRLError(f"{name}: {path} is no parquet file: {one_line(error)}. Fetch the dataset again.") from error


def keep_members(part: DatasetPart, members: Sequence[Member]) -> DatasetPart:
    """Return the part with these members only. It keeps all images: other parts may need them."""
    if tuple(members) == part.members:
        return part
    ids = pa.array([member.id for member in members], pa.string())
    tables = {name: table.filter(pc.is_in(table["run"], value_set=ids)) for name, table in part.tables.items()}
    return dataclasses.replace(part, members=tuple(members), tables=tables)


def candidate_tables(part: DatasetPart, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the candidates of a part's members in batches, in their stored order: these columns and `run`."""
    ids = pa.array([member.id for member in part.members], pa.string())
    schema = pa.schema([*(CANDIDATE_SCHEMA.field(name) for name in columns), _RUN])
    for file in part.candidates:
        with open_parquet(file, CANDIDATE_SCHEMA, COPY_AGAIN, columns) as parquet:
            has_run = "run" in parquet.schema_arrow.names
            for batch in parquet.iter_batches(ROWS, columns=schema.names if has_run else list(columns)):
                table = pa.Table.from_batches([batch])
                table = table if has_run else _with_run(table, part.members[0])
                table = with_later_columns(table, schema, schema.names).cast(schema)
                yield table.filter(pc.is_in(table["run"], value_set=ids))


def shareable(text: str) -> str:
    """Return an option's value without the folders of this machine: absolute paths are cut to their last part.

    Also behind a source's kind: "visual-cot:/data/gqa.json" -> "visual-cot:gqa.json".
    """
    if "://" in text:
        return text
    paths = [PurePath(part) for part in text.split(":")]
    return ":".join(
        path.name if path.is_absolute() or part.startswith("~") else part
        for path, part in zip(paths, text.split(":"), strict=True)
    )


def _with_run(table: pa.Table, member: Member) -> pa.Table:
    return table.append_column(_RUN, pa.repeat(pa.scalar(member.id), table.num_rows))


def run_member(run: Run) -> Member:
    """Return a finished run as a dataset names it. Raises VisRLError when it is unfinished."""
    manifest = run.manifest()
    config, identity = manifest["config"], manifest["run"]
    calibration = read_attached(run.path, run_key(identity, config))
    if calibration is not None:
        calibration["critic"] = shareable(calibration["critic"])
    for name in _PATHS:
        if name in config:
            value = config[name]
            by_name = isinstance(value, dict)  # --images-root NAME=DIR
            config[name] = {key: shareable(text) for key, text in value.items()} if by_name else shareable(value)
    for name in ("base_url", "critic_base_url"):  # the addresses of somebody's servers are not for publishing
        config.pop(name, None)
    for model in (identity["actor"], identity["critic"]):
        model.pop("address", None)
        model.pop("served", None)
        if "model" in model:
            model["model"] = shareable(model["model"])
    if "origin_base" in identity:
        identity["origin_base"]["id"] = shareable(identity["origin_base"]["id"])
    # config.toml and run.json themselves hold the paths, so their digests could never be checked; the page shows what
    # people marked, which makes no other run of it
    left_out = ("config.toml", "run.json", PAGE)
    digests = {name: sha for name, sha in manifest["sha256"].items() if name not in left_out}
    about: RunManifest = {**manifest, "sha256": digests}
    return Member(run_id(about), about, str(run.path), calibration)
