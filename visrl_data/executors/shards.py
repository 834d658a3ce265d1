"""Run in shards, for job arrays: each job processes every n-th chunk in its own folder; joined, they are one run.

    visrl gen ... --shard 2/8 -o RUN      works in RUN/shard-2-of-8, an unfinished run that lacks the others' chunks
    visrl join RUN/shard-*-of-8 -o RUN    checks them, then finishes RUN as if one process had done it all

Chunks are cut from the whole list of questions before they are divided among shards, so a shard changes no row.
Nothing about shards is in a run's options or digests: the folder's name alone says which part it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.conditions import check_same
from visrl_data.core.config import GenConfig, make_config
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import check_own
from visrl_data.pipeline import finalize
from visrl_data.runs import run_folder
from visrl_data.runs.manifest import RunIdentity
from visrl_data.runs.run_folder import Run

_MAX_SHOWN = 5  # commands, or chunk numbers, in a message


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `of`, counted from 1. Raises UsageError when there is no such part."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            hint = "; shards are counted from 1 (in Slurm: --array=1-N)" if self.number == 0 else ""
            raise UsageError(f"--shard {self}: expected I/N with I from 1 to N{hint}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, output: Path) -> Path:
        return output / f"shard-{self.number}-of-{self.of}"

    def chunks(self, total: int) -> range:
        """Return its chunks of a run of `total`: every n-th, so that each shard has a part of every source in a mix."""
        return range(self.number - 1, total, self.of)


def parse_shard(text: str) -> Shard:
    """Parse I/N as on the command line. Raises UsageError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UsageError(f"--shard {text}: expected I/N, like 2/8 for the second of eight.")
    return Shard(int(match[1]), int(match[2]))


def check_siblings(folder: Path, config_text: str, identity: RunIdentity) -> None:
    """Raise VisRLError when another shard beside this one started with different options: they could not be joined.

    Shards that start at the same moment do not see each other; `join` compares them all.
    """
    output = folder.parent
    if output.is_dir() and not (output / "run.json").is_file():
        check_own(output, {shard.name for shard in output.glob(run_folder.SHARD_FOLDER)})
    conditions, of = run_folder.conditions(config_text, identity), folder.name.rpartition("-")[2]
    for other in sorted(folder.parent.glob(f"shard-*-of-{of}")):
        if other != folder and (other / "run.json").is_file():
            _check_same(other, Run(other).conditions(), folder, conditions)


def join(folders: Sequence[Path], output: Path) -> Run:
    """Finish the run `output` from its shards, as one process would have; leave the shards as they are.

    Raises VisRLError when they are not of one run, with the differences, or when chunks are missing, with the commands
    that make them; UsageError when a folder is not a shard's.
    """
    of = _shard_count(folders)
    first = Run(folders[0])
    text, identity = (first.path / "config.toml").read_text(encoding="utf-8"), first.identity()
    for other in folders[1:]:
        _check_same(first.path, first.conditions(), other, Run(other).conditions())
    config = make_config(GenConfig, first.config(), {}, where=str(first.path / "config.toml"), command="visrl gen")
    runs_by_name = {folder.name: Run(folder) for folder in folders}
    owners = [runs_by_name.get(Shard(i % of + 1, of).folder(output).name) for i in range(first.chunks)]
    missing = [i for i, owner in enumerate(owners) if owner is None or not owner.has_chunk(i)]
    if missing:
        raise VisRLError(_missing(missing, of, first))
    with run_folder.open_run(output, text, identity) as run:
        if not run.is_finished:
            finalize.finish(run, config, [owner.chunk_path(i) for i, owner in enumerate(owners) if owner])
        return run


def _shard_count(folders: Sequence[Path]) -> int:
    """Return how many shards there are by the folders' names. Raises UsageError."""
    parts = set()
    for folder in folders:
        match = re.fullmatch(r"shard-\d+-of-(\d+)", folder.name)
        if not match or not (folder / "run.json").is_file():
            raise UsageError(
                f"{folder} is not a shard of a run. `visrl gen --shard I/N -o RUN` makes RUN/shard-I-of-N."
            )
        parts.add(int(match[1]))
    if len(parts) > 1:
        raise UsageError(
            f"Shards of {' and of '.join(map(str, sorted(parts)))}: expected the shards of one run, all of the same N."
        )
    return parts.pop()


def _check_same(first: Path, old: dict[str, Any], other: Path, new: dict[str, Any]) -> None:
    advice = "Make all shards with the same command on machines of one kind, in an --output of their own."
    check_same(f"{first} and {other}", old, new, advice, run_folder.NON_IDENTITY_KEYS)


def _missing(missing: Sequence[int], of: int, first: Run) -> str:
    """Say which chunks are missing, and the commands that make them."""
    shards = sorted({i % of for i in missing})
    trust = " --trust-remote-code" if first.config().get("trust_remote_code") else ""
    file, output = shlex.quote(f"{first.path}/config.toml"), shlex.quote(str(first.path.parent))
    commands = "\n".join(
        f"  visrl gen --config {file} --shard {number + 1}/{of} -o {output}{trust}" for number in shards[:_MAX_SHOWN]
    )
    return (
        f"{len(missing)} of {first.chunks} chunks are missing: {_some(missing)}. "
        f"They belong to shard {_some([number + 1 for number in shards])} of {of}:\n{commands}"
    )


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_MAX_SHOWN])) + (", ..." if len(numbers) > _MAX_SHOWN else "")
