"""A release of the shipped model's pairs, as a user makes it, from `visrl gen` to DPOTrainer and the card's page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.tools.release_demo import CONFIGS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_versions_are_published_loaded_trained_on_and_seen(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.release_demo", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["states"] == {
        "push v1.0": ["published", "v1.0"],
        "push again": ["unchanged", "v1.0"],
        "push v1.1": ["published", "v1.1"],
    }
    assert result["commits"] == ["Release v1.1", "Release v1.0", "initial commit"]
    first, second = result["loaded"]["v1.0"], result["loaded"]["v1.1"]
    for config in CONFIGS:
        assert sum(second["rows"][config].values()) >= sum(first["rows"][config].values()) > 0
    assert sum(second["rows"]["candidates"].values()) > 1.5 * sum(first["rows"]["candidates"].values())
    for version in (first, second):
        for losses in version["losses"].values():
            assert losses[0] == pytest.approx(0.6931, abs=2e-3), "at the start policy and reference agree"
            assert len(losses) == 2 and losses[1] != losses[0]
    if result["card"] is not None:  # a browser is installed
        assert len(result["card"]["pictures"]) == 3 and all(result["card"]["pictures"]), "each was shown"
        assert result["card"]["tables"] >= 8
        assert Image.open(tmp_path / "card.png").height == result["card"]["height"]
