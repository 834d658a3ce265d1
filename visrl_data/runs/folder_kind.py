"""Say what a folder is that was given for a finished run and is none, and what to do with it."""

from __future__ import annotations

import shlex
from pathlib import Path


def describe(path: Path, resume: str) -> str:
    """Return a sentence about a folder without manifest.json. resume: the command for an unfinished run."""
    name = shlex.quote(str(path))
    if (path / "run.json").is_file():
        return f"the run there is not finished. Resume it with: {resume}"
    if shards := sorted(path.glob("shard-*-of-*")):
        of = shards[0].name.rpartition("-")[2]
        return f"it holds shards of one. Put them together: visrl join {name}/shard-*-of-{of} -o {name}"
    if any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        return f"it is the folder of a model. See what it is: visrl doctor --model {name}"
    if rounds := sorted(path.glob("round*/config.toml")):
        return f"it is an evolution, whose rounds are runs. Name one, such as {rounds[-1].parent}"
    if (path / "predictions").is_dir():
        page = path / "report.html"
        return f"it is an evaluation. {f'Its page: {page}' if page.is_file() else 'The same `visrl eval` resumes it.'}"
    if (path / "conditions.json").is_file():
        page = path / "report.html"
        again = "The same `visrl calibrate` resumes it."
        return f"it is the calibration of a critic. {f'Its page: {page}' if page.is_file() else again}"
    if not path.is_dir():
        return f"there is no such folder. `visrl gen -o {name}` makes one"
    return "it has no manifest.json. Give a folder that `visrl gen` or `visrl join` finished"
