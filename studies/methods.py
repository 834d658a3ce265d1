"""Run what the cells share: pairs of the shipped actor, trainings on those of the first round, rounds of evolution.

The sizes are those that `python -m studies.power` asks for, from the spread of the first edition's cells and effects
of the second edition, which are three to six times larger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.workspace import Workspace

QUESTIONS = 800
"""Questions of a run: about 440 pairs."""
MORE_QUESTIONS = 2400
"""Questions of runs whose shares of good pairs differ by a point or two, which 800 questions left open."""
TESTED = 1000
"""Questions of an evaluation, from split test."""
TESTED_STAGES = 2000
"""Questions of the evaluations of stages and losses: their differences are small."""
CHOSEN_ON = 500
"""Questions of split val on which hyperparameters are chosen."""
ROUNDS = 4

Figures = dict[str, Any]


def evolve(workspace: Workspace, rounds: int, stages: str = "rl1,rl2", *variant: str) -> Path:
    """Run so many rounds of `visrl evolve` from the shipped actor; more rounds continue fewer."""
    options = ("--limit", str(QUESTIONS), "--eval-limit", str(TESTED), "--stages", stages, *variant)
    name = "-".join(["evolve", *stages.split(","), *(option.strip("-") for option in variant)])
    return workspace.run(name, "evolve", "--rounds", str(rounds), *options)


def pairs(workspace: Workspace, name: str, *options: str, questions: int = QUESTIONS) -> Path:
    """Run `visrl gen` on the questions of a round, or on more, with other options than those of the full method."""
    return workspace.run(f"runs/{name}", "gen", "--limit", str(questions), *options)


def train(workspace: Workspace, recipe: str, *options: str, name: str | None = None) -> Path:
    """Train a model on the pairs of the first round with another recipe; by default its name holds the options."""
    name = name or "-".join([recipe, *(option.strip("-") for option in options)])
    return workspace.run(f"models/{name}", "train", recipe, "--data", str(evolve(workspace, 1) / "round0"), *options)


def first_models(workspace: Workspace) -> list[str]:
    """Return the models of the first round: RL1, and RL1 + RL2."""
    return [str(evolve(workspace, 1) / "models" / f"round0-{stage}") for stage in ("rl1", "rl2")]
