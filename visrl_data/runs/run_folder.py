"""The run folder: what is on disk, in which order it is written, and how an interrupted run is resumed.

    config.toml       the resolved options
    run.json          what the rows depend on besides them: digests, versions, engine, prompts, source
    work/chunk-N/     a finished chunk with its digests; it appears by a rename, so it is never half written
    work/replies-N.jsonl   what servers have replied for a chunk in progress (engines/reply_cache.py)
    questions/ candidates/ drops/ images/    shards, compacted from the chunks when all of them are done
    pairs.parquet  report.json
    times.jsonl       how long each chunk took, and its events; in no digest
    calibration.json  the last calibration of the critic, where there is one (calibrations.py); in no digest
    audit/NAME.jsonl  what people marked in `visrl audit` (marks.py); in no digest
    manifest.json     counts and digests of all of the above; written last

Compaction reads the chunks in order and writes with fixed settings, so the shards of a finished run are
the same bytes however often it was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.core.conditions import check_same, differences, flatten
from visrl_data.core.config import parse_record
from visrl_data.core.errors import VisRLError
from visrl_data.core.files import (
    ROWS,
    check_links,
    check_new,
    check_own,
    file_digest,
    fsync,
    lock_folder,
    make_folder,
    write_json,
    write_text,
)
from visrl_data.core.reading import parse_file, read_json, read_table, with_later_columns
from visrl_data.core.records import CANDIDATE_SCHEMA, DROP_SCHEMA, IMAGE_SCHEMA, PAIR_SCHEMA, QUESTION_SCHEMA
from visrl_data.runs.folder_kind import describe
from visrl_data.runs.manifest import RunIdentity, RunManifest, check_options
from visrl_data.runs.run_report import RunReport

logger = logging.getLogger(__name__)

TABLES = {
    "questions": QUESTION_SCHEMA,
    "candidates": CANDIDATE_SCHEMA,
    "drops": DROP_SCHEMA,
    "images": IMAGE_SCHEMA,
}
SHARD_BYTES = 256 * 2**20  # of Arrow memory; a shard may exceed it by one chunk
ROW_GROUP = {"images": 100}  # pictures are large; other tables use ROWS
PAGE = "report.html"
FILTERED = ("pairs.parquet", "unpaired.parquet", "report.json", PAGE)  # written anew by each filter
_CHUNK_DIGESTS = "sha256.json"
SHARD_FOLDER = "shard-*-of-*"  # made by one job of an array (shards.py), inside the folder of the joined run
# Where the models are served and how many calls are in flight: may differ when a run is resumed; no row depends on it.
# Those of vLLM's settings on which rows depend are in the engine's identity.
NON_IDENTITY_KEYS = {
    "base_url", "critic_base_url", "in_flight", "vllm_options", "actor.address", "critic.address", "config_version",
}  # fmt: skip
_FILTER_OPTIONS = {"box_win", "box_lose", "response_win", "response_lose", "lose"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder. Its tables, pairs and report exist once it is finished."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def is_finished(self) -> bool:
        return self.manifest_path.is_file()

    def manifest(self) -> RunManifest:
        """Return its manifest. Raises VisRLError when it is unfinished, or the manifest damaged."""
        if not self.is_finished:
            _check_not_lost(self)
            raise VisRLError(f"{self.path} is no finished run: {describe(self.path, resume_command(self.path))}")
        try:
            return read_json(self.manifest_path, RunManifest, remake_advice(self.path))
        except VisRLError:
            from visrl_data.runs.dataset_folder import is_dataset

            if not is_dataset(self.path):
                raise
            name = f"{self.path} is no run but a dataset made of some"
            raise VisRLError(f"{name}. Give the folder of a finished run.") from None

    def config(self) -> dict[str, Any]:
        """Return the resolved options; options without a value are absent."""
        advice = "Put back a copy of it, or choose another --output; manifest.json names the options of a finished run."
        return parse_file(self.path / "config.toml", lambda text: check_options(parse_record(text)), advice)

    def identity(self) -> RunIdentity:
        return read_json(self.path / "run.json", RunIdentity, remake_advice(self.path))

    def conditions(self) -> dict[str, Any]:
        """Return everything that its rows depend on, by name."""
        return flatten(self.identity()) | flatten(self.config())

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return all rows of a table, in the order of the questions."""
        advice = remake_advice(self.path)
        tables = [read_table(shard, TABLES[name], advice, columns) for shard in self.shards(name)]
        schema = TABLES[name] if columns is None else pa.schema([TABLES[name].field(c) for c in columns])
        return pa.concat_tables([schema.empty_table(), *tables])

    def shards(self, name: str) -> list[Path]:
        """Return the parquet files of a table, in order: those that the manifest names, once the run is finished."""
        if self.is_finished:
            return [self.path / file for file in sorted(self.manifest()["sha256"]) if file.startswith(f"{name}/")]
        return sorted((self.path / name).glob("part-*.parquet"))

    def pairs(self) -> pa.Table:
        """Return the pairs that the last filter selected; columns: records.PAIR_SCHEMA."""
        return read_table(self.path / "pairs.parquet", PAIR_SCHEMA, filter_advice(self.path))

    def unpaired(self) -> pa.Table:
        """Return the questions that the last filter dropped; columns: records.DROP_SCHEMA."""
        return read_table(self.path / "unpaired.parquet", DROP_SCHEMA, filter_advice(self.path))

    def report(self) -> RunReport:
        """Return report.json, as report/run_statistics.py computed it."""
        return read_json(self.path / "report.json", RunReport, filter_advice(self.path))

    def rows(self, name: str) -> int:
        """Count the rows of a table without reading them."""
        return sum(pq.read_metadata(shard).num_rows for shard in self.shards(name))

    def chunk_path(self, index: int) -> Path:
        return self.path / "work" / f"chunk-{index:08d}"

    @property
    def chunks(self) -> int:
        """Number of chunks of the whole run."""
        return -(-self.identity()["source"]["rows"] // int(self.config()["chunk_size"]))

    def replies_path(self, index: int) -> Path:
        return self.path / "work" / f"replies-{index:08d}.jsonl"

    def has_chunk(self, index: int) -> bool:
        """Check that a chunk exists with the bytes that were written; warn when the disk has damaged it."""
        chunk = self.chunk_path(index)
        if not chunk.is_dir():
            return False
        is_intact = _chunk_digests(chunk) == _stored_digests(chunk)
        if not is_intact:
            logger.warning("%s was damaged on the disk after it was written; it is processed again.", chunk)
        return is_intact


def check_files(run: Run, but: tuple[str, ...] = ()) -> None:
    """Check that the files of a finished run are those of its manifest. Raises VisRLError, naming the first other one.

    but: how paths begin whose content is not read now. The page holds no data, so it is never compared.
    """
    check_links(run.path)
    stated = run.manifest()["sha256"]
    for name, digest in stated.items():
        if name.startswith((PAGE, *but)):
            continue
        if not (run.path / name).is_file() or file_digest(run.path / name) != digest:
            raise VisRLError(
                f"{run.path / name} is missing or was changed since the run was finished. {_advice(run.path, name)}"
            )
    for file in sorted(file for name in TABLES for file in (run.path / name).rglob("*") if file.is_file()):
        if file.relative_to(run.path).as_posix() not in stated:
            raise VisRLError(
                f"{file} is no file of this run: its manifest does not name it. Move it elsewhere; a program that "
                "synchronizes folders may have made it."
            )
    if missing := [name for name in TABLES if not any(file.startswith(f"{name}/") for file in stated)]:
        raise VisRLError(f"{run.manifest_path} names no file of {missing[0]}/. {remake_advice(run.path)}")


def _advice(path: Path, name: str) -> str:
    """Say what helps when a file of a run is missing or damaged."""
    if name == "config.toml":
        return "Put back a copy of it; manifest.json names the options of a finished run."
    return filter_advice(path) if name in FILTERED else remake_advice(path)


def remake_advice(path: Path) -> str:
    """Say what helps when what a run was made of is gone."""
    if not (path / "config.toml").is_file():
        return "Put back a copy of it."
    config, again = (shlex.quote(str(place)) for place in (path / "config.toml", path.with_name(f"{path.name}-again")))
    return f"Put back a copy of it, or make the run again: visrl gen --config {config} -o {again}"


def filter_advice(path: Path) -> str:
    """Say what helps when a result of the filter is gone."""
    return f"Pick the pairs again, which writes it: visrl filter {shlex.quote(str(path))}"


def resume_command(path: Path) -> str:
    """Return the command that resumes an unfinished run, or a shard of one."""
    shard = re.fullmatch(r"shard-(\d+)-of-(\d+)", path.name)
    where = ["--shard", f"{shard[1]}/{shard[2]}", "-o", str(path.parent)] if shard else ["-o", str(path)]
    trust = ["--trust-remote-code"] if _has_trust(path) else []
    return shlex.join(["visrl", "gen", "--config", str(path / "config.toml"), *where, *trust])


def _has_trust(path: Path) -> bool:
    """Tell whether a run was started with --trust-remote-code, which no file of options can grant again."""
    try:
        return bool(tomllib.loads((path / "config.toml").read_text(encoding="utf-8")).get("trust_remote_code"))
    except (OSError, ValueError):
        return False


def _check_not_lost(run: Run) -> None:
    """Raise VisRLError for a finished run whose manifest is gone: its work files went when the manifest was written."""
    if (run.path / "candidates").is_dir() and not (run.path / "work").is_dir():
        raise VisRLError(f"{run.manifest_path} is missing, though the run was finished. {remake_advice(run.path)}")


@contextlib.contextmanager
def open_run(path: Path, config_text: str, identity: RunIdentity) -> Iterator[Run]:
    """Create a run folder, or open it again with the same options; it is locked while open.

    Raises VisRLError, and changes nothing, when another process uses it, when it holds something else, or when it
    was started with different options, which are listed.
    """
    make_folder(path)
    with lock_folder(path, lambda: _check_options(path, config_text, identity)):
        if not (path / "run.json").is_file():
            write_text(path / "config.toml", config_text)
            write_json(path / "run.json", identity)
        for leftover in (path / "work").glob("*.tmp"):
            shutil.rmtree(leftover)
        yield Run(path)


def check_place(path: Path, config_text: str) -> None:
    """Raise VisRLError when a path is a file, or a folder that holds something else than a run. No model is needed."""
    if path.is_dir() and not (path / "run.json").is_file():
        shards = {folder.name for folder in path.glob(SHARD_FOLDER)}
        check_own(path, shards | ({"config.toml"} if _text(path / "config.toml") == config_text else set()))
    elif not path.is_dir():
        check_new(path)


def _check_options(path: Path, config_text: str, identity: RunIdentity) -> None:
    if not (path / "run.json").is_file():
        check_place(path, config_text)
        return
    if not Run(path).is_finished:
        _check_not_lost(Run(path))
    old, new = Run(path).conditions(), conditions(config_text, identity)
    ignored = ignored_keys(Run(path).identity())
    options = flatten(Run(path).config()) | flatten(parse_record(config_text))
    advice = _restart_advice(path, differences(old, new, ignored).keys(), options.keys())
    check_same(str(path), old, new, advice, ignored)


def _restart_advice(path: Path, changed: Set[str], options: Set[str]) -> str:
    """Say what helps when a run was started under other conditions. changed: which; options: those that are options."""
    if not changed & options:
        return (
            "None of these was given on the command line: the questions, models, libraries or machine have changed "
            "since. Go back to those of then, or choose another --output."
        )
    advice = f"Choose another --output, or resume it with its own options: {resume_command(path)}"
    if changed <= _FILTER_OPTIONS:
        advice += "\nNew thresholds or another --lose need no new run: visrl filter."
    return advice


def ignored_keys(identity: RunIdentity) -> set[str]:
    """Return what may differ when a run is resumed: NON_IDENTITY_KEYS, and what its version did not record."""
    return NON_IDENTITY_KEYS | ({"image_settings"} - identity.keys())


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def conditions(config_text: str, identity: RunIdentity) -> dict[str, Any]:
    """Return everything that a run's rows depend on, by name: its options and its identity."""
    return flatten(identity) | flatten(parse_record(config_text))


def write_chunk(run: Run, index: int, tables: dict[str, pa.Table]) -> None:
    """Write a chunk, in place of a damaged one; the rename at the end makes it appear whole or not at all."""
    target = run.chunk_path(index)
    temporary = target.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, schema in TABLES.items():
        pq.write_table(tables[name].cast(schema), temporary / f"{name}.parquet")
        fsync(temporary / f"{name}.parquet")
    write_json(temporary / _CHUNK_DIGESTS, _chunk_digests(temporary))
    shutil.rmtree(target, ignore_errors=True)
    os.rename(temporary, target)
    fsync(target.parent)


def _chunk_digests(chunk: Path) -> dict[str, str]:
    return {file.name: file_digest(file) for file in sorted(chunk.glob("*.parquet"))}


def _stored_digests(chunk: Path) -> dict[str, str] | None:
    """Read the digests that were written with a chunk; None when they can't be read."""
    try:
        digests: dict[str, str] = json.loads((chunk / _CHUNK_DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return digests


def log_time(run: Run, record: dict[str, Any]) -> None:
    """Append to times.jsonl; `times` skips a line that a kill cut short."""
    with (run.path / "times.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def times(run: Run) -> list[dict[str, Any]]:
    """Read the records of times.jsonl."""
    path = run.path / "times.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def compact(run: Run, chunks: Sequence[Path]) -> None:
    """Write the shards from the chunks' folders, in order. An image that occurs in several chunks is stored once."""
    for name in TABLES:
        final = run.path / name
        if final.is_dir():  # an earlier try finished it: it appeared by a rename
            continue
        temporary = run.path / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_shards(name, (pq.read_table(chunk / f"{name}.parquet") for chunk in chunks), temporary)
        fsync(temporary)
        os.rename(temporary, final)
    fsync(run.path)


def _write_shards(name: str, tables: Iterator[pa.Table], folder: Path) -> None:
    written: set[str] = set()  # sha256 of images
    shard, pending, pending_bytes = 0, [TABLES[name].empty_table()], 0

    def flush() -> None:
        nonlocal shard, pending, pending_bytes
        path = folder / f"part-{shard:05d}.parquet"
        table = pa.concat_tables(pending).combine_chunks()
        pq.write_table(table, path, row_group_size=ROW_GROUP.get(name, ROWS), compression="zstd")
        fsync(path)
        shard, pending, pending_bytes = shard + 1, [TABLES[name].empty_table()], 0

    for table in tables:
        table = with_later_columns(table, TABLES[name], TABLES[name].names)
        if name == "images":
            is_new = [sha not in written for sha in table["sha256"].to_pylist()]
            written.update(table["sha256"].to_pylist())
            table = table.filter(pa.array(is_new, pa.bool_()))
        pending.append(table)
        pending_bytes += table.nbytes
        if pending_bytes >= SHARD_BYTES:
            flush()
    if pending_bytes or not shard:
        flush()


def remove_chunks(run: Run) -> None:
    """Delete the work files of a run whose manifest is written."""
    shutil.rmtree(run.path / "work", ignore_errors=True)


def digests(run: Run, names: Sequence[str]) -> dict[str, str]:
    """Compute the sha256 of the named files and of the shards in the named folders, by relative path."""
    files = [
        f
        for name in names
        for f in ([run.path / name] if (run.path / name).is_file() else sorted((run.path / name).iterdir()))
    ]
    return {str(f.relative_to(run.path)): file_digest(f) for f in files}
