"""Options: one declaration, checked, read back from what was saved."""

import dataclasses
import shlex

import pytest

from tests.helpers.command import visrl
from visrl_data.core.config import GenConfig, current_options, load_config, to_toml, with_version
from visrl_data.core.errors import UsageError
from visrl_data.pipeline.critics import round_score
from visrl_data.runs.run_folder import resume_command
from visrl_train.launch import load_train_config


def test_every_option_is_documented():
    assert all(spec.metadata["help"] for spec in dataclasses.fields(GenConfig))


@pytest.mark.parametrize(
    "options",
    [
        {"model": 'a "quoted" \\ name', "columns": {"question": "q x"}, "limit": 3, "box_critic": False},
        {"source": "📷 é \x7f\t.jsonl", "columns": {"question": "🙂"}, "images_root": {"": "a.zip", "b c": "😀"}},
        {"vllm_options": {"hf_overrides": {"a": [1, {"b": "😀"}], "c": {}}, "enforce_eager": True}},
    ],
)
def test_saved_options_come_back(tmp_path, options):
    config = GenConfig(**options)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert load_config(file, {}) == config


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("attempts = 5\nseed = 1\n")
    config = load_config(file, {"seed": 2})
    assert (config.attempts, config.seed) == (5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attemps = 5", "unknown option 'attemps'"),
        ('attempts = "5"', "expected int"),
        ("box_critic = 1", "expected bool"),
        ("seed = true", "expected int"),
        ("attempts = ", "Invalid|value"),
        ("columns = {question = 3}", "columns = .* expected dict"),
        ("images_root = {coco = 3}", r"images_root = .* expected str \| dict"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, message):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(file, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "--attempts 0: expected at least 1"),
        ({"top_p": 1.5}, "--top-p 1.5: expected above 0.0, at most 1.0"),
        ({"top_p": 0.0}, "--top-p 0.0: expected above 0.0, at most 1.0"),
        ({"score_step": 0.3}, "--score-step 0.3: expected 0 .* divides 1"),
        ({"score_step": 0.35}, "--score-step 0.35: expected 0"),
        ({"score_step": 1e-4}, "--score-step 0.0001: expected 0"),
        ({"score_step": 1.0}, "--score-step 1.0: expected between"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"temperature": float("inf")}, "--temperature inf: expected a finite number"),
        ({"area_slack": float("inf")}, "--area-slack inf: expected a finite number"),
        ({"source": "caf\udce9.jsonl"}, "--source .*: expected text in UTF-8. Rename"),
        ({"images_root": {"a": "caf\udce9"}}, "--images-root .*: expected text in UTF-8. Rename"),
        ({"diversity": "some"}, "expected one of attempt, question, off"),
        ({"box_win": 0.2, "box_lose": 0.2}, "must be above"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        GenConfig(**options)


@pytest.mark.parametrize("step", [0, 0.5, 1 / 3, 0.25, 0.2, 0.125, 0.1, 0.05, 0.001])
def test_a_perfect_score_can_be_reached_by_every_step(step):
    assert round_score(1.0, GenConfig(score_step=step).score_step) == 1.0


OLD = 'response_critic = "exact"\ngold_rule = "union"\n'


def test_a_record_of_before_means_what_it_meant(tmp_path):
    """Before, gen's `exact` compared normalized texts and `union` was the box around all."""
    (tmp_path / "run.json").touch()
    file = tmp_path / "config.toml"
    file.write_text(OLD)
    config = load_config(file, {})
    assert (config.response_critic, config.gold_rule) == ("normalized", "bounding_box")


def test_a_file_of_the_user_means_what_it_says(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OLD)
    config = load_config(file, {})
    assert (config.response_critic, config.gold_rule) == ("exact", "union")


@pytest.mark.parametrize("options", [{"response_critic": "exact"}, {"gold_rule": "union"}, {"seed": 3}])
def test_a_record_of_today_comes_back_as_it_was(tmp_path, options):
    (tmp_path / "run.json").touch()
    file = tmp_path / "config.toml"
    file.write_text(to_toml(GenConfig(**options)))
    assert load_config(file, {}) == GenConfig(**options)


def test_only_a_record_that_depends_on_it_states_its_version():
    """So the default output of a command is the folder that it was before."""
    assert "config_version" not in to_toml(GenConfig())
    assert current_options(with_version({"gold_rule": "union"}))["gold_rule"] == "union"
    assert current_options({"gold_rule": "union"})["gold_rule"] == "bounding_box"


def test_a_file_can_not_let_code_of_a_model_run(tmp_path):
    """Files come from elsewhere; the flag is the user's own."""
    file = tmp_path / "c.toml"
    file.write_text("trust_remote_code = true\n")
    with pytest.raises(UsageError, match=r"a file can't grant.* add --trust-remote-code"):
        load_config(file, {})
    assert load_config(file, {"trust_remote_code": True}).trust_remote_code
    assert not load_config(file, {"trust_remote_code": False}).trust_remote_code
    for stage in ("sft", "rl1"):
        with pytest.raises(UsageError, match="a file can't grant"):
            load_train_config(stage, str(file), {})
    assert visrl("eval", "--config", str(file))[0] == 2


def test_the_command_that_resumes_a_run_can_be_pasted(tmp_path):
    folder = tmp_path / "my runs; $HOME"
    folder.mkdir()
    (folder / "config.toml").write_text("trust_remote_code = true\n")
    words = shlex.split(resume_command(folder))
    assert words == ["visrl", "gen", "--config", f"{folder}/config.toml", "-o", str(folder), "--trust-remote-code"]
