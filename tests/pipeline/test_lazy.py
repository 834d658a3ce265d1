"""gen --lazy: the same pairs for fewer answers, and a pool that says what it lacks."""

import json

import pyarrow.parquet as pq
import pytest

from tests.pipeline.test_factory import config
from visrl_data.core.config import GenConfig, Thresholds
from visrl_data.core.errors import UsageError
from visrl_data.executors import generation
from visrl_data.pipeline import finalize
from visrl_data.runs import run_folder


@pytest.fixture
def runs(photo_source, scripted_roles, tmp_path):
    return [
        generation.generate(config(photo_source, lazy=lazy), tmp_path / f"lazy-{lazy}", roles=scripted_roles)
        for lazy in (False, True)
    ]


def calls(run):
    return sum(record["calls"] for record in run_folder.times(run))


def table(run, name):
    return pq.read_table(run.path / f"{name}.parquet")


def outcome(run):
    return json.loads((run.path / "report.json").read_text())["yields"]["all"]


def test_the_pairs_are_those_of_a_full_run(runs):
    whole, lazy = runs
    assert table(whole, "pairs").num_rows > 0
    for name in ("pairs", "unpaired"):
        assert table(lazy, name).equals(table(whole, name))
    assert outcome(lazy) == outcome(whole)
    assert calls(lazy) < calls(whole)


def test_the_pool_says_what_was_skipped(runs):
    whole, lazy = (run.table("candidates").to_pylist() for run in runs)
    skipped = 0
    for full, row in zip(whole, lazy, strict=True):
        if 0.2 < full["box_score"] < 0.8:
            skipped += 1
            assert (row["response"], row["response_finish"]) == ("", "skipped")
            assert (row["response_score"], row["response_score_state"]) == (None, "skipped")
        else:
            assert row == full
    assert 0 < skipped < len(lazy)
    critic = json.loads((runs[1].path / "report.json").read_text())["critics"]["response"]
    assert (critic["skipped"], critic["verdicts"]) == (skipped, len(lazy) - skipped)
    assert critic["unparsed"] == 0 == critic["unparsed_share"], "skipped is not unparsed"
    assert sum(sum(kinds.values()) for kinds in critic["exact"]["confusion"].values()) == len(lazy) - skipped


def test_it_filters_within_its_thresholds_and_not_beyond(runs):
    whole, lazy = runs
    within = {"box_win": 0.9, "box_lose": 0.1, "response_win": 0.7}
    assert finalize.filter_run(lazy.path, within)[1] == finalize.filter_run(whole.path, within)[1]
    for beyond in ({"box_win": 0.7}, {"box_lose": 0.3}):
        with pytest.raises(UsageError, match="was made with --lazy.*--box-win 0.8, --box-lose 0.2"):
            finalize.filter_run(lazy.path, beyond)
    with pytest.raises(UsageError, match="--no-box-critic"):
        finalize.filter_run(lazy.path, {}, box_critic=False)
    assert finalize.filter_run(lazy.path, {})[0] == finalize.filter_run(whole.path, {})[0], "a refusal changes nothing"


def test_a_sweep_shows_what_the_pool_can_answer_for(runs):
    whole, lazy = (finalize.sweep_run(run.path).to_pylist() for run in runs)
    assert lazy == [row for row in whole if row["box_win"] >= 0.8 and row["box_lose"] <= 0.2]
    grid = [Thresholds(0.7, 0.2, 0.7, 0.2)]
    assert finalize.sweep_run(runs[1].path, grid=grid).num_rows == 0


def test_an_unparsed_box_score_asks_for_no_response(photo_source, tmp_path):
    from tests.conftest import scripted_reply
    from visrl_data.engines.protocol import Role
    from visrl_data.engines.scripted import ScriptedEngine

    def reply(request, seed):
        text = "".join(part.text for part in request.parts)
        return "no idea" if "crop of a larger image" in text else scripted_reply(request, seed)

    engine = ScriptedEngine(reply)
    role = Role(engine, False)
    run = generation.generate(config(photo_source, lazy=True), tmp_path / "run", roles=(role, role))
    assert {row["response_score_state"] for row in run.table("candidates").to_pylist()} == {"skipped"}
    assert set(table(run, "unpaired")["reason"].to_pylist()) == {"all_unparsed"}


def test_without_box_scores_there_is_nothing_to_go_by():
    with pytest.raises(UsageError, match="--lazy goes by the box scores"):
        GenConfig(lazy=True, box_critic=False)
