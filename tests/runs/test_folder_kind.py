"""A folder that is no finished run: what it is, and what to do with it, from every command that wants a run."""

import re
import shlex

import pytest

from tests.helpers.command import visrl
from tests.helpers.dataset_runs import make_run
from visrl_data.publishing.dataset import build_dataset

KINDS = {
    "evaluation": ("predictions/x", "it is an evaluation"),
    "evolution": ("round3/config.toml", "it is an evolution, whose rounds are runs. Name one, such as .*round3"),
    "model": ("config.json", "it is the folder of a model. .*visrl doctor --model"),
    "adapter": ("adapter_config.json", "it is the folder of a model"),
    "unfinished": ("run.json", "not finished. Resume it with: visrl gen --config"),
    "shards": ("shard-2-of-3/run.json", r"Put them together: visrl join .*/shard-\*-of-3 -o"),
    "calibration": ("conditions.json", "it is the calibration of a critic"),
    "something": ("notes.txt", "it has no manifest.json"),
}


@pytest.mark.parametrize(
    "command", ["inspect X", "export X --format swift -o Y", "push X --dry-run", "train rl1 --data X"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_recognized(kind, command, tmp_path):
    file, message = KINDS[kind]
    path = tmp_path / "folder" / file
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    words = {"X": str(tmp_path / "folder"), "Y": str(tmp_path / "out")}
    code, _, err = visrl(*(words.get(word, word) for word in shlex.split(command)))
    if kind in ("model", "adapter") and command.startswith("push"):
        return  # a model can be published
    assert code == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_no_run_and_is_exported(tmp_path):
    folder = build_dataset([make_run(tmp_path / "run", limit=12).path], tmp_path / "set").folder
    code, _, err = visrl("filter", folder, "--box-win", "0.5")
    assert code == 1 and "is no run but a dataset" in err
    assert visrl("export", folder, "--format", "swift", "-o", tmp_path / "out")[0] == 0


def test_export_looks_for_a_name_on_the_hub(tmp_path, monkeypatch):
    names = []

    def fetch(name, say):
        names.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr("visrl_data.publishing.rebuild.fetch_dataset", fetch)
    assert visrl("export", "user/pairs@v1.0", "--format", "swift", "-o", tmp_path / "out")[0] == 130
    assert names == ["user/pairs@v1.0"]
    code, _, err = visrl("export", tmp_path / "nothing", "--format", "swift", "-o", tmp_path / "out")
    assert code == 1 and "no such folder" in err


@pytest.mark.parametrize("command", ["gen", "eval", "evolve"])
def test_a_config_that_is_not_there(command, tmp_path):
    code, _, err = visrl(command, "--config", tmp_path / "nosuch.toml")
    assert code == 2 and "nosuch.toml: no such file" in err and "Errno" not in err
    code, _, err = visrl(command, "--config", tmp_path)
    assert code == 2 and "is a folder" in err and "Errno" not in err
