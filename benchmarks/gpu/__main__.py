"""What this project does on a GPU, in less than ten minutes, with nothing downloaded.

    python -m benchmarks.gpu [--output DIR] [--minutes 9] [--parts families,training] [--small]

Random weights in the shapes of real models, made on the GPU. Each part (parts.py) is a process with a time of its
own, so that a crash, a hang or a lack of memory costs one part; the table says what failed, and why. DIR gets gpu.md
and gpu.json, written anew after every part, and gpu.log. `--small` runs the same code in tiny shapes, on a CPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.parts import PARTS, Row, reason

FULL = 9  # minutes, of which the parts' seconds are reckoned
LEAST = 15  # seconds, under which a part is not begun


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a part. failed: why it did not come to its end; the rows until then stay."""

    name: str
    seconds: float
    rows: list[Row] = field(default_factory=list)
    machine: Row = field(default_factory=dict)
    failed: str = ""


def run(name: str, seconds: float, small: bool, log: IO[bytes]) -> Result:
    """Run a part for at most so many seconds."""
    began, start = time.perf_counter(), log.tell()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "benchmarks.gpu.parts", name, str(file), *["--small"] * small]
        process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        try:
            process.wait(seconds)
            failed = _last_words(log, start) if process.returncode else ""
        except subprocess.TimeoutExpired:
            failed = f"stopped after {seconds:.0f} s"
        finally:
            _end(process)
        rows = _read(file)
    machine = rows.pop(0)["machine"] if rows else {}
    return Result(name, round(time.perf_counter() - began, 1), rows, machine, failed)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a part: the processes that it started too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(file: Path) -> list[Row]:
    """Whole lines alone: the last may have been cut off."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _last_words(log: IO[bytes], start: int) -> str:
    with open(log.name, "rb") as written:
        written.seek(start)
        return reason(written.read().decode(errors="replace"))


def table(results: list[Result], settings: Row) -> str:
    """Markdown."""
    machine = next((result.machine for result in results if result.machine), {})
    pieces = ["# On a GPU", _about(machine, settings)]
    for result in results:
        pieces += [f"## {result.name}", PARTS[result.name].about]
        if result.rows:
            pieces.append(_rows(result.rows))
        if result.failed:
            pieces.append(f"Failed: {result.failed}")
        pieces.append(f"({result.seconds:.0f} s)")
    return "\n\n".join(pieces) + "\n"


def _about(machine: Row, settings: Row) -> str:
    if not machine:
        return "No part has begun."
    memory = f", {machine['gib']} GiB" if "gib" in machine else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    shapes = "Tiny shapes (`--small`): the figures say nothing. " if settings["small"] else ""
    return f"{shapes}{machine['device']}{memory}, {machine['cpus']} cores. {versions}."


def _rows(rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[_shown(row.get(name)) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(results: list[Result], settings: Row, output: Path) -> None:
    """gpu.md and gpu.json, whole at any time."""
    content = {"settings": settings, "parts": {result.name: asdict(result) for result in results}}
    texts = {"gpu.md": table(results, settings), "gpu.json": json.dumps(content, indent=1) + "\n"}
    for name, text in texts.items():
        new = output / f"{name}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(output / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder of the table, the JSON and the log")
    parser.add_argument("--minutes", type=float, default=FULL, help="for all parts together")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="tiny shapes, on a CPU where there is no GPU")
    options = parser.parse_args()
    names = options.parts.split(",")
    if unknown := sorted({*names} - {*PARTS}):
        parser.error(f"--parts {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {"minutes": options.minutes, "parts": names, "small": options.small}
    end, results = time.perf_counter() + 60 * options.minutes, []
    with (options.output / "gpu.log").open("wb") as log:
        for name in names:
            left = end - time.perf_counter()
            seconds = min(left, PARTS[name].seconds * max(1, options.minutes / FULL))
            results.append(
                run(name, seconds, options.small, log) if left > LEAST else Result(name, 0, failed="no time")
            )
            write(results, settings, options.output)
            print(f"{name}: {results[-1].seconds:.0f} s {results[-1].failed}", file=sys.stderr, flush=True)
    print((options.output / "gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
