"""The benchmark of training on a tiny model: stock TRL and ours have the same loss on the same pairs; times add up."""

import pytest

from benchmarks import models, training
from tests.helpers.tiny_parts import stand_in_for_videos
from tests.tools.family_table import model_folder


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stand_in_for_videos(patch)
        patch.setattr(models, "stand_in_for_videos", lambda: None)
        patch.setenv("VISRL_CACHE", "")
        folder = model_folder("qwen2_5_vl", tmp_path_factory.mktemp("models") / "qwen", 0)
        jobs = [
            training.TrainingJob("qwen", folder, s, w, 3, 2, 5_000) for s in ("rl1", "rl2") for w in training.METHODS
        ]
        return {(job.stage, job.method): training.measure(job) for job in jobs}


@pytest.mark.parametrize("stage", ["rl1", "rl2"])
def test_the_losses_of_all_ways_are_one_step_after_step(timed, stage):
    losses = {method: timed[stage, method].losses for method in training.METHODS}
    assert all(found == pytest.approx(losses["stock"], abs=1e-4) for found in losses.values())
    assert abs(losses["stock"][0] - 0.6931) > 1e-3, "the policy has left its reference"
    assert abs(losses["stock"][0] - losses["stock"][1]) > 1e-4, "a step was taken"


def test_the_response_term_is_stocks(timed):
    at = {("qwen", stage, method): found for (stage, method), found in timed.items()}
    found = training.agreement(at)
    assert [name for _, name, _, _ in found] == ["rl1", "rl2", "rl2, the response term"]
    assert all(stock == pytest.approx(mine, abs=1e-4) for _, _, stock, mine in found)
    table = training.tables(list(timed.values()))
    assert len([line for line in table.splitlines() if line.startswith("| qwen")]) == 8 + 8 + 3


def test_parts_add_up_to_the_step(timed):
    for found in timed.values():
        assert len(found.seconds) == len(found.cpu_seconds) == 2
        assert sum(found.parts.values()) == pytest.approx(found.seconds[1])
        assert all(found.parts[name] > 0 for name in ("collating", "vision", "language model", "backward"))
