"""One seed's folder of work: runs the product's own commands there and reads what they leave.

Used by cells.py. Every command is one that a user could type; what is done is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.outcomes import outcomes, pair_outcomes
from visrl_data.models.model_folder import digest_folder


@dataclass
class Desk:
    """folder: where commands run and what their paths are relative to.

    commands: output -> command line, of all that is behind the open cell; done: command line -> the same for it.
    """

    folder: Path
    seed: int
    commands: dict[str, str] = field(default_factory=dict)
    done: dict[str, dict[str, str]] = field(default_factory=dict)

    def made(self, output: str, *command: str) -> Path:
        """The output of a command, relative to the desk; raises CalledProcessError with its messages."""
        words = [*command, "-o", output, "--seed", str(self.seed)]
        line = "visrl " + " ".join(words)
        if line not in self.done:
            self._run(words)
            behind: dict[str, str] = {}
            for place, earlier in self.commands.items():
                if any(word == place or word.startswith(f"{place}/") for word in command):
                    behind |= self.done[earlier]
            self.done[line] = behind | {output: line}
        self.commands |= self.done[line]
        return Path(output)

    def _run(self, words: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).parent.parent)
        alone = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "COLUMNS": "200"}
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ visrl {' '.join(words)}\n")
            log.flush()
            subprocess.run(
                [sys.executable, "-m", "cli", *words], cwd=self.folder, env=alone, stdout=log, stderr=log, check=True
            )

    def scores(
        self, name: str, models: Sequence[str], limit: int, options: Sequence[str] = (), *, names: Sequence[str]
    ) -> dict[str, Any]:
        """`visrl eval` of the models: {name: {level or "all": figures, "outcomes": ...}}; the baseline comes last."""
        asked = [word for model in models for word in ("--model", model)]
        folder = self.made(f"evals/{name}", "eval", *asked, "--split", "test", "--limit", str(limit), *options)
        report = json.loads((self.folder / folder / "report.json").read_text(encoding="utf-8"))
        kept = ("answer", "box_accuracy", "mean_iou", "valid", "answer_difference", "box_accuracy_difference")
        return {
            row: {
                group.removeprefix("spotlight-"): {key: found[key] for key in kept}
                for group, found in one["figures"].items()
            }
            | {"outcomes": outcomes(self.folder / folder, one["digest"], one["steps"])}
            for row, one in zip(names, report["models"], strict=True)
        }

    def pair_quality(self, run: Path) -> dict[str, Any]:
        """Pairs a question, Table 6's four shares in percent, and those of blind pairs from the same pool."""
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
        """For each model of the rounds, the first being the shipped one: its accuracies, and the pairs it made."""
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

    def digests(self) -> dict[str, str]:
        """sha256 of what the open cell stands on: a run's manifest, a model's files, an evaluation's report."""
        found = {}
        for output in self.commands:
            folder = self.folder / output
            known = [folder / name for name in ("manifest.json", "report.json") if (folder / name).is_file()]
            found[output] = hashlib.sha256(known[0].read_bytes()).hexdigest() if known else digest_folder(folder)
        return found
