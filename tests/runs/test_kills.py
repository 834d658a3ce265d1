"""A run of `visrl gen` killed at random moments ends with the bytes of an undisturbed one."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest


def start(model, folder, questions):
    command = ["gen", "--model", str(model), "--limit", str(questions), "--chunk-size", "4", "-o", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "visrl_cli", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(model, folder, questions):
    process = start(model, folder, questions)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err


def content(folder):
    names = {"times.jsonl", ".lock"}
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name not in names
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_change_no_byte(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    finish("spotlight", whole, 100)
    lasted = time.monotonic() - began
    moments = random.Random(0)
    kills = 0
    while kills < 20:
        process = start("spotlight", cut, 100)
        while not any((cut / "work").glob("chunk-????????")) and process.poll() is None:
            time.sleep(0.05)  # every kill comes after the first chunk
        time.sleep(moments.uniform(0, lasted / 8))
        if process.poll() is not None:  # finished meanwhile: start over, the kills still count
            assert content(cut) == content(whole)
            shutil.rmtree(cut)
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    finish("spotlight", cut, 100)
    assert content(cut) == content(whole)


def test_a_kill_in_the_middle_changes_no_byte(tmp_path, untrained):
    """The quick form: one kill, on an untrained model."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(untrained, whole, 20)
    process = start(untrained, cut, 20)
    while not (cut / "work" / "chunk-00000002").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "manifest.json").exists()
    finish(untrained, cut, 20)
    assert content(cut) == content(whole)
