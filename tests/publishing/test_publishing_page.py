"""docs/publishing.md against the code: the columns of each config, the options in its commands."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from tests.tools.release_demo import CONFIGS as SHOWN
from visrl_cli.main import app
from visrl_data.publishing.release import PushOptions
from visrl_data.runs.dataset_schema import CONFIGS

PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text("utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line]
COMMANDS = [line for line in LINES if line.startswith("visrl ")]


def named_columns(config):
    """The columns that the page's row of a config names; a prefix before a colon stands for a group."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{config}`"))
    found = set()
    for part in row.split("|")[3].split(";"):
        head, _, body = part.rpartition(":")
        words, prefixes = re.findall(r"`(\w+)`", body), re.findall(r"`(\w+)`", head)
        if "score, " in body:
            found |= {prefix + word for prefix in prefixes for word in ("", *words)}
        elif prefixes:
            found |= {prefix + word for prefix in prefixes for word in words}
        else:
            found |= set(words)
    return found - {"preferences"}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_page_names_each_column(config):
    columns, named = (
        set(CONFIGS[config]),
        named_columns(config) - {"focus", "response"} | ({"response"} if config == "candidates" else set()),
    )
    if config == "candidates":  # "what `preferences` says of source and making"
        columns -= set(CONFIGS["preferences"]) - {"question", "answers", "question_id"}
    assert named == columns


def test_the_configs_are_all_there():
    assert tuple(CONFIGS) == SHOWN


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_have_these_options(line):
    root = typer.main.get_command(app)
    _, *words = shlex.split(line, comments=True)
    command = root.commands[words.pop(0)]
    if hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known


def test_every_way_to_publish_is_explained():
    for name in ("private", "branch", "create_pr", "allow_schema_change", "dry_run"):
        assert hasattr(PushOptions(), name) and f"--{name.replace('_', '-')}" in PAGE
