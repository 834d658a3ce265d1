"""Ask what keeps rounds stable: restart from SFT, other rates, betas, losses and loses, the pairs of all rounds.

`visrl evolve` goes on from the last round's model with the same options; `--restart` trains each round from the
SFT model. The other variants, and the rounds by another loss, are made of `visrl gen` and `visrl train`, on the
questions of evolve and from the pairs of its first round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from studies.attribution import (
    NO_PREFERENCE,
    Choice,
    beta_flags,
    chosen,
    loss_flags,
    models_of,
    slow_choice,
    slow_model,
)  # fmt: skip
from studies.methods import CHOSEN_ON, ROUNDS, TESTED, Figures, evolve, pairs
from studies.workspace import Workspace

Options = Callable[[str, list[Path]], Sequence[str]]
"""The options of a stage's training, from its name and the runs so far."""
SECOND_RL2 = {
    "nll": ("--win-nll", "3"),
    "slow": ("--learning-rate", "1e-4"),
    "no-box": ("--lambda-b", "0", "--lambda-r", "1"),
    "box-nll": ("--beta-b", NO_PREFERENCE),
    "response-nll": ("--beta-r", NO_PREFERENCE),
    "both-nll": ("--beta-b", NO_PREFERENCE, "--beta-r", NO_PREFERENCE),
}
"""RL2 of the second round by other options than the preset's."""


def lower(stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds whose learning rate is half of that of the round before."""

    def cell(workspace: Workspace) -> Figures:
        preset = chosen(workspace, "both")

        def options(stage: str, runs: list[Path]) -> Sequence[str]:
            rate = float(preset[stage]["rate"]) / 2 ** (len(runs) - 1)
            return "--data", str(runs[-1]), "--learning-rate", f"{rate:g}"

        return _rounds(workspace, "lower", stages, _first(workspace, stages), options)

    return cell


def beta(stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds whose beta is twice that of the round before: each may leave its reference less."""

    def cell(workspace: Workspace) -> Figures:
        preset = chosen(workspace, "both")

        def options(stage: str, runs: list[Path]) -> Sequence[str]:
            value = f"{float(preset[stage]['beta']) * 2 ** (len(runs) - 1):g}"
            return "--data", str(runs[-1]), *beta_flags(stage, value)

        return _rounds(workspace, "beta", stages, _first(workspace, stages), options)

    return cell


def pooled(stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds that train from the SFT model on the pairs of all rounds so far."""

    def options(stage: str, runs: list[Path]) -> Sequence[str]:
        return [word for run in runs for word in ("--data", str(run))]

    return lambda workspace: _rounds(workspace, "pooled", stages, _first(workspace, stages), options, restarts=True)


def second(name: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds whose RL2 has, from the second round on, options of SECOND_RL2."""
    stages = "rl1,rl2"

    def cell(workspace: Workspace) -> Figures:
        def options(stage: str, runs: list[Path]) -> Sequence[str]:
            return "--data", str(runs[-1]), *(SECOND_RL2[name] if stage == "rl2" else ())

        return _rounds(workspace, name, stages, _first(workspace, stages), options)

    return cell


def invalid(workspace: Workspace) -> Figures:
    """Evaluate rounds whose loses are, from the second round on, invalid replies where the actor wrote one."""

    def options(stage: str, runs: list[Path]) -> Sequence[str]:
        return "--data", str(workspace.with_invalid_loses(runs[-1], f"{runs[-1]}-loses"))

    return _rounds(workspace, "invalid", "rl1,rl2", _first(workspace, "rl1,rl2"), options)


def by_loss(loss: str, stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds by a loss, at the hyperparameters that its grid chose."""

    def cell(workspace: Workspace) -> Figures:
        model = models_of(workspace, loss)[stages.count(",")]
        return _by_choice(workspace, loss, loss, stages, model, chosen(workspace, loss))

    return cell


def paper_slow(workspace: Workspace) -> Figures:
    """Evaluate rounds by the paper's loss whose RL2 has a third of the learning rate that the grid chose."""
    return _by_choice(workspace, "paper-slow", "paper", "rl1,rl2", slow_model(workspace), slow_choice(workspace))


def paper_round2(workspace: Workspace) -> Figures:
    """Audit the pairs of the second of these rounds, by RL1 and RL2 (Table 6)."""
    return workspace.pair_quality(_pairs(workspace, "paper-rl1-rl2", 1, models_of(workspace, "paper")[1]))


def second_rl2(workspace: Workspace) -> Figures:
    """Evaluate the second round stage by stage, and its RL2 by other options, on split val."""
    folder = evolve(workspace, 2)
    models = {name: str(folder / "models" / name) for name in ("round0-rl2", "round1-rl1", "round1-rl2")}
    train = ("train", "rl2", "--data", str(folder / "round1"))
    for name, options in SECOND_RL2.items():
        start = ("--model", models["round1-rl1"])
        models[name] = str(workspace.run(f"models/second-rl2-{name}", *train, *start, *options))
    models["alone"] = str(workspace.run("models/second-rl2-alone", *train, "--without-rl1"))
    paths, options = list(models.values()), ("--no-baseline",)
    return workspace.scores("second-rl2", paths, CHOSEN_ON, options, names=list(models), split="val")


def _by_choice(
    workspace: Workspace, name: str, loss: str, stages: str, model: str, choice: dict[str, Choice]
) -> Figures:
    """Run the rounds after the first by a loss, from the model that it made of the first round's pairs."""

    def options(stage: str, runs: list[Path]) -> Sequence[str]:
        return "--data", str(runs[-1]), *loss_flags(loss, stage, choice[stage])

    return _rounds(workspace, name, stages, (model, evolve(workspace, 1) / "round0"), options)


def _first(workspace: Workspace, stages: str) -> tuple[str, Path]:
    """Return the model and the run of the first round of evolve."""
    folder = evolve(workspace, 1, stages)
    return str(folder / "models" / f"round0-{stages.split(',')[-1]}"), folder / "round0"


def _rounds(
    workspace: Workspace,
    name: str,
    stages: str,
    first: tuple[str, Path],
    options: Options,
    *,
    restarts: bool = False,
) -> Figures:
    """Run the rounds after the first, each on the pairs of the last model, and evaluate all models."""
    models, runs = ["spotlight", first[0]], [first[1]]
    label = f"{name}-{stages.replace(',', '-')}"
    for k in range(1, ROUNDS):
        runs.append(_pairs(workspace, label, k, models[-1]))
        model = "spotlight" if restarts else models[-1]
        for stage in stages.split(","):
            output = f"models/{label}-{k}-{stage}"
            model = str(workspace.run(output, "train", stage, "--model", model, *options(stage, runs)))
        models.append(model)
    return workspace.curve_of(f"rounds-{label}", models, runs, TESTED)


def _pairs(workspace: Workspace, label: str, k: int, model: str) -> Path:
    return pairs(workspace, f"{label}-{k}", "--model", model)
