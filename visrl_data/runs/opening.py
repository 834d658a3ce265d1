"""Open what `visrl inspect` shows: a finished run, a dataset folder, or a version on the Hub.

A dataset keeps the questions, drops and pairs of its runs in runs/ (runs/parts.py), so it can be compared like
the runs themselves. Of one on the Hub only these files are downloaded, and no image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.errors import VisRLError
from visrl_data.core.reading import read_table
from visrl_data.core.records import DROP_SCHEMA, PAIR_SCHEMA, QUESTION_SCHEMA
from visrl_data.runs.manifest import RunManifest
from visrl_data.runs.run_folder import Run, check_files
from visrl_data.runs.run_report import RunReport

_DOWNLOADED = ("manifest.json", "report.json", "runs/*", "audit/*")
_TABLES = {
    "questions": ["id", "image_sha256", "question", "answers"],
    "pairs": ["question_id", "win_box", "win_response", "lose_box", "lose_response"],
    "unpaired": ["id", "reason"],
}


_RUN = pa.field("run", pa.string())
_SCHEMAS = {
    "questions": QUESTION_SCHEMA.append(_RUN),
    "pairs": PAIR_SCHEMA.append(_RUN),
    "unpaired": DROP_SCHEMA,
    "drops": DROP_SCHEMA.append(_RUN),
}


@dataclass(frozen=True, slots=True, eq=False)
class InspectionTarget:
    """A run or a dataset. name: what the user typed. kind: "run" or "dataset". report: its report.json.

    runs: the manifest of each run in it, by id.
    """

    name: str
    kind: str
    folder: Path
    report: RunReport
    runs: Mapping[str, RunManifest]

    @property
    def page(self) -> Path | None:
        """The report of a run with charts and images, if it has one. That of a dataset may be a stranger's page."""
        page = self.folder / "report.html"
        return page if self.kind == "run" and page.is_file() else None

    def table(self, name: str) -> pa.Table:
        """Return questions, pairs or unpaired: the columns that a comparison reads, and `run`, the id of the run."""
        columns = _TABLES[name]
        if self.kind == "run":
            rows = Run(self.folder).table("questions", columns) if name == "questions" else self._read(name, columns)
            return rows.append_column("run", pa.repeat(pa.scalar(""), rows.num_rows))
        if name != "unpaired":
            return self._read(f"runs/{name}", [*columns, "run"])
        drops = self._read("runs/drops", [*columns, "run", "stage"])
        return drops.filter(pc.equal(drops["stage"], "filter")).drop(["stage"])

    def _read(self, name: str, columns: list[str]) -> pa.Table:
        file = self.folder / f"{name}.parquet"
        if not file.is_file():
            raise VisRLError(f"{self.name} has no {name}.parquet, so it can't be compared question by question.")
        return read_table(file, _SCHEMAS[name.removeprefix("runs/")], "Put back a copy of it.", columns)


def open_target(name: str, say: Callable[[str], None] = lambda _: None) -> InspectionTarget:
    """Open a run folder, a dataset folder or USER/NAME@TAG. Raises VisRLError when it is none of them."""
    from visrl_data.runs.dataset_folder import is_dataset
    from visrl_data.runs.hub_fetch import fetch_dataset, is_hub_name
    from visrl_data.runs.parts import run_member

    folder = Path(name)
    if is_dataset(folder):
        return _dataset(name, folder)
    if folder.is_dir():
        run = Run(folder)
        check_files(run, but=("images/",))
        member = run_member(run)
        return InspectionTarget(name, "run", folder, run.report(), {member.id: member.about})
    if "@" in name and is_hub_name(name):
        return _dataset(name, fetch_dataset(name, _DOWNLOADED, say).folder)
    raise VisRLError(
        f"{name}: no such folder. Give a finished run, a dataset folder, or USER/NAME@TAG for a version on the Hub."
    )


def _dataset(name: str, folder: Path) -> InspectionTarget:
    from visrl_data.runs.dataset_folder import check_dataset_files, check_whole, dataset_report, open_dataset

    dataset = open_dataset(folder)
    report = dataset_report(dataset)
    if folder == Path(name):  # of one on the Hub only some files are fetched
        check_whole(dataset)
    check_dataset_files(dataset, ("runs/", "audit/", "report.json"), "" if folder == Path(name) else name)
    runs = {run["id"]: run for run in dataset.manifest["runs"]}
    return InspectionTarget(name, "dataset", folder, report, runs)
