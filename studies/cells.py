"""Every cell of every table: which commands make it, and which of their figures it keeps.

A cell is one function of a `Desk` (one seed's folder of work). Cells share runs and models by name: a command
whose output is there already is not run again, since the commands themselves see that it is done. Read
tables.py for what the cells are for, and desk.py for how commands are run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.desk import Desk
from studies.serving import served
from visrl_data.models.model_folder import ALIASES

QUESTIONS = 400
"""Questions of a run: about 300 pairs."""
TESTED = 500
"""Questions of an evaluation, of split test."""
TESTED_STAGES = 2000
"""Questions of the evaluation of the stages: their differences are small."""
SFT_ROWS = (0, 25, 50, 100, 200, 400, 800)
ROUNDS = 4
PORT = 8790
"""Of the served critic of seed 0; seed k's is k higher."""

Figures = dict[str, Any]


def evolved(desk: Desk, rounds: int, stages: str = "rl1,rl2") -> Path:
    """So many rounds of `visrl evolve` from the shipped actor; more rounds go on from fewer."""
    options = ("--limit", str(QUESTIONS), "--eval-limit", str(TESTED), "--stages", stages)
    return desk.made(f"evolve-{stages.replace(',', '-')}", "evolve", "--rounds", str(rounds), *options)


def pairs(desk: Desk, name: str, *options: str) -> Path:
    """A run of `visrl gen` on the shipped actor with other options than the full method's."""
    return desk.made(f"runs/{name}", "gen", "--limit", str(QUESTIONS), *options)


def stages(desk: Desk) -> Figures:
    """Tables 2 and 4: the base without a box, the SFT model, +RL1, +RL1+RL2, and RL2 without RL1, side by side."""
    first = evolved(desk, 1)
    models = ["spotlight", *(str(first / "models" / f"round0-{stage}") for stage in ("rl1", "rl2"))]
    models.append(str(trained(desk, "rl2", "--without-rl1")))
    return desk.scores("stages", models, TESTED_STAGES, names=("sft", "rl1", "rl2", "rl2-alone", "base"))


def validity(rows: int) -> Callable[[Desk], Figures]:
    """Table 3: share of valid boxes after SFT on so many rows of split sft."""

    def cell(desk: Desk) -> Figures:
        model = "spotlight-base"
        if rows:
            sft = ("train", "sft", "--split", "sft", "--limit", str(rows), "--validation", "0")
            model = str(desk.made(f"models/sft-{rows}", *sft))
        return desk.scores(f"sft-{rows}", [model], TESTED, ("--no-baseline",), names=("model",))

    return cell


def trained(desk: Desk, recipe: str, *options: str) -> Path:
    """A model that learns from the pairs of the first round in another way."""
    name = "-".join([recipe, *(option.strip("-") for option in options)])
    return desk.made(f"models/{name}", "train", recipe, "--data", str(evolved(desk, 1) / "round0"), *options)


def baseline(recipe: str, *options: str) -> Callable[[Desk], Figures]:
    """Table 5: a model that learns the answer alone, or without RL1."""

    def cell(desk: Desk) -> Figures:
        model = trained(desk, recipe, *options)
        return desk.scores(model.name, [str(model)], TESTED, ("--no-baseline",), names=("model",))

    return cell


def quality(name: str, *options: str) -> Callable[[Desk], Figures]:
    """Table 6: pairs of a run and what the labels say about them."""
    return lambda desk: desk.pair_quality(pairs(desk, name, *options))


def served_critic(desk: Desk) -> Figures:
    """Table 6: the critic behind the OpenAI engine. No second model ships here: it is the base again, on a server."""
    name, server = "spotlight-base", ("--critic-engine", "openai", "--dialect", "transformers")
    with served(name, ALIASES[name], PORT + desk.seed, desk.folder) as address:
        run = pairs(desk, "served-critic", "--critic", name, *server, "--critic-base-url", address)
    return desk.pair_quality(run)


def quality_of_round(k: int) -> Callable[[Desk], Figures]:
    """Table 6: the same for the pairs of round k, on the same questions; round 0 is the full method."""
    return lambda desk: desk.pair_quality(evolved(desk, k + 1) / f"round{k}")


def curve(stages: str) -> Callable[[Desk], Figures]:
    """Figure 4: rounds that each go on from the model of the last; accuracy and pairs of every model."""
    return lambda desk: desk.curve(evolved(desk, ROUNDS, stages))


CELLS: dict[str, Callable[[Desk], Figures]] = {
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
