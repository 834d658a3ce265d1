"""Ask which lose teaches most: the same pool of candidates, its pairs picked by each `--lose`, and RL1 on each.

`visrl filter` picks the pairs of one run again, so that all variants have the same questions and the same wins. RL1 is
trained by Spotlight's preset (both, DPO + the NLL of the win) and by the paper's DPO, of which the lose is half.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from studies.attribution import START, loss_flags
from studies.methods import TESTED, Figures
from studies.workspace import Workspace
from visrl_data.core.config import LOSES, parse_record

QUESTIONS = 1600
"""Questions of the run: more than 800 pairs."""
MODELS = ("both-rl1", "paper-rl1")


def variant(lose: str) -> Callable[[Workspace], Figures]:
    """Return the cell of RL1 on the pairs whose tied loses were chosen so."""

    def cell(workspace: Workspace) -> Figures:
        pool = workspace.run("runs/lose", "gen", "--limit", str(QUESTIONS))
        run = workspace.filter(pool, f"runs/lose-{lose}", "--lose", lose)
        data = ("train", "rl1", "--data", str(run))
        models = [
            workspace.run(f"models/lose-{lose}-both", *data),
            workspace.run(f"models/lose-{lose}-paper", *data, *loss_flags("paper", "rl1", START)),
        ]
        scores = workspace.scores(f"lose-{lose}", [*map(str, models)], TESTED, ("--no-baseline",), names=MODELS)
        for name, model in zip(MODELS, models, strict=True):
            options = parse_record((workspace.folder / model / "config.toml").read_text(encoding="utf-8"))
            scores[name]["likelihoods"] = workspace.likelihoods(str(model), options["beta_b"])
        report = json.loads((workspace.folder / run / "report.json").read_text(encoding="utf-8"))
        origin = report["boxes"]["origin"]["lose"]
        return {
            **workspace.pair_quality(run),
            "controller_loses": 100 * origin["controller"] / sum(origin.values()),
            "lose_shape_auc": report["boxes"]["shape_tells"]["lose"]["auc"],
            **scores,
        }

    return cell


CELLS = {f"lose-{lose}": variant(lose) for lose in LOSES}
