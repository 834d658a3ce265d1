"""The cells that take the loss and the rounds apart: which commands they run, and how they choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies import attribution, stability
from studies.cells import CELLS
from studies.workspace import Workspace

LEVELS = {"all": {"valid": 1.0, "box_accuracy": 0.5, "answer": 0.4}, "outcomes": {}}


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """A workspace whose commands leave nothing, and whose models of learning rate 1e-4 and beta 0.3 are the best."""

    def scores(self, name, models, limit, options=(), *, names, split="test") -> dict:
        good = 0.1 * ("1e-4" in name) + 0.05 * ("0.3" in name)
        evaluated.append((name, split))
        figure = "box_accuracy" if "-rl1-" in name else "answer"
        return {row: LEVELS | {"all": LEVELS["all"] | {figure: 0.4 + good}} for row in names}

    evaluated: list[tuple[str, str]] = []
    course = {"focus": {"chosen": [-1.0], "rejected": [-2.0]}}
    quality = {"pairs": 4, "WP-LN": 50.0, "pair_outcomes": "+0-"}
    monkeypatch.setattr(Workspace, "_execute", lambda self, words: None)
    monkeypatch.setattr(Workspace, "scores", scores)
    monkeypatch.setattr(Workspace, "likelihoods", lambda self, model, beta: course)
    monkeypatch.setattr(Workspace, "pair_quality", lambda self, run: quality)
    space = Workspace(tmp_path, 1, results=tmp_path)
    space.evaluated = evaluated
    return space


@pytest.fixture
def choice(tmp_path) -> dict[str, dict[str, str]]:
    """What the grids chose: of the paper's loss, that which is returned."""
    figures = {
        "rl1": {"rate": "3e-5", "beta": "0.3", "epochs": "1"},
        "rl2": {"rate": "1e-5", "beta": "0.3", "epochs": "1"},
    }
    preset = {"rate": "3e-4", "beta": "0.1", "epochs": "3"}
    for cell, chosen in (
        ("grid", figures),
        ("grid-both", {"rl1": preset, "rl2": preset}),
        ("grid-win", {stage: preset | {"beta": "1e-6"} for stage in figures}),
    ):
        (tmp_path / f"{cell}-0.json").write_text(json.dumps({"figures": chosen}))
    return figures


def test_the_grid_chooses_on_the_validation_split_one_option_after_the_other(workspace):
    figures = attribution.grid("paper")(workspace)
    assert figures["rl1"] == {"rate": "1e-4", "beta": "0.3", "epochs": "1"}
    assert figures["rl2"] == figures["rl1"]
    trials = [tuple(trial["options"].values()) for trial in figures["trials"] if trial["stage"] == "rl1"]
    assert len(trials) == len(set(trials)) == 10
    assert {split for _, split in workspace.evaluated} == {"val"}


def test_the_other_losses_have_a_search_of_their_own(workspace):
    both, win = (attribution.grid(loss)(workspace) for loss in ("both", "win"))
    trials = [line for line in workspace.commands.values() if line.startswith("visrl train")]
    assert both["rl1"] == {"rate": "1e-4", "beta": "0.3", "epochs": "1"}
    assert win["rl1"] == {"rate": "1e-4", "beta": "1e-6", "epochs": "1"}
    assert all("--win-nll 1 " in line for line in trials)
    assert {split for _, split in workspace.evaluated} == {"val"}


def test_three_losses_train_on_the_same_pairs(workspace, choice):
    found = attribution.losses(workspace)
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train")]
    assert len(trained) == 4 and all("--data evolve-rl1-rl2/round0 " in line for line in trained)
    paper = [line for line in trained if "--win-nll 0" in line]
    assert ["--beta-b 0.3 --learning-rate 3e-5" in paper[0], "--learning-rate 1e-5" in paper[1]] == [True, True]
    assert "--beta-b 0.3 --beta-r 0.3" in paper[1]
    alone = [line for line in trained if "--beta-b 1e-6" in line]
    assert len(alone) == 2 and "--beta-r 1e-6" in alone[1]
    assert found["choice"]["paper"] == choice and "likelihoods" in found["paper-rl2"]
    assert "likelihoods" not in found["sft"]


def test_losses_without_a_choice_say_what_to_run(workspace):
    with pytest.raises(FileNotFoundError, match="python -m studies --cells grid"):
        attribution.losses(workspace)


def test_a_lower_rate_halves_and_goes_on_from_the_last_model(workspace, choice):
    stability.lower("rl1")(workspace)
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train")]
    assert [line.split("--learning-rate ")[1].split()[0] for line in trained] == ["0.00015", "7.5e-05", "3.75e-05"]
    assert "--model models/lower-rl1-1-rl1" in trained[1] and trained[1].count("--data") == 1


def test_pooled_rounds_start_again_on_the_pairs_of_all_rounds(workspace):
    models = stability.pooled("rl1,rl2")(workspace)["models"]
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train rl1")]
    assert [line.count("--data") for line in trained] == [2, 3, 4]
    assert all("--model spotlight " in line for line in trained)
    assert [model["pairs"] for model in models] == [4, 4, 4, 4, None]


def test_likelihoods_are_the_rewards_without_their_beta(tmp_path):
    records = [{"step": k, "focus/reward_chosen": -0.1 * k, "focus/reward_rejected": -0.2 * k} for k in range(20)]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    course = Workspace(Path(tmp_path), 0).likelihoods("model", 0.1)
    assert set(course) == {"focus"} and len(course["focus"]["chosen"]) == 10
    assert course["focus"]["chosen"][-1] == pytest.approx(-18.5)
    assert course["focus"]["rejected"][0] == pytest.approx(-1.0)


def test_beta_doubles_in_every_term(workspace, choice):
    stability.beta("rl1,rl2")(workspace)
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train")]
    assert ["--beta-b 0.2 -o" in trained[0], "--beta-b 0.4 --beta-r 0.4" in trained[3]] == [True, True]
    assert not any("--win-nll" in line for line in trained)


def test_rounds_by_the_papers_loss_begin_with_its_models_and_stay_with_it(workspace, choice):
    models = stability.by_loss("paper", "rl1,rl2")(workspace)["models"]
    lines = list(workspace.commands.values())
    trained = [line for line in lines if line.startswith("visrl train")]
    assert len(models) == 5 and len(trained) == 8 and all("--win-nll 0" in line for line in trained)
    assert "--model models/paper-rl2-1e-5-0.3-1 --data runs/paper-rl1-rl2-1 " in trained[2]
    assert ["--learning-rate 3e-5" in trained[2], "--learning-rate 1e-5" in trained[3]] == [True, True]
    first_round = dict(workspace.commands)
    stability.paper_round2(workspace)
    assert workspace.commands == first_round  # the audit is of pairs that the rounds made


def test_a_slower_rl2_changes_its_rate_in_every_round(workspace, choice):
    stability.paper_slow(workspace)
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train")]
    assert [line.split("--learning-rate ")[1].split()[0] for line in trained] == ["3e-5", "1e-4"] * 4
    assert all("--win-nll 0" in line for line in trained)


def test_another_loss_of_rl2_begins_with_the_second_round(workspace, choice):
    stability.second("both-nll")(workspace)
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train")]
    assert ["--beta-b 1e-6 --beta-r 1e-6" in line for line in trained] == [False, True] * 3
    assert "--data runs/both-nll-rl1-rl2-1 " in trained[0] and "round0-rl2" in trained[0]


def test_the_papers_loss_is_evaluated_on_transfer_and_without_rl1(workspace, choice):
    attribution.paper_transfer(workspace)
    attribution.paper_rl2_alone(workspace)
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train rl2")]
    assert workspace.evaluated == [("losses-transfer", "transfer"), ("paper-rl2-alone", "test")]
    assert ["--without-rl1" in line for line in trained] == [False, True]
    assert len({line.split(" -o ")[1] for line in trained}) == 2


def test_pairs_of_more_questions_are_of_the_actors_that_the_rounds_have(workspace, choice):
    for cell, model in (
        ("pairs-full-more", ""),
        ("pairs-round2-more", "--model evolve-rl1-rl2/models/round0-rl2 "),
        ("pairs-round2-paper-more", "--model models/paper-rl2-1e-5-0.3-1 "),
    ):
        CELLS[cell](workspace)
        run = cell.removeprefix("pairs-")
        assert workspace.commands[f"runs/{run}"] == f"visrl gen --limit 2400 {model}-o runs/{run} --seed 1"
