"""The last stages, shared by `visrl gen`, `visrl join` and `visrl filter`: pairs, report, page, manifest.

They need the stored pool only: no model, no GPU. Everything here can be made again at any time, so an
interruption loses nothing; the manifest, written last, says which setting the files belong to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from visrl_data.core import files
from visrl_data.core.config import GenConfig, Thresholds
from visrl_data.core.errors import UsageError
from visrl_data.pipeline import pairing
from visrl_data.report import page
from visrl_data.report.accounting import REPORT_COLUMNS
from visrl_data.report.run_statistics import report
from visrl_data.runs import run_folder
from visrl_data.runs.run_folder import Run

# All that the filter and the report read of a candidate; the rest of a large pool stays on disk.
COLUMNS = sorted({*pairing.CANDIDATE_COLUMNS, *REPORT_COLUMNS})
RESULTS = ["pairs.parquet", "unpaired.parquet", "report.json", page.NAME]


@dataclass(frozen=True, slots=True)
class Setting:
    """What decides which candidates pair."""

    thresholds: Thresholds
    box_critic: bool


def finish(run: Run, config: GenConfig, chunks: Sequence[Path]) -> None:
    """Compact the chunks in the given order, pick the pairs, write the report, and the manifest last."""
    run_folder.compact(run, chunks)
    write_results(run, Setting(config.thresholds, config.box_critic))
    run_folder.remove_chunks(run)


def write_results(run: Run, setting: Setting) -> None:
    """Pick the pairs of a compacted pool and write pairs, report, its page and manifest."""
    config, identity = run.config(), run.identity()
    questions, candidates = run.table("questions"), run.table("candidates", COLUMNS)
    selection = pairing.select_pairs(candidates, questions, setting.thresholds, setting.box_critic, config["seed"])
    pairs = pairing.pair_table(candidates, questions, selection)
    unpaired = pairing.drop_table(questions, selection)
    drops = pa.concat_tables([run.table("drops"), unpaired])
    found = report(
        questions,
        candidates,
        drops,
        pairs,
        thresholds=setting.thresholds,
        box_critic=setting.box_critic,
        attempts=config["attempts"],
        score_step=config["score_step"],
        gold_rule=config["gold_rule"],
        rows_read=identity["source"]["rows"],
    )
    files.write_table(run.path / "pairs.parquet", pairs)
    files.write_table(run.path / "unpaired.parquet", unpaired)
    files.write_json(run.path / "report.json", found)
    page.write_page(run, found, questions, candidates, pairs, unpaired)
    counts = {name: run.rows(name) for name in run_folder.TABLES} | {"pairs": pairs.num_rows}
    manifest = {
        "run": identity,
        "config": config,
        "filter": {**dataclasses.asdict(setting.thresholds), "box_critic": setting.box_critic},
        "counts": counts,
        "sha256": run_folder.digests(run, ["config.toml", "run.json", *run_folder.TABLES, *RESULTS]),
    }
    files.write_json(run.manifest_path, manifest)


def filter_run(
    path: Path, given: dict[str, float], box_critic: bool | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pick the pairs of a finished run again; what is not given stays as it is.

    Returns what the yield was and is: {"questions", "pairs", "drops": {reason: count}}.
    """
    with files.lock_folder(path):
        run = Run(path)
        setting = _setting(run, given, box_critic)
        before = _yield(run)
        write_results(run, setting)
        return before, _yield(run)


def sweep_run(path: Path, box_critic: bool | None = None, grid: Iterable[Thresholds] | None = None) -> pa.Table:
    """What other thresholds would give; changes nothing. Of a lazy pool those that it can answer for."""
    run = Run(path)
    setting = _setting(run, {}, box_critic)
    candidates = run.table("candidates", columns=list(pairing.CANDIDATE_COLUMNS))
    questions = run.table("questions", columns=["id"])
    made = run.config()
    within = [one for one in grid or pairing.sweep_grid() if _beyond(made, Setting(one, setting.box_critic)) is None]
    return pairing.sweep(candidates, questions, within, setting.box_critic, made["seed"])


def _setting(run: Run, given: dict[str, float], box_critic: bool | None) -> Setting:
    values = {**run.manifest()["filter"], **given}
    before = values.pop("box_critic")
    try:
        setting = Setting(Thresholds(**values), before if box_critic is None else box_critic)
    except ValueError as error:
        raise UsageError(str(error)) from error
    made = run.config()
    if beyond := _beyond(made, setting):
        raise UsageError(
            f"{beyond}: {run.path} was made with --lazy, so boxes whose score lies between its own thresholds have no "
            f"response (--box-win {made['box_win']}, --box-lose {made['box_lose']}). Filter within "
            "these, or make a run without --lazy."
        )
    return setting


def _beyond(made: dict[str, Any], setting: Setting) -> str | None:
    """The flag by which a setting asks a lazy pool for responses that it does not have. made: the run's options."""
    if not made.get("lazy"):
        return None
    if not setting.box_critic:
        return "--no-box-critic"
    thresholds = setting.thresholds
    if thresholds.box_win < made["box_win"]:
        return f"--box-win {thresholds.box_win}"
    return f"--box-lose {thresholds.box_lose}" if thresholds.box_lose > made["box_lose"] else None


def _yield(run: Run) -> dict[str, Any]:
    found = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    counts = run.manifest()["counts"]
    return {"questions": counts["questions"], "pairs": counts["pairs"], "drops": found["drops"]["questions"]}
