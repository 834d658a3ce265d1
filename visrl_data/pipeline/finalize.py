"""The last stages, shared by `visrl gen`, `visrl join` and `visrl filter`: pairs, report, page, manifest.

They need the stored candidates only: no model, no GPU. All of it can be repeated at any time, so an interruption
loses nothing; the manifest, written last, says which rule the files belong to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from visrl_data.core import files
from visrl_data.core.attempts import plan_from
from visrl_data.core.config import GenConfig, Thresholds
from visrl_data.core.errors import UsageError
from visrl_data.core.pair_rule import DROP_REASONS, PairRule, rule_from, rule_settings
from visrl_data.pipeline import pairing
from visrl_data.report import page
from visrl_data.report.accounting import REPORT_COLUMNS
from visrl_data.report.run_statistics import build_report
from visrl_data.runs import run_folder
from visrl_data.runs.manifest import FilterSettings, RunCounts, RunManifest
from visrl_data.runs.run_folder import Run

# All that the filter and the report read of a candidate; the other columns stay on disk.
COLUMNS = sorted({*pairing.CANDIDATE_COLUMNS, *REPORT_COLUMNS})


def finish(run: Run, config: GenConfig, chunks: Sequence[Path]) -> None:
    """Compact the chunks in the given order, pick the pairs, write the report, and the manifest last."""
    run_folder.compact(run, chunks)
    write_results(run, rule_from(dataclasses.asdict(config)))
    run_folder.remove_chunks(run)


def write_results(run: Run, rule: PairRule) -> None:
    """Pick the pairs of a run's candidates and write pairs, report, its page and the manifest."""
    config, identity = run.config(), run.identity()
    questions, candidates = run.table("questions"), run.table("candidates", COLUMNS)
    selection = pairing.select_pairs(candidates, questions, rule, config["seed"])
    pairs = pairing.pair_table(candidates, questions, selection)
    unpaired = pairing.drop_table(questions, selection)
    drops = pa.concat_tables([run.table("drops"), unpaired])
    statistics = build_report(
        questions,
        candidates,
        drops,
        pairs,
        rule=rule,
        plan=plan_from(config),
        score_step=config["score_step"],
        gold_rule=config["gold_rule"],
        rows_read=identity["source"]["rows"],
    )
    # The page first: its pictures are what may yet fail, and nothing was changed then.
    page.write_page(run, statistics, questions, candidates, pairs, unpaired)
    files.write_table(run.path / "pairs.parquet", pairs)
    files.write_table(run.path / "unpaired.parquet", unpaired)
    files.write_json(run.path / "report.json", statistics)
    counts = {name: run.rows(name) for name in run_folder.TABLES} | {"pairs": pairs.num_rows}
    manifest: RunManifest = {
        "run": identity,
        "config": config,
        "filter": cast(FilterSettings, rule_settings(rule)),
        "counts": cast(RunCounts, counts),
        "sha256": _made_from(run) | run_folder.digests(run, run_folder.FILTERED),
    }
    files.write_json(run.manifest_path, manifest)


def rewrite_page(path: Path) -> Path:
    """Write the page of a finished run again, with what people have marked since; return its path."""
    with files.lock_folder(path):
        run = Run(path)
        run_folder.check_files(run, but=("images/",))
        tables = run.table("questions"), run.table("candidates", COLUMNS), run.pairs(), run.unpaired()
        page.write_page(run, run.report(), *tables)
        manifest = run.manifest()
        manifest["sha256"] |= run_folder.digests(run, [page.NAME])
        files.write_json(run.manifest_path, manifest)
    return path / page.NAME


def _made_from(run: Run) -> dict[str, str]:
    """Return the digests of what a filter does not write: once stated, they stay, whatever becomes of the files."""
    if run.is_finished:
        return {name: sha for name, sha in run.manifest()["sha256"].items() if name not in run_folder.FILTERED}
    return run_folder.digests(run, ["config.toml", "run.json", *run_folder.TABLES])


def filter_run(
    path: Path, changes: dict[str, float], box_critic: bool | None = None, lose: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pick the pairs of a finished run again, with these settings changed.

    lose: as in core/pair_rule.py. Return the yield before and after: {"questions", "pairs", "drops": {reason: count}}.
    """
    with files.lock_folder(path):
        run = Run(path)
        run_folder.check_files(run, but=run_folder.FILTERED)
        old, new = _rule(run, {}, None), _rule(run, changes, box_critic, lose)
        if lose == "hardest":
            _check_logprobs(run)
        yields = _yields(run, [old, new])
        write_results(run, new)
        return yields[0], yields[1]


def sweep_run(path: Path, box_critic: bool | None = None, grid: Iterable[Thresholds] | None = None) -> pa.Table:
    """Return the yield under other thresholds; of a lazy run, under those that it has responses for."""
    run = Run(path)
    run_folder.check_files(run, but=("images/", *run_folder.FILTERED))
    current, config = _rule(run, {}, box_critic), run.config()
    settings = [rule_settings(current) | dataclasses.asdict(thresholds) for thresholds in grid or pairing.sweep_grid()]
    rules = [rule for rule in map(rule_from, settings) if _beyond(config, rule) is None]
    return _sweep(run, rules)


def _sweep(run: Run, rules: Sequence[PairRule]) -> pa.Table:
    candidates = run.table("candidates", columns=list(pairing.CANDIDATE_COLUMNS))
    return pairing.sweep(candidates, run.table("questions", columns=["id"]), rules, run.config()["seed"])


def _check_logprobs(run: Run) -> None:
    """Raise UsageError for a pool without a single log-probability."""
    logprobs = run.table("candidates", ["box_logprob"])["box_logprob"]
    if len(logprobs) and logprobs.null_count == len(logprobs):
        raise UsageError(
            f"--lose hardest goes by the actor's log-probabilities, and {run.path} has none: an earlier version made "
            "it, or a server that does not return them. Expected a pool with the column box_logprob: make the run "
            "again, or use --lose actor-first."
        )


def _rule(run: Run, changes: dict[str, float], box_critic: bool | None, lose: str | None = None) -> PairRule:
    """Return the run's rule with these changes. Raises UsageError for one that its candidates can't answer."""
    settings: dict[str, Any] = {**run.manifest()["filter"], **changes}
    if box_critic is not None:
        settings["box_critic"] = box_critic
    if lose is not None:
        settings["lose"] = lose
    try:
        rule = rule_from(settings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    config = run.config()
    if beyond := _beyond(config, rule):
        raise UsageError(
            f"{beyond}: {run.path} was made with --lazy, so boxes whose score lies between its own thresholds have no "
            f"response (--box-win {config['box_win']}, --box-lose {config['box_lose']}). Filter within these, or make "
            "a run without --lazy."
        )
    return rule


def _beyond(config: dict[str, Any], rule: PairRule) -> str | None:
    """Return the flag by which a rule needs responses that a lazy run does not have, if there is one."""
    if not config.get("lazy"):
        return None
    if not rule.box_critic:
        return "--no-box-critic"
    thresholds = rule.thresholds
    if thresholds.box_win < config["box_win"]:
        return f"--box-win {thresholds.box_win}"
    return f"--box-lose {thresholds.box_lose}" if thresholds.box_lose > config["box_lose"] else None


def _yields(run: Run, rules: Sequence[PairRule]) -> list[dict[str, Any]]:
    questions = run.manifest()["counts"]["questions"]
    return [
        {"questions": questions, "pairs": row["pairs"], "drops": {reason: row[reason] for reason in DROP_REASONS}}
        for row in _sweep(run, rules).to_pylist()
    ]
