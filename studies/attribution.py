"""Take the loss apart: the paper's DPO, DPO + the win's likelihood, and the win's likelihood alone, on the same pairs.

The product offers all three with two options of `visrl train rl1` and `rl2`:

    paper   --win-nll 0, at the hyperparameters that the cell `grid` chose on split val
    both    --win-nll 1 at Spotlight's preset: the models of the first round
    win     --win-nll 1 with beta 1e-6, at the preset: the gradient of the DPO term is at most beta times that of the
            log-likelihoods, so what is left is the win's likelihood (rejection-sampling fine-tuning). Not 0, so
            that both log-likelihoods can be read from the logged rewards, which are beta times their change.

RL2 starts from the RL1 model of the same loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from studies.methods import CHOSEN_ON, TESTED, TESTED_STAGES, Figures, first_models, train
from studies.workspace import Workspace

RATES = ("1e-6", "1e-5", "3e-5", "1e-4", "3e-4", "1e-3")
BETAS = ("0.03", "0.1", "0.3")
EPOCHS = ("1", "3")
START = {"rate": "1e-4", "beta": "0.1", "epochs": "3"}
"""Where the search begins; it varies the learning rate first, then beta, then the epochs, and keeps the best."""
OPTIONS = tuple(START)
NO_PREFERENCE = "1e-6"
PRESET_BETA, PRESET_EPOCHS = "0.1", "3"
ROWS = ("sft", "paper-rl1", "paper-rl2", "both-rl1", "both-rl2", "win-rl1", "win-rl2")

Choice = dict[str, str]


def grid(workspace: Workspace) -> Figures:
    """Choose learning rate, beta and epochs of the paper's loss for RL1, then the learning rate for RL2."""
    trials: list[Figures] = []
    choice = START
    for name, values in (("rate", RATES), ("beta", BETAS), ("epochs", EPOCHS)):
        found = [_trial(workspace, "rl1", choice | {name: value}) for value in values]
        trials += [trial for trial in found if trial not in trials]
        choice = _best(found)["options"]
    start = paper_loss(workspace, "rl1", choice)
    second = [_trial(workspace, "rl2", choice | {"rate": rate}, "--model", start) for rate in RATES]
    return {"trials": trials + second, "rl1": choice, "rl2": _best(second)["options"]}


def rates(label: str, beta: str) -> Callable[[Workspace], Figures]:
    """Return the cell of RL1 by another loss at each learning rate of the grid: is the preset's a good one for it?"""

    def cell(workspace: Workspace) -> Figures:
        trials = []
        for rate in RATES:
            name, options = f"{label}-rl1-{rate}", {"rate": rate, "beta": beta, "epochs": PRESET_EPOCHS}
            model = str(train(workspace, "rl1", "--beta-b", beta, "--learning-rate", rate, name=name))
            trials.append(_evaluated(workspace, "rl1", options, model, f"grid-{name}"))
        return {"trials": trials}

    return cell


def paper_loss(workspace: Workspace, recipe: str, choice: Choice, *options: str, label: str = "paper") -> str:
    """Train with the paper's loss, without the win's likelihood; return the model."""
    name = f"{label}-{_label(recipe, choice)}"
    return str(train(workspace, recipe, *paper_flags(recipe, choice), *options, name=name))


def paper_flags(recipe: str, choice: Choice) -> list[str]:
    """Return the options of a training with the paper's loss."""
    rest = ["--learning-rate", choice["rate"], "--epochs", choice["epochs"], "--win-nll", "0"]
    return [*beta_flags(recipe, choice["beta"]), *rest]


def beta_flags(recipe: str, beta: str) -> list[str]:
    """Return the options that set beta of every term of a recipe."""
    return [word for flag in (("--beta-b", "--beta-r") if recipe == "rl2" else ("--beta-b",)) for word in (flag, beta)]


def paper_models(workspace: Workspace) -> list[str]:
    """Train with the paper's loss on the pairs of the first round: RL1, and RL1 + RL2."""
    choice = chosen(workspace)
    rl1 = paper_loss(workspace, "rl1", choice["rl1"])
    return [rl1, paper_loss(workspace, "rl2", choice["rl2"], "--model", rl1)]


def losses(workspace: Workspace) -> Figures:
    """Evaluate SFT, and RL1 and RL1 + RL2 under each of the three losses; beside them, what the likelihoods did."""
    choice = chosen(workspace)
    paper = paper_models(workspace)
    flags = ("--beta-b", NO_PREFERENCE)
    win = [str(train(workspace, "rl1", *flags, name="win-rl1"))]
    flags += ("--beta-r", NO_PREFERENCE, "--model", win[0])
    win.append(str(train(workspace, "rl2", *flags, name="win-rl2")))
    models = [*paper, *first_models(workspace), *win]
    figures = workspace.scores("losses", ["spotlight", *models], TESTED_STAGES, ("--no-baseline",), names=ROWS)
    betas = (choice["rl1"]["beta"], choice["rl2"]["beta"], PRESET_BETA, PRESET_BETA, NO_PREFERENCE, NO_PREFERENCE)
    for row, model, beta in zip(ROWS[1:], models, betas, strict=True):
        figures[row]["likelihoods"] = workspace.likelihoods(model, float(beta))
    return figures | {"choice": choice}


def paper_transfer(workspace: Workspace) -> Figures:
    """Evaluate the models of the paper's loss on the questions of cell `stages-transfer`."""
    names, models = ("paper-rl1", "paper-rl2"), paper_models(workspace)
    return workspace.scores("losses-transfer", models, TESTED, ("--no-baseline",), names=names, split="transfer")


def paper_rl2_alone(workspace: Workspace) -> Figures:
    """Evaluate RL2 without RL1 by the paper's loss, at the hyperparameters of its RL2."""
    model = paper_loss(workspace, "rl2", chosen(workspace)["rl2"], "--without-rl1", label="paper-alone")
    return workspace.scores("paper-rl2-alone", [model], TESTED, ("--no-baseline",), names=("model",))


def chosen(workspace: Workspace) -> dict[str, Choice]:
    """Read the choice of the cell `grid`, made with seed 0 and used with all. Raises FileNotFoundError."""
    path = workspace.results / "grid-0.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the hyperparameters are not chosen yet. Run: python -m studies --cells grid")
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return {stage: figures[stage] for stage in ("rl1", "rl2")}


def _trial(workspace: Workspace, recipe: str, choice: Choice, *options: str) -> dict[str, Any]:
    model = paper_loss(workspace, recipe, choice, *options)
    return _evaluated(workspace, recipe, choice, model, f"grid-{_label(recipe, choice)}")


def _evaluated(workspace: Workspace, recipe: str, choice: Choice, model: str, name: str) -> dict[str, Any]:
    """Evaluate a model on split val; beside it its options and curves."""
    evaluation = workspace.scores(name, [model], CHOSEN_ON, ("--no-baseline",), names=("model",), split="val")
    figures = {key: evaluation["model"]["all"][key] for key in ("valid", "box_accuracy", "answer")}
    return {"stage": recipe, "options": choice} | figures | workspace.likelihoods(model, float(choice["beta"]))


def _label(recipe: str, choice: Choice) -> str:
    return "-".join([recipe, *(choice[name] for name in OPTIONS)])


def _best(trials: list[dict[str, Any]]) -> dict[str, Any]:
    return max(trials, key=lambda trial: trial["answer"])
