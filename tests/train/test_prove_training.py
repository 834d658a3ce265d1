"""The proof harness: it trains and evaluates what it says, and its verdict follows the intervals."""

import json

import pytest

from tests.tools.prove_training import prove, shown
from tests.train.test_helpers import QUICK

pytest_plugins = ["tests.train.test_helpers"]


def row(name, answer, box):
    difference = {"answer_difference": {"low": answer}, "box_accuracy_difference": {"low": box}}
    return {"name": name, "figures": {"all": difference}}


def test_the_verdict_follows_the_lower_ends():
    report = {"models": [row("rl2-seed0", 0.01, 0.0), row("rl1-seed0", -1, -1), row("rl2-seed3", -0.01, 0.2)]}
    assert shown(report, [0, 3]) == {
        "seed 0: answer score": True,
        "seed 0: box accuracy": False,
        "seed 3: answer score": False,
        "seed 3: box accuracy": True,
    }


@pytest.mark.slow
def test_it_trains_and_evaluates_and_goes_on(sft_model, scripted_run, tmp_path):
    """Two stages for a seed from a model that knows nothing: a report of three models, nothing shown."""
    config = tmp_path / "quick.toml"
    config.write_text("".join(f"{name} = {value}\n" for name, value in QUICK.items()))
    found = prove(str(scripted_run), str(sft_model), [0], 4, tmp_path / "proof", str(config))
    names = [model["name"] for model in found["report"]["models"]]
    assert names[:3] == ["sft", "rl1-seed0", "rl2-seed0"]
    assert set(found["minutes"]) == {"rl1-seed0", "rl2-seed0"} and not any(found["shown"].values())
    started = json.loads((tmp_path / "proof" / "rl2-seed0" / "visrl.json").read_text())["trained_from"]["id"]
    assert started.endswith("rl1-seed0")
    again = prove(str(scripted_run), str(sft_model), [0], 4, tmp_path / "proof", str(config))
    assert again["minutes"] == {} and again["report"]["models"] == found["report"]["models"]
