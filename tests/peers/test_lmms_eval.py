"""The plug-in in the real lmms-eval, installed by this project's own extra: `pip install '.[lmms]'`."""

import pytest

from tests.peers.environments import ROOT

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]


def test_its_command_scores_the_model_as_visrl_eval_does(environment):
    program = environment("lmms")
    version = program.run("python", "-c", "import importlib.metadata as m; print(m.version('lmms_eval'))", cwd=ROOT)
    assert version.startswith("0.7.")
    command = ("python", "-m", "pytest", "-q", "-m", "slow or not slow", "tests/evaluation/test_lmms.py")
    printed = program.run(*command, cwd=ROOT)
    assert " passed" in printed and "skipped" not in printed
