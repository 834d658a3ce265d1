"""Models of the Hub that come with code: a stage finds its start where --trust-remote-code is given, and only there."""

import dataclasses
import json
import shutil

import pytest

from visrl_data.core.errors import VisRLError
from visrl_data.models import model_folder
from visrl_train import answer_baselines, launch, rl2
from visrl_train.config import Rl2Config
from visrl_train.pairs import read_pairs

pytest_plugins = ["tests.train.test_helpers"]

FINDERS = {
    "preset": lambda pairs, trust: launch.resolve("sft", None, {"model": "org/coded", "trust_remote_code": trust}),
    "actor": lambda pairs, trust: rl2.find_start(Rl2Config(without_rl1=True, trust_remote_code=trust), pairs),
    "rl1 model": lambda pairs, trust: rl2.find_start(Rl2Config(trust_remote_code=trust), pairs),
    "original": lambda pairs, trust: answer_baselines.find_original(pairs, trust),
}


@pytest.fixture
def pairs(untrained, scripted_run, tmp_path, monkeypatch):
    """Pairs of org/coded, a model with code of its own, and an rl1 adapter on it in models/."""
    folder = tmp_path / "commit"
    shutil.copytree(untrained, folder)
    config = json.loads((folder / "config.json").read_text())
    about = {"model_type": "other", "auto_map": {"AutoConfig": "code.C"}}
    (folder / "config.json").write_text(json.dumps(config | about))
    adapter = tmp_path / "models" / "rl1"
    adapter.mkdir(parents=True)
    made = read_pairs(str(scripted_run))
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/coded"}))
    (adapter / "visrl.json").write_text(json.dumps({"stage": "rl1", "data": made.record()}))

    class Hub:
        def snapshot_download(self, name, **_):
            assert name == "org/coded"
            return str(folder)

    monkeypatch.setattr(model_folder, "hub_api", Hub)
    monkeypatch.chdir(tmp_path)
    digest = model_folder.digest_folder(folder)
    return dataclasses.replace(made, actor="org/coded", actor_digest=digest, origin="org/coded")


@pytest.mark.parametrize("finder", FINDERS)
def test_code_that_is_trusted_is_no_obstacle(finder, pairs):
    with pytest.raises(VisRLError, match="if you trust it, add --trust-remote-code"):
        FINDERS[finder](pairs, False)
    FINDERS[finder](pairs, True)
