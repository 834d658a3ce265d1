"""`visrl eval` killed at random moments, or before any change on disk, ends with the bytes of an undisturbed one."""

import shutil
import signal
import time

import pytest

from tests.helpers.command import visrl
from tests.tools.killing import content, finish, kill_by_the_clock, killed_at, start

CHUNKED = ("eval", "--model", "spotlight", "--limit", 12, "--chunk-size", 4, "--resamples", 100, "-o", "e")
JUDGED = ("eval", "--model", "spotlight", "--model", "spotlight-base", "--limit", 60, "--chunk-size", 4,
          "--score", "critic", "--resamples", 100, "-o", "e")  # fmt: skip


def test_a_kill_in_the_middle_changes_no_byte(tmp_path, monkeypatch):
    """The quick form: one kill, between two chunks of the second model."""
    monkeypatch.chdir(tmp_path)
    assert visrl(*CHUNKED)[0] == 0
    whole = content(tmp_path / "e")
    shutil.rmtree(tmp_path / "e")
    process = start(*CHUNKED, cwd=tmp_path)
    while len(list((tmp_path / "e").glob("predictions/*/chunk-????????.parquet"))) < 4:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "e/report.json").exists()
    assert visrl(*CHUNKED)[0] == 0
    assert content(tmp_path / "e") == whole


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_kill_before_any_change_on_disk_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert visrl(*CHUNKED)[0] == 0
    whole = content(tmp_path / "e")
    change = 1
    while True:
        shutil.rmtree(tmp_path / "e")
        if not killed_at(tmp_path / "e", change, *CHUNKED, cwd=tmp_path):
            break
        assert visrl(*CHUNKED)[0] == 0
        assert content(tmp_path / "e") == whole, f"killed before change {change}"
        change += 1
    assert change > 20, "a folder, its files, two models of three chunks each, the report and the page"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twelve_kills_by_the_clock_change_no_byte(tmp_path):
    """Two models, the baseline and a judge."""
    finish(*JUDGED, cwd=tmp_path)
    whole = content(tmp_path / "e")
    shutil.rmtree(tmp_path / "e")

    def check() -> None:
        assert content(tmp_path / "e") == whole

    kill_by_the_clock(JUDGED, 12, 8, 0, check, tmp_path)
    finish(*JUDGED, cwd=tmp_path)
    assert content(tmp_path / "e") == whole
