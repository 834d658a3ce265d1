"""One seed's folder of runs and models: run the product's own commands there and read their reports.

Used by cells.py. Every command is one that a user could type; finished commands are not run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from studies.outcomes import outcomes, pair_outcomes
from visrl_data.models.model_folder import digest_folder

RESULTS = Path(__file__).parent.parent / "results"
PARTS = 10
"""Values of a curve over a training."""
PROGRAMS = {"cli": "visrl", "studies.invalid": "python -m studies.invalid"}
"""Module -> what a reader types to run it."""


@dataclass
class Workspace:
    """Runs commands in `folder`; their paths are relative to it.

    commands: output -> command line, of all that the current cell depends on. dependencies: command line -> the same
    for its output. results: the folder of finished cells, for a cell that needs another's figures.
    """

    folder: Path
    seed: int
    commands: dict[str, str] = field(default_factory=dict)
    dependencies: dict[str, dict[str, str]] = field(default_factory=dict)
    results: Path = RESULTS

    def run(self, output: str, *command: str) -> Path:
        """Run a command and return its output, relative to the folder. Raises CalledProcessError."""
        words = [*command, "-o", output, "--seed", str(self.seed)]
        line = "visrl " + " ".join(words)
        if line not in self.dependencies:
            self._execute(words)
            inputs: dict[str, str] = {}
            for path, earlier in self.commands.items():
                if any(word == path or word.startswith(f"{path}/") for word in command):
                    inputs |= self.dependencies[earlier]
            self.dependencies[line] = inputs | {output: line}
        self.commands |= self.dependencies[line]
        return Path(output)

    def filter(self, run: Path, output: str, *options: str) -> Path:
        """Pick the pairs of a run again, in a copy of it at `output`. Raises CalledProcessError."""
        return self._changed(run, output, "cli", "filter", output, *options)

    def with_invalid_loses(self, run: Path, output: str) -> Path:
        """Put the actor's invalid replies in place of losing boxes, in a copy of the run at `output` (invalid.py)."""
        return self._changed(run, output, "studies.invalid", output)

    def _changed(self, run: Path, output: str, module: str, *words: str) -> Path:
        """Run a command that may be repeated on a copy of a run."""
        line = f"cp -r {run} {output} && {' '.join((PROGRAMS[module], *words))}"
        if line not in self.dependencies:
            if not (self.folder / output).is_dir():
                temporary = self.folder / f"{output}.new"
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.copytree(self.folder / run, temporary)
                temporary.rename(self.folder / output)
            self._execute(words, module)
            self.dependencies[line] = self.dependencies[self.commands[str(run)]] | {output: line}
        self.commands |= self.dependencies[line]
        return Path(output)

    def _execute(self, words: Sequence[str], module: str = "cli") -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).parent.parent)
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "COLUMNS": "200"}
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join((PROGRAMS[module], *words))}\n")
            log.flush()
            subprocess.run(
                [sys.executable, "-m", module, *words],
                cwd=self.folder,
                env=env,
                stdout=log,
                stderr=log,
                check=True,
            )

    def scores(
        self,
        name: str,
        models: Sequence[str],
        limit: int,
        options: Sequence[str] = (),
        *,
        names: Sequence[str],
        split: str = "test",
    ) -> dict[str, Any]:
        """Evaluate models: {name: {level or "all": figures, "outcomes": ...}}; the baseline comes last."""
        flags = [word for model in models for word in ("--model", model)]
        folder = self.run(f"evals/{name}", "eval", *flags, "--split", split, "--limit", str(limit), *options)
        report = json.loads((self.folder / folder / "report.json").read_text(encoding="utf-8"))
        kept = ("answer", "box_accuracy", "mean_iou", "valid", "answer_difference", "box_accuracy_difference")
        return {
            row: {
                group.removeprefix("spotlight-"): {key: figures[key] for key in kept}
                for group, figures in entry["figures"].items()
            }
            | {"outcomes": outcomes(self.folder / folder, entry["digest"], entry["steps"])}
            for row, entry in zip(names, report["models"], strict=True)
        }

    def pair_quality(self, run: Path) -> dict[str, Any]:
        """Return the pairs, Table 6's four shares in percent, and the random-pair baseline from the same candidates."""
        report = json.loads((self.folder / run / "report.json").read_text(encoding="utf-8"))
        audit, total = report["audit"], report["yields"]["all"]
        return {
            "questions": total["questions"],
            "pairs": total["pairs"],
            **{name: cell["percent"] for name, cell in audit["pairs"]["cells"].items()},
            "win_positive": audit["pairs"]["win_positive"]["percent"],
            "blind_WP-LN": audit["floor"]["questions_with_pair"]["WP-LN"],
            "pair_outcomes": pair_outcomes(self.folder / run),
        }

    def curve(self, evolve: Path) -> dict[str, Any]:
        """Return accuracies and pairs of each model of the rounds; the first is the shipped one."""
        report = json.loads((self.folder / evolve / "report.json").read_text(encoding="utf-8"))
        return {
            "models": [
                {
                    "all": {name: entry["figures"]["all"][name] for name in ("answer", "box_accuracy", "valid")},
                    "outcomes": outcomes(self.folder / evolve / "eval", entry["digest"], 2),
                    "pair_outcomes": entry["round"] and pair_outcomes(self.folder / entry["round"]["run"]),
                    "pairs": entry["round"] and entry["round"]["pairs"],
                    "WP-LN": entry["round"] and entry["round"]["cells"]["WP-LN"],
                }
                for entry in report["models"]
            ]
        }

    def curve_of(self, name: str, models: Sequence[str], runs: Sequence[Path], limit: int) -> dict[str, Any]:
        """Return the same for models, and the runs that all but the last made, of commands other than evolve."""
        rows = [str(k) for k in range(len(models))]
        scores = self.scores(name, models, limit, ("--no-baseline",), names=rows)
        made: list[dict[str, Any]] = [self.pair_quality(run) for run in runs]
        made += [{} for _ in models[len(runs) :]]
        kept = ("pair_outcomes", "pairs", "WP-LN")
        return {
            "models": [
                {
                    "all": {name: scores[row]["all"][name] for name in ("answer", "box_accuracy", "valid")},
                    "outcomes": scores[row]["outcomes"],
                    **{key: quality.get(key) for key in kept},
                }
                for row, quality in zip(rows, made, strict=True)
            ]
        }

    def likelihoods(self, model: str, beta: float) -> dict[str, dict[str, list[float]]]:
        """Return by how much a training changed log pi of chosen and rejected, in nats per turn, as curves.

        beta: that of the training, whose log holds beta times the change.
        """
        from visrl_train.metrics_log import read_metrics

        records = read_metrics(self.folder / model / "metrics.jsonl")
        steps = [step for step in ("focus", "response") if any(f"{step}/reward_chosen" in one for one in records)]
        return {
            step: {side: _course(records, f"{step}/reward_{side}", beta) for side in ("chosen", "rejected")}
            for step in steps
        }

    def digests(self) -> dict[str, str]:
        """Return sha256 of what the cell depends on: a run's manifest, a model's files, an evaluation's report."""
        digests = {}
        for output in self.commands:
            folder = self.folder / output
            files = [folder / name for name in ("manifest.json", "report.json") if (folder / name).is_file()]
            digests[output] = hashlib.sha256(files[0].read_bytes()).hexdigest() if files else digest_folder(folder)
        return digests


def _course(records: Sequence[dict[str, Any]], name: str, beta: float) -> list[float]:
    values = [record[name] / beta for record in records if name in record]
    return [float(np.mean(part)) for part in np.array_split(values, min(PARTS, len(values)))]
