"""Take the loss apart: the paper's DPO, DPO + the win's likelihood, and the win's likelihood alone, on the same pairs.

The product offers all three with two options of `visrl train rl1` and `rl2`:

    paper   --win-nll 0
    both    --win-nll 1: Spotlight's preset, whose models are those of the first round
    win     --win-nll 1 with beta 1e-6: the gradient of the DPO term is at most beta times that of the log-likelihoods,
            so what is left is the win's likelihood (rejection-sampling fine-tuning). Not 0, so that both
            log-likelihoods can be read from the logged rewards, which are beta times their change.

Each has the hyperparameters that its own search chose on split val, by box accuracy for RL1, which trains the box, and
by answer accuracy for RL2: the cells `grid` (paper), `grid-both`, `grid-win`.
RL2 starts from the RL1 model of the same loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from studies.methods import CHOSEN_ON, TESTED, TESTED_STAGES, Figures, first_models, train
from studies.workspace import Workspace

LOSSES = ("paper", "both", "win")
NO_PREFERENCE = "1e-6"
DPO_RATES = ("1e-6", "1e-5", "3e-5", "1e-4", "3e-4", "1e-3")
LIKELIHOOD_RATES = ("1e-4", "3e-4", "1e-3")
RATES = {
    "rl1": {"paper": DPO_RATES, "both": (*LIKELIHOOD_RATES, "3e-3"), "win": (*LIKELIHOOD_RATES, "3e-3", "1e-2")},
    "rl2": {"paper": DPO_RATES, "both": LIKELIHOOD_RATES, "win": ("3e-5", *LIKELIHOOD_RATES)},
}
"""Learning rates of the search by stage and loss, one beyond the best on either side. RL2 of the preset's loss
was tried at 3e-3 too: 2.5 points more answers than at 3e-4 on the questions of the search (-0.2 to +5.3), and no
difference on 1000 of split test."""
BETAS = {"paper": ("0.01", "0.03", "0.1", "0.3"), "both": ("0.03", "0.1", "0.3"), "win": (NO_PREFERENCE,)}
EPOCHS = ("1", "3")
START = {"rate": "1e-4", "beta": "0.1", "epochs": "3"}
"""Where the search begins; it varies the learning rate first, then beta, then the epochs, and keeps the best."""
OPTIONS = tuple(START)
GRIDS = {"paper": "grid", "both": "grid-both", "win": "grid-win"}
"""The cells that choose the hyperparameters of each loss."""
ROWS = ("sft", *(f"{loss}-{stage}" for loss in LOSSES for stage in ("rl1", "rl2")))

SLOW = "paper-slow-rl2"
"""The model of the paper's loss whose RL2 has a third of the learning rate that the grid chose."""

Choice = dict[str, str]


def grid(loss: str) -> Callable[[Workspace], Figures]:
    """Return the cell that chooses learning rate, beta and epochs of a loss for RL1, then the learning rate for RL2."""

    def cell(workspace: Workspace) -> Figures:
        trials: list[Figures] = []
        choice = START | ({"beta": NO_PREFERENCE} if loss == "win" else {})
        for name, values in (("rate", RATES["rl1"][loss]), ("beta", BETAS[loss]), ("epochs", EPOCHS)):
            found = [_trial(workspace, loss, "rl1", choice | {name: value}) for value in values]
            trials += [trial for trial in found if trial not in trials]
            choice = _best(found, "box_accuracy")["options"]
        start = trained(workspace, loss, "rl1", choice)
        options = [choice | {"rate": rate} for rate in RATES["rl2"][loss]]
        second = [_trial(workspace, loss, "rl2", one, "--model", start) for one in options]
        return {"trials": trials + second, "rl1": choice, "rl2": _best(second, "answer")["options"]}

    return cell


def trained(
    workspace: Workspace, loss: str, recipe: str, choice: Choice, *options: str, label: str | None = None
) -> str:
    """Train with a loss on the pairs of the first round; return the model."""
    name = f"{label or loss}-{_label(recipe, choice)}"
    return str(train(workspace, recipe, *loss_flags(loss, recipe, choice), *options, name=name))


def loss_flags(loss: str, recipe: str, choice: Choice) -> list[str]:
    """Return the options of a training with a loss."""
    rest = [
        "--learning-rate",
        choice["rate"],
        "--epochs",
        choice["epochs"],
        "--win-nll",
        "0" if loss == "paper" else "1",
    ]
    return [*beta_flags(recipe, choice["beta"]), *rest]


def beta_flags(recipe: str, beta: str) -> list[str]:
    """Return the options that set beta of every term of a recipe."""
    return [word for flag in (("--beta-b", "--beta-r") if recipe == "rl2" else ("--beta-b",)) for word in (flag, beta)]


def models_of(workspace: Workspace, loss: str) -> list[str]:
    """Train with a loss on the pairs of the first round: RL1, and RL1 + RL2."""
    if loss == "both":
        return first_models(workspace)
    return _both_stages(workspace, loss, chosen(workspace, loss))


def _both_stages(workspace: Workspace, loss: str, choice: dict[str, Choice]) -> list[str]:
    rl1 = trained(workspace, loss, "rl1", choice["rl1"])
    return [rl1, trained(workspace, loss, "rl2", choice["rl2"], "--model", rl1)]


def losses(workspace: Workspace) -> Figures:
    """Evaluate SFT, and RL1 and RL1 + RL2 under each of the three losses; beside them, what the likelihoods did."""
    choices = {loss: chosen(workspace, loss) for loss in LOSSES}
    models = [model for loss in LOSSES for model in models_of(workspace, loss)]
    figures = workspace.scores("losses", ["spotlight", *models], TESTED_STAGES, ("--no-baseline",), names=ROWS)
    for row, model in zip(ROWS[1:], models, strict=True):
        loss, stage = row.split("-")
        figures[row]["likelihoods"] = workspace.likelihoods(model, float(choices[loss][stage]["beta"]))
    return figures | {"choice": choices}


def slow_choice(workspace: Workspace) -> dict[str, Choice]:
    """Return the hyperparameters of the paper's loss with a third of the learning rate in RL2.

    On the questions of the search it answered one in a hundred less than the chosen rate, with more valid boxes.
    """
    choice = chosen(workspace, "paper")
    return choice | {"rl2": choice["rl2"] | {"rate": "1e-4"}}


def slow_model(workspace: Workspace) -> str:
    """Train RL1 and RL2 by the paper's loss with these."""
    return _both_stages(workspace, "paper", slow_choice(workspace))[1]


def slow(workspace: Workspace) -> Figures:
    """Evaluate that model on the questions of cell `losses`."""
    model, choice = slow_model(workspace), slow_choice(workspace)["rl2"]
    figures = workspace.scores("losses-slow", [model], TESTED_STAGES, ("--no-baseline",), names=(SLOW,))
    figures[SLOW]["likelihoods"] = workspace.likelihoods(model, float(choice["beta"]))
    return figures


def paper_transfer(workspace: Workspace) -> Figures:
    """Evaluate the models of the paper's loss on the questions of cell `stages-transfer`."""
    names, models = ("paper-rl1", "paper-rl2"), models_of(workspace, "paper")
    return workspace.scores("losses-transfer", models, TESTED, ("--no-baseline",), names=names, split="transfer")


def paper_rl2_alone(workspace: Workspace) -> Figures:
    """Evaluate RL2 without RL1 by the paper's loss, at the hyperparameters of its RL2."""
    choice = chosen(workspace, "paper")["rl2"]
    model = trained(workspace, "paper", "rl2", choice, "--without-rl1", label="paper-alone")
    return workspace.scores("paper-rl2-alone", [model], TESTED, ("--no-baseline",), names=("model",))


def chosen(workspace: Workspace, loss: str) -> dict[str, Choice]:
    """Read what the grid of a loss chose, with seed 0 and for all seeds. Raises FileNotFoundError."""
    cell = GRIDS[loss]
    path = workspace.results / f"{cell}-0.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the hyperparameters are not chosen yet. Run: python -m studies --cells {cell}"
        )
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return {stage: figures[stage] for stage in ("rl1", "rl2")}


def _trial(workspace: Workspace, loss: str, recipe: str, choice: Choice, *options: str) -> dict[str, Any]:
    """Train, and evaluate on split val; beside it the options and curves."""
    model, name = trained(workspace, loss, recipe, choice, *options), f"grid-{loss}-{_label(recipe, choice)}"
    evaluation = workspace.scores(name, [model], CHOSEN_ON, ("--no-baseline",), names=("model",), split="val")
    figures = {key: evaluation["model"]["all"][key] for key in ("valid", "box_accuracy", "answer")}
    return {"stage": recipe, "options": choice} | figures | workspace.likelihoods(model, float(choice["beta"]))


def _label(recipe: str, choice: Choice) -> str:
    return "-".join([recipe, *(choice[name] for name in OPTIONS)])


def _best(trials: list[dict[str, Any]], figure: str) -> dict[str, Any]:
    return max(trials, key=lambda trial: trial[figure])
