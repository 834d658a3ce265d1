"""The proof that training works: RL1, then RL2 from one run, for several seeds, against the actor that they start from.

    OMP_NUM_THREADS=2 python -m tests.tools.prove_training runs/big -o proof
    python -m tests.tools.prove_training runs/big -o proof --model models/sft --seeds 0 1 2 --config my.toml

Prints a row for each model on held-out test questions, with the 95 % interval of the paired bootstrap of model
minus actor, the minutes of each training, and what is shown: that the intervals of every seed's RL2 lie above 0.
Exit code 1 when they don't. Interrupted, the same command goes on. Everything is also in DIR/proof.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_report import ALL
from visrl_data.evaluation.table import render
from visrl_train import rl1, rl2
from visrl_train.launch import resolve
from visrl_train.rl1 import find_actor, read_pairs


def prove(
    data: str, model: str | None, seeds: list[int], questions: int, output: Path, config: str | None = None
) -> dict[str, Any]:
    """Train and evaluate; returns what proof.json holds. minutes: of each stage that this call trained."""
    start = model or find_actor(read_pairs(data)).id
    models, minutes = [start], {}
    for seed in seeds:
        before = start
        for name, stage in (("rl1", rl1), ("rl2", rl2)):
            folder, began = output / f"{name}-seed{seed}", time.monotonic()
            fresh = not (folder / "visrl.json").is_file()
            stage.train(resolve(name, config, {"data": data, "model": before, "seed": seed}), folder)
            if fresh:
                minutes[folder.name] = (time.monotonic() - began) / 60
            before = str(folder)
            models.append(before)
    settings = EvalConfig(limit=questions)
    report = evaluate.evaluate(models, ["spotlight"], settings, output / "eval")
    found = {"data": data, "seeds": seeds, "minutes": minutes, "shown": shown(report, seeds), "report": report}
    (output / "proof.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def shown(report: dict[str, Any], seeds: list[int]) -> dict[str, bool]:
    """For each seed, whether the answer score and the box accuracy of RL2 are above the actor's beyond chance."""
    figures = {row["name"]: row["figures"][ALL] for row in report["models"]}
    return {
        f"seed {seed}: {name}": figures[f"rl2-seed{seed}"][f"{key}_difference"]["low"] > 0
        for seed in seeds
        for name, key in (("answer score", "answer"), ("box accuracy", "box_accuracy"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a finished run, a dataset folder or user/name[@tag]")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", help="what training starts from; default: the actor that made the pairs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--config", help="options of rl1 and rl2; default: as `visrl train` chooses them")
    given = parser.parse_args()
    found = prove(given.data, given.model, given.seeds, given.questions, given.output, given.config)
    Console().print(render(found["report"]))
    for name, value in found["minutes"].items():
        print(f"{name}: {value:.1f} min")
    for what, holds in found["shown"].items():
        print(f"{what} {'is above' if holds else 'is NOT above'} the actor's")
    sys.exit(0 if all(found["shown"].values()) else 1)


if __name__ == "__main__":
    main()
