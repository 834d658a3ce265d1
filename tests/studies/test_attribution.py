"""The cells that take the loss and the rounds apart: which commands they run, and how they choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies import attribution, stability
from studies.workspace import Workspace

LEVELS = {"all": {"valid": 1.0, "box_accuracy": 0.5, "answer": 0.4}, "outcomes": {}}


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """A workspace whose commands leave nothing, and whose models of learning rate 1e-4 and beta 0.3 are the best."""

    def scores(self, name, models, limit, options=(), *, names, split="test") -> dict:
        good = 0.1 * ("1e-4" in name) + 0.05 * ("0.3" in name)
        evaluated.append((name, split))
        return {row: LEVELS | {"all": LEVELS["all"] | {"answer": 0.4 + good}} for row in names}

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


def test_the_grid_chooses_on_the_validation_split_one_option_after_the_other(workspace):
    figures = attribution.grid(workspace)
    assert figures["rl1"] == {"rate": "1e-4", "beta": "0.3", "epochs": "1"}
    assert figures["rl2"] == figures["rl1"]
    trials = [tuple(trial["options"].values()) for trial in figures["trials"] if trial["stage"] == "rl1"]
    assert len(trials) == len(set(trials)) == 8
    assert {split for _, split in workspace.evaluated} == {"val"}


def test_three_losses_train_on_the_same_pairs(workspace, tmp_path):
    choice = {"rate": "3e-5", "beta": "0.3", "epochs": "1"}
    figures = {"rl1": choice, "rl2": choice | {"rate": "1e-5"}}
    (tmp_path / "grid-0.json").write_text(json.dumps({"figures": figures}))
    found = attribution.losses(workspace)
    trained = [line for line in workspace.commands.values() if line.startswith("visrl train")]
    assert len(trained) == 4 and all("--data evolve-rl1-rl2/round0 " in line for line in trained)
    paper = [line for line in trained if "--win-nll 0" in line]
    assert ["--beta-b 0.3 --learning-rate 3e-5" in paper[0], "--learning-rate 1e-5" in paper[1]] == [True, True]
    assert "--beta-b 0.3 --beta-r 0.3" in paper[1]
    alone = [line for line in trained if "--beta-b 1e-6" in line]
    assert len(alone) == 2 and "--beta-r 1e-6" in alone[1]
    assert found["choice"] == figures and "likelihoods" in found["paper-rl2"] and "likelihoods" not in found["sft"]


def test_losses_without_a_choice_say_what_to_run(workspace):
    with pytest.raises(FileNotFoundError, match="python -m studies --cells grid"):
        attribution.losses(workspace)


def test_a_lower_rate_halves_and_goes_on_from_the_last_model(workspace):
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
