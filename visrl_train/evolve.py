"""Self-evolution: the new model generates the pairs of the next round (paper, Sec. 3.2 and Fig. 4).

    round k:   gen (the actor is the last round's model; the critic is always the ORIGINAL base)
               -> rl1 -> rl2 (one adapter is trained further; its frozen copy is the reference)
               -> eval on questions that no round trains on

    EVOLVE/config.toml            what all rounds share
    EVOLVE/round0/ round1/ ...    the run of each round: a run folder, for `visrl inspect` and `visrl push`
    EVOLVE/models/round0-rl1/ ... the models, each with its card
    EVOLVE/eval/                  one evaluation of all models; each predicts once
    EVOLVE/report.json curves.svg rewritten after every round

With --engine vllm pairs and predictions are made in processes of their own: nothing of vLLM is left when training
begins.

Interrupted, the same command resumes: a run is finished when its manifest exists, a model when its visrl.json does,
predictions chunk by chunk. More --rounds continue from the last one.

    visrl evolve --rounds 4 -o runs/evolve
    visrl evolve --rounds 4 --stages rl1 -o runs/evolve-rl1        the other curve of Fig. 4
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visrl_data.core import files
from visrl_data.core.conditions import check_same
from visrl_data.core.config import GenConfig, current_options, parse_record, to_toml, with_version
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_report import ALL, EvalReport
from visrl_data.evaluation.eval_sources import OTHERS
from visrl_data.executors import generation
from visrl_data.executors.child_process import run_in_child
from visrl_data.models.model_folder import RECORD, find_model, read_record
from visrl_data.pipeline import factory
from visrl_data.runs import run_folder
from visrl_data.runs.calibrations import attach_last
from visrl_data.runs.run_folder import Run
from visrl_train.evolve_config import EvolveConfig
from visrl_train.evolve_curves import curves
from visrl_train.launch import load_train_config, train

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # name, done, total

_MAY_CHANGE = {"rounds"}
_SHARED = ("images_root", "allow_urls", "columns", "gold_space", "gold_format", "box_space", "crop_min_side",
           "crop_max_aspect", "max_new_tokens", "critic", "gold_rule", "prompts", "seed", "engine", "device", "dtype",
           "quantize", "batch_size", "max_pixels", "trust_remote_code",
           "base_url", "critic_engine", "critic_base_url", "in_flight", "vllm_options")  # fmt: skip


def evolve(
    config: EvolveConfig,
    gen: GenConfig,
    output: Path,
    say: Say = lambda _: None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run the rounds in the folder `output`, resuming an interrupted start; return the report.

    gen: the options of each round's run; its model is the actor of the first round. Raises VisRLError for anything
    that the user can fix, and Terminated after a SIGTERM in a training; finished work is kept.
    """
    check(config, gen)
    files.make_folder(output)
    with files.lock_folder(output, lambda: _check_start(config, gen, output)):
        last = _report(output)
        if last["rounds"] > config.rounds:
            say(f"{output} has {last['rounds']} rounds already; nothing to do.")
            return last
        models = [gen.model]
        rounds: list[dict[str, Any]] = []
        report = _evaluate(config, gen, output, models, rounds, progress)
        for k in range(config.rounds):
            say(f"Round {k}: gen with {models[-1]}")
            run = _generate(_round_config(config, gen, models[-1], k), output / f"round{k}", progress)
            attach_last(run)
            rounds.append(_round_figures(run, rounds))
            model = models[0] if config.restart else models[-1]
            for stage in config.stages.split(","):
                say(f"Round {k}: {stage}, from {model}")
                model = str(_train(stage, config, gen, model, run.path, output / "models" / f"round{k}-{stage}"))
            models.append(model)
            report = _evaluate(config, gen, output, models, rounds, progress)
    return report


def check(config: EvolveConfig, gen: GenConfig) -> None:
    """Raise UsageError when options conflict; read no image and load no model."""
    if gen.engine == "openai":
        raise UsageError(
            "--engine openai: each round trains the actor here, and a server does not have it. Leave --engine out; "
            "for a served critic use --critic-engine openai."
        )
    if config.fresh and gen.limit is None:
        raise UsageError("--fresh takes the next --limit rows each round: give --limit.")
    if config.train_config is not None:  # a mistake in it would show only after the first round's pairs are made
        for stage in config.stages.split(","):
            load_train_config(stage, config.train_config, _train_options(gen))
    source = factory.open_questions(gen)
    if config.fresh and gen.limit is not None:
        last = _round_config(config, gen, gen.model, config.rounds - 1)
        if len(factory.open_questions(last)) < gen.limit:
            raise UsageError(
                f"--fresh: {config.rounds} rounds of {gen.limit} rows are more than {gen.source} has in split "
                f"{gen.split!r}. Give a smaller --limit or fewer --rounds."
            )
    held_out = factory.open_questions(_eval_config(config, gen).gen_config(config.eval_source or gen.source))
    if (held_out.fingerprint(), held_out.name) == (source.fingerprint(), source.name):
        raise UsageError(
            f"{source.name}, split {held_out.split!r}, is what the rounds train on. "
            "Evaluate on other questions: --eval-source or --eval-split."
        )


def _check_start(config: EvolveConfig, gen: GenConfig, output: Path) -> None:
    """Record the options that all rounds share, or check that they are the same. Raises VisRLError."""
    shared = {f"evolve.{k}": v for k, v in dataclasses.asdict(config).items() if k not in _MAY_CHANGE}
    now = json.loads(json.dumps(with_version({**dataclasses.asdict(gen), **shared})))
    started = output / "begun.json"
    if started.is_file():
        check_same(str(output), current_options(_read_started(started)), now, ignore=run_folder.NON_IDENTITY_KEYS)
        return
    files.check_own(output, ())
    files.write_json(started, now)
    files.write_text(output / "config.toml", to_toml(gen))


def _read_started(path: Path) -> dict[str, Any]:
    """Read begun.json. Raises VisRLError when it is damaged."""
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict) or not {"model", "source", "evolve.stages"} <= options.keys():
        raise VisRLError(
            f"{path} is damaged, so it is not known with which options {path.parent} started. "
            "Put back a copy of it, or choose another --output."
        )
    return options


def _round_config(config: EvolveConfig, gen: GenConfig, model: str, k: int) -> GenConfig:
    """Return the options of round k's run. The round is part of every seed, so that equal questions get new samples."""
    skip = (gen.skip or 0) + k * (gen.limit or 0) if config.fresh else gen.skip
    return dataclasses.replace(gen, model=model, round=k, skip=skip or None)


def _generate(config: GenConfig, path: Path, progress: Progress) -> Run:
    run = Run(path)
    if run.is_finished:
        old = run.config() | {"actor.digest": run.identity()["actor"].get("digest")}
        digest = find_model(config.model, config.trust_remote_code).digest
        new = parse_record(to_toml(config)) | {"actor.digest": digest}
        check_same(str(path), old, new, ignore=run_folder.NON_IDENTITY_KEYS)
        run_folder.check_files(run)
        run_folder.remove_chunks(run)  # left by a kill after the manifest was written
        return run
    total = len(factory.open_questions(config))

    def on_chunk(step: generation.RunProgress) -> None:
        progress(path.name, min(step.done * config.chunk_size, total), total)

    if _holds_its_memory(config):
        return run_in_child(generation.generate, config, path, on_step=on_chunk)
    return generation.generate(config, path, on_chunk)


def _holds_its_memory(config: GenConfig) -> bool:
    """Return whether an engine keeps its memory, which training needs, until its process ends: vLLM does."""
    return "vllm" in (config.engine, config.critic_engine)


def _train(stage: str, config: EvolveConfig, gen: GenConfig, model: str, run: Path, output: Path) -> Path:
    from visrl_train.stage_folder import check_weights

    if (output / RECORD).is_file():
        record = read_record(output)
        old = {
            "trained_from.digest": record["trained_from"]["digest"],
            "data.manifest_sha256": record["data"]["manifest_sha256"],
        }
        new = {
            "trained_from.digest": find_model(model, gen.trust_remote_code).digest,
            "data.manifest_sha256": files.file_digest(Run(run).manifest_path),
        }
        check_same(str(output), old, new)
        check_weights(output)
        shutil.rmtree(output / "work", ignore_errors=True)  # left by a kill after visrl.json was written
        return output
    return train(stage, output, config.train_config, model=model, data=str(run), **_train_options(gen))


def _train_options(gen: GenConfig) -> dict[str, Any]:
    """Return the options of a stage that follow from those of a round's run."""
    options: dict[str, Any] = {"seed": gen.seed}
    if gen.trust_remote_code:
        options["trust_remote_code"] = True
    if gen.device == "cpu":
        options["device"] = "cpu"
    if gen.quantize:
        options["quantize"] = True
    if gen.dtype in ("float32", "bfloat16"):
        options["dtype"] = gen.dtype
    return options


def _eval_config(config: EvolveConfig, gen: GenConfig) -> EvalConfig:
    shared = {name: getattr(gen, name) for name in _SHARED}
    return EvalConfig(**shared, split=config.eval_split, limit=config.eval_limit)


def _round_figures(run: Run, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a round's run. Raises VisRLError when its critic differs from that of earlier rounds."""
    report, identity = json.loads((run.path / "report.json").read_text(encoding="utf-8")), run.identity()
    critic = {"model": identity["critic"].get("model"), "digest": identity["critic"].get("weights_digest")}
    if earlier:
        check_same(f"Round 0 and {run.path}", {"critic": earlier[0]["critic"]["digest"]}, {"critic": critic["digest"]})
    counts, audit = report["yields"]["all"], report["audit"]
    return {
        "run": str(run.path),
        "manifest_sha256": files.file_digest(run.manifest_path),
        "critic": critic,
        "questions": counts["questions"],
        "pairs": counts["pairs"],
        "yield": counts["pairs"] / counts["questions"] if counts["questions"] else None,
        "cells": audit["pairs"] and {name: cell["percent"] for name, cell in audit["pairs"]["cells"].items()},
    }


def _report(output: Path) -> dict[str, Any]:
    """Return the last report; before the first one, a report of no round."""
    path = output / "report.json"
    if not path.is_file():
        return {"rounds": 0}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or not isinstance(report.get("rounds"), int):
        raise VisRLError(f"{path} is damaged. Delete it: the same command writes it again.")
    return report


def _run_evaluation(
    config: EvolveConfig, gen: GenConfig, output: Path, models: list[str], progress: Progress
) -> EvalReport:
    """Evaluate the models that were not yet; return the report on all."""
    sources, options = [config.eval_source or gen.source], _eval_config(config, gen)
    where: tuple[Path, dict[str, str]] = (output / "eval", {OTHERS: config.score})

    def on_chunk(step: evaluate.EvalProgress) -> None:
        if not step.resumed:
            progress("eval", step.done, step.total)

    if not _holds_its_memory(gen):
        return evaluate.evaluate(models, sources, options, *where, on_chunk)
    if len(models) == 1:  # the baseline next: a process holds one set of weights
        alone = dataclasses.replace(options, baseline=False)
        run_in_child(evaluate.evaluate, models, sources, alone, *where, on_step=on_chunk)
    return run_in_child(evaluate.evaluate, models, sources, options, *where, on_step=on_chunk)


def _evaluate(
    config: EvolveConfig,
    gen: GenConfig,
    output: Path,
    models: list[str],
    rounds: list[dict[str, Any]],
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate all models so far, and write the report: entry k is model k, which generates round k's pairs."""
    evaluation = _run_evaluation(config, gen, output, models, progress)
    entries = [
        {
            "model": row["model"],
            "digest": row["digest"],
            "figures": row["figures"],
            "round": rounds[k] if k < len(rounds) else None,
        }
        for k, row in enumerate(row for row in evaluation["models"] if row["steps"] == 2)
    ]
    report = {
        "stages": config.stages,
        "restart": config.restart,
        "fresh": config.fresh,
        "rounds": len(rounds),
        "groups": [ALL, *evaluation["groups"]],
        "models": entries,
        "baseline": next(row for row in evaluation["models"] if row["steps"] == 1),
    }
    files.write_json(output / "report.json", report)
    files.write_text(output / "curves.svg", curves(report))
    return report
