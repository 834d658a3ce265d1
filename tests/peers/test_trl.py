"""A published set in stock TRL, the oldest release that trains on it and the newest: with its pictures in the batch.

0.24 and 0.26 train too, without a word, and without pictures.
"""

import math

import pytest

from tests.peers.reports import result
from visrl_data.publishing.dataset import build_dataset

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def dataset(peers_run, tmp_path_factory):
    return build_dataset([peers_run], tmp_path_factory.mktemp("published") / "set")


@pytest.mark.parametrize("config", ["rl1", "rl2"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("release", ["trl-oldest", "trl-newest"])
def test_its_dpo_trains_on_pictures(environment, dataset, tiny_model, tmp_path, release, family, config):
    program = environment(release)
    arguments = [dataset.folder, config, tiny_model(family), tmp_path / "out"]
    trained = result(program.python("trl_dpo.py", *arguments, cwd=tmp_path))
    assert trained["rows"] == dataset.counts[config]["train"] > 0
    assert "pixel_values" in trained["batch"], trained["batch"]
    assert len(trained["losses"]) == 2 and all(map(math.isfinite, trained["losses"]))
