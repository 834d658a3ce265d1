"""`visrl evolve` killed in any stage, at random moments, ends with the pairs, weights and figures of a whole run.

Both are made in the same place, one after the other, since a model's record names its neighbours by their paths.
"""

import random
import shutil
import signal
import time

import pytest

from tests.tools.killing import content, finish, kill_by_the_clock, killed_at, start
from tests.train.test_helpers import QUICK

STAGES = ("eval", "round0", "round0", "models/round0-rl1", "models/round0-rl1", "models/round0-rl2", "eval")
# Times of training are in these; nothing reads them but people.
TIMED = {".lock", "times.jsonl", "metrics.jsonl", "curves.svg", "README.md"}


def command(folder, stages, limit):
    """Real pairs by Spotlight, and steps enough to be killed among, with a checkpoint now and then."""
    options = QUICK | {"epochs": 2, "save_steps": 2, "learning_rate": 1e-4}
    (folder / "quick.toml").write_text("\n".join(f"{name} = {value}" for name, value in options.items()))
    return ("evolve", "--rounds", 1, "--stages", stages, "--limit", limit, "--chunk-size", 8, "--eval-limit", 8,
            "--train-config", "quick.toml", "-o", "e")  # fmt: skip


def result(folder):
    """All that a later round or a reader of figures could see; whole files, so no work file may be left either."""
    return content(folder, TIMED)


@pytest.fixture
def undisturbed(tmp_path):
    """undisturbed(command): what a run without a kill leaves. Its folder is gone afterwards."""

    def run(arguments):
        finish(*arguments, cwd=tmp_path)
        found = result(tmp_path / "e")
        shutil.rmtree(tmp_path / "e")
        return found

    return run


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_kill_while_it_trains_changes_no_weight(tmp_path, undisturbed):
    """After the first steps of rl1."""
    arguments = command(tmp_path, "rl1", 16)
    whole = undisturbed(arguments)
    process = start(*arguments, cwd=tmp_path)
    while not (tmp_path / "e/models/round0-rl1/metrics.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "e/models/round0-rl1/visrl.json").exists()
    finish(*arguments, cwd=tmp_path)
    assert result(tmp_path / "e") == whole


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_before_changes_on_disk_in_every_stage_change_nothing(tmp_path, undisturbed):
    """Each start goes on where the last was killed, and is killed a few changes further, or in the next stage."""
    arguments = command(tmp_path, "rl1,rl2", 16)
    whole = undisturbed(arguments)
    moments = random.Random(0)
    for stage in STAGES:
        change = moments.randint(1, 6)
        assert killed_at(tmp_path / "e" / stage, change, *arguments, cwd=tmp_path), f"{stage}, change {change}"
    finish(*arguments, cwd=tmp_path)
    assert result(tmp_path / "e") == whole


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_six_kills_by_the_clock_change_nothing(tmp_path, undisturbed):
    arguments = command(tmp_path, "rl1,rl2", 16)
    began = time.monotonic()
    whole = undisturbed(arguments)
    lasted = time.monotonic() - began

    def check() -> None:
        assert result(tmp_path / "e") == whole

    kill_by_the_clock(tuple(arguments), 6, lasted / 3, 1, check, tmp_path)
    finish(*arguments, cwd=tmp_path)
    assert result(tmp_path / "e") == whole
