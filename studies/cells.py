"""Define every cell of every table: the commands that produce it, and the figures that it keeps.

A cell is a function of a `Workspace` (one seed's folder of runs and models). Cells share runs and models by name: a
command whose output exists is not run again, since the commands themselves see that it is finished. tables.py says
what the cells are for, workspace.py how commands are run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.serving import serve
from studies.workspace import Workspace
from visrl_data.models.model_folder import ALIASES

QUESTIONS = 400
"""Questions of a run: about 300 pairs."""
TESTED = 500
"""Questions of an evaluation, from split test."""
TESTED_STAGES = 2000
"""Questions of the evaluation of the stages: their differences are small."""
SFT_ROWS = (0, 25, 50, 100, 200, 400, 800)
ROUNDS = 4
PORT = 8790
"""Port of the served critic of seed 0; seed k uses PORT + k."""

Figures = dict[str, Any]


def evolve(workspace: Workspace, rounds: int, stages: str = "rl1,rl2") -> Path:
    """Run so many rounds of `visrl evolve` from the shipped actor; more rounds continue fewer."""
    options = ("--limit", str(QUESTIONS), "--eval-limit", str(TESTED), "--stages", stages)
    return workspace.run(f"evolve-{stages.replace(',', '-')}", "evolve", "--rounds", str(rounds), *options)


def pairs(workspace: Workspace, name: str, *options: str) -> Path:
    """Run `visrl gen` on the shipped actor with other options than those of the full method."""
    return workspace.run(f"runs/{name}", "gen", "--limit", str(QUESTIONS), *options)


def stages(workspace: Workspace) -> Figures:
    """Evaluate the base without a box, the SFT model, +RL1, +RL1+RL2, and RL2 without RL1 (Tables 2 and 4)."""
    first = evolve(workspace, 1)
    models = ["spotlight", *(str(first / "models" / f"round0-{stage}") for stage in ("rl1", "rl2"))]
    models.append(str(train(workspace, "rl2", "--without-rl1")))
    return workspace.scores("stages", models, TESTED_STAGES, names=("sft", "rl1", "rl2", "rl2-alone", "base"))


def validity(rows: int) -> Callable[[Workspace], Figures]:
    """Return the cell of Table 3 for SFT on so many rows of split sft: the share of valid boxes."""

    def cell(workspace: Workspace) -> Figures:
        model = "spotlight-base"
        if rows:
            sft = ("train", "sft", "--split", "sft", "--limit", str(rows), "--validation", "0")
            model = str(workspace.run(f"models/sft-{rows}", *sft))
        return workspace.scores(f"sft-{rows}", [model], TESTED, ("--no-baseline",), names=("model",))

    return cell


def train(workspace: Workspace, recipe: str, *options: str) -> Path:
    """Train a model on the pairs of the first round with another recipe."""
    name = "-".join([recipe, *(option.strip("-") for option in options)])
    return workspace.run(f"models/{name}", "train", recipe, "--data", str(evolve(workspace, 1) / "round0"), *options)


def baseline(recipe: str, *options: str) -> Callable[[Workspace], Figures]:
    """Return the cell of Table 5 for a model that learns the answer alone, or without RL1."""

    def cell(workspace: Workspace) -> Figures:
        model = train(workspace, recipe, *options)
        return workspace.scores(model.name, [str(model)], TESTED, ("--no-baseline",), names=("model",))

    return cell


def quality(name: str, *options: str) -> Callable[[Workspace], Figures]:
    """Return the cell of Table 6 for the pairs of a run, audited with the labels."""
    return lambda workspace: workspace.pair_quality(pairs(workspace, name, *options))


def served_critic(workspace: Workspace) -> Figures:
    """Audit pairs whose critic is behind the OpenAI engine: the base again, on a server (Table 6)."""
    name, server = "spotlight-base", ("--critic-engine", "openai")
    with serve(name, ALIASES[name], PORT + workspace.seed, workspace.folder) as address:
        run = pairs(workspace, "served-critic", "--critic", name, *server, "--critic-base-url", address)
    return workspace.pair_quality(run)


def quality_of_round(k: int) -> Callable[[Workspace], Figures]:
    """Return the same for the pairs of round k, on the same questions; round 0 is the full method."""
    return lambda workspace: workspace.pair_quality(evolve(workspace, k + 1) / f"round{k}")


def curve(stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of Figure 4: rounds that each start from the model of the last."""
    return lambda workspace: workspace.curve(evolve(workspace, ROUNDS, stages))


CELLS: dict[str, Callable[[Workspace], Figures]] = {
    "stages": stages,
    **{f"validity-{rows}": validity(rows) for rows in SFT_ROWS},
    "rl2-alone": baseline("rl2", "--without-rl1"),
    "sft-answers": baseline("sft-answers"),
    "dpo-answers": baseline("dpo-answers"),
    "kto-answers": baseline("kto-answers"),
    "rloo-model": baseline("rloo-answers", "--reward", "model"),
    "rloo-exact": baseline("rloo-answers", "--reward", "normalized"),
    "pairs-full": quality_of_round(0),
    "pairs-no-diversity": quality("no-diversity", "--no-diversity"),
    "pairs-no-box-critic": quality("no-box-critic", "--no-box-critic"),
    "pairs-sft-critic": quality("sft-critic", "--critic", "spotlight"),
    "pairs-exact-match": quality("exact-match", "--response-critic", "normalized"),
    "pairs-served-critic": served_critic,
    "pairs-round2": quality_of_round(1),
    "rounds": curve("rl1,rl2"),
    "rounds-rl1": curve("rl1"),
}
