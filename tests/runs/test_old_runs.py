"""A run of an earlier version opens in this one. tests/data/run-0.1.0: `visrl gen --limit 16 --seed 5` of visrl 0.1.0.

Its report.html is left out for its size. A release that changes the run folder adds a run of its own here.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.command import visrl
from visrl_data.core.conditions import differences
from visrl_data.core.config import GenConfig, make_config, parse_record, to_toml
from visrl_data.publishing.dataset import build_dataset
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.runs import run_folder
from visrl_data.runs.run_folder import Run

OLD_RUN = Path(__file__).parents[1] / "data" / "run-0.1.0"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(OLD_RUN, tmp_path / "run"))


def printed_json(*arguments):
    code, out, err = visrl(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_inspect_gives_the_figures_of_its_report(run):
    counts = printed_json("inspect", run)["yields"]["all"]
    assert (counts["questions"], counts["pairs"]) == (16, 13)


def test_inspect_compares_it_with_itself(run):
    code, out, err = visrl("inspect", run, OLD_RUN)
    assert code == 0, err
    assert "13" in out


def test_filter_with_its_own_thresholds_gives_the_same_pairs(run):
    code, _, err = visrl("filter", run, "--box-win", "0.8")
    assert code == 0, err
    assert Run(run).pairs() == Run(OLD_RUN).pairs()
    assert (run / "report.html").is_file()


def test_filter_with_other_settings_picks_other_pairs(run):
    code, _, err = visrl("filter", run, "--response-win", "0.9", "--no-box-critic")
    assert code == 0, err
    applied = Run(run).manifest()["filter"]
    assert (applied["response_win"], applied["box_critic"]) == (0.9, False)
    assert Run(run).pairs() != Run(OLD_RUN).pairs()


def test_filter_breaks_ties_otherwise_but_not_by_likelihoods_that_it_does_not_have(run):
    code, _, err = visrl("filter", run, "--lose", "actor-first")
    assert code == 0, err
    assert Run(run).manifest()["filter"]["lose"] == "actor-first"
    now, then = (table.pairs().to_pylist() for table in (Run(run), Run(OLD_RUN)))
    assert [pair["win_index"] for pair in now] == [pair["win_index"] for pair in then]
    assert sum(pair["lose_box_origin"] == "actor" for pair in now) > sum(p["lose_box_origin"] == "actor" for p in then)
    code, _, err = visrl("filter", run, "--lose", "hardest")
    assert code == 2 and "has none" in err and "--lose actor-first" in err
    code, _, err = visrl("filter", run, "--lose", "uniform")
    assert code == 0, err
    assert Run(run).pairs() == Run(OLD_RUN).pairs()
    assert Run(run).manifest()["filter"] == Run(OLD_RUN).manifest()["filter"]


def test_its_candidates_have_no_likelihoods(run):
    assert Run(run).table("candidates")["box_logprob"].null_count == Run(run).rows("candidates")


def test_its_dataset_passes_all_checks(run, tmp_path):
    dataset = build_dataset([run], tmp_path / "dataset")
    check_dataset(dataset.folder)
    assert sum(dataset.counts["preferences"].values()) == 13
    assert dataset.manifest["generator_versions"] == ["0.1.0"]


def test_rl1_trains_on_it(run, tmp_path):
    options = ("--epochs", "1", "--batch-size", "8", "--accumulation", "1", "--device", "cpu")
    code, _, err = visrl("train", "rl1", "--data", run, *options, "-o", tmp_path / "rl1")
    assert code == 1 and "whose files have changed since" in err, "the shipped model of then is another one"
    code, _, err = visrl("train", "rl1", "--data", run, "--model", "spotlight", *options, "-o", tmp_path / "rl1")
    assert code == 0, err
    assert json.loads((tmp_path / "rl1" / "visrl.json").read_text())["stage"] == "rl1"


def test_its_options_are_understood():
    """By `visrl gen --config RUN/config.toml`, which resumes a run or makes another one like it."""
    stored = parse_record((OLD_RUN / "config.toml").read_text())
    config = make_config(GenConfig, stored, {}, where="config.toml", command="visrl gen")
    assert {name: getattr(config, name) for name in stored} == stored


def test_its_names_of_metrics_and_rules_mean_what_they_meant(run):
    """In 0.1.0 `exact` compared normalized texts and `union` was the box around all: the same command as then resumes,
    today's strict `exact` is another run.
    """
    text = (run / "config.toml").read_text().replace('"model"', '"exact"').replace('"any"', '"union"')
    assert '"exact"' in text and '"union"' in text
    (run / "config.toml").write_text(text)
    (run / "manifest.json").unlink()
    identity = Run(run).identity()
    options = Run(run).config()
    assert (options["response_critic"], options["gold_rule"]) == ("normalized", "bounding_box")
    same = GenConfig(**options)
    recorded = Run(run).conditions()
    assert differences(recorded, run_folder.conditions(to_toml(same), identity), run_folder.NON_IDENTITY_KEYS) == {}
    strict = dataclasses.replace(same, response_critic="exact", gold_rule="union")
    assert differences(recorded, run_folder.conditions(to_toml(strict), identity), run_folder.NON_IDENTITY_KEYS) == {
        "response_critic": "normalized -> exact",
        "gold_rule": "bounding_box -> union",
    }
