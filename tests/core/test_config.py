"""Options: one declaration, checked, read back from what was saved."""

import dataclasses

import pytest

from visrl_data.core.config import GenConfig, load_config, to_toml
from visrl_data.core.errors import UsageError


def test_every_option_is_documented():
    assert all(spec.metadata["help"] for spec in dataclasses.fields(GenConfig))


def test_saved_options_come_back(tmp_path):
    config = GenConfig(model='a "quoted" \\ name', columns={"question": "q x"}, limit=3, box_critic=False)
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
        ({"top_p": 1.5}, "--top-p 1.5: expected between"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"diversity": "some"}, "expected one of attempt, question, off"),
        ({"box_win": 0.2, "box_lose": 0.2}, "must be above"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        GenConfig(**options)
