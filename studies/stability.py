"""Ask what keeps rounds of evolution stable: restart from SFT, a learning rate that falls, pairs pooled over rounds.

`visrl evolve` goes on from the last round's model with the same learning rate; `--restart` trains each round from the
SFT model. The other two variants are made of `visrl gen` and `visrl train`, on the questions of evolve and from its
first round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from studies.methods import ROUNDS, TESTED, Figures, evolve, pairs
from studies.workspace import Workspace

Round = tuple[str, list[Path]]
"""The last model, and the runs so far."""
RATE = 3e-4
"""The learning rate of Spotlight's preset."""


def restart(stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds that each train from the SFT model, on pairs of the last round's model."""
    return lambda workspace: workspace.curve(evolve(workspace, ROUNDS, stages, "--restart"))


def lower(stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds whose learning rate is half of that of the round before."""

    def options(model: str, runs: list[Path]) -> tuple[str, list[str]]:
        rate = f"{RATE / 2 ** (len(runs) - 1):g}"
        return model, ["--data", str(runs[-1]), "--learning-rate", rate]

    return lambda workspace: _rounds(workspace, "lower", stages, options)


def pooled(stages: str) -> Callable[[Workspace], Figures]:
    """Return the cell of rounds that train from the SFT model on the pairs of all rounds so far."""

    def options(model: str, runs: list[Path]) -> tuple[str, list[str]]:
        return "spotlight", [word for run in runs for word in ("--data", str(run))]

    return lambda workspace: _rounds(workspace, "pooled", stages, options)


def _rounds(
    workspace: Workspace, name: str, stages: str, options: Callable[[str, list[Path]], tuple[str, list[str]]]
) -> Figures:
    """Run the rounds after the first, each on the pairs of the last model, and evaluate all models."""
    first = evolve(workspace, 1, stages)
    models, runs = ["spotlight", str(first / "models" / f"round0-{stages.split(',')[-1]}")], [first / "round0"]
    label = f"{name}-{stages.replace(',', '-')}"
    for k in range(1, ROUNDS):
        runs.append(pairs(workspace, f"{label}-{k}", "--model", models[-1]))
        model, data = options(models[-1], runs)
        for stage in stages.split(","):
            output = f"models/{label}-{k}-{stage}"
            model = str(workspace.run(output, "train", stage, "--model", model, *data))
        models.append(model)
    return workspace.curve_of(f"rounds-{label}", models, runs, TESTED)
