"""What the machine does to a run: a full disk, a folder that can't be written, bytes that rot.

Kills: test_kills.py, and `python -m tests.tools.kill_table` for a hundred in all. Ctrl-C: test_console.py. Two
processes and other options: test_factory.py. The Hub: `python -m tests.tools.fault_table`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers.command import visrl
from tests.pipeline.test_factory import config, file_bytes
from visrl_data.core.errors import VisRLError
from visrl_data.executors import generation
from visrl_data.runs import run_folder


@pytest.fixture
def whole(photo_source, scripted_roles, tmp_path):
    """The files of an undisturbed run."""
    return file_bytes(generation.generate(config(photo_source), tmp_path / "whole", roles=scripted_roles))


@pytest.mark.parametrize("write", [1, 4, 10, 17, 21])
def test_a_disk_that_fills_up_at_any_write_costs_only_the_unit_at_hand(
    photo_source, scripted_roles, tmp_path, whole, monkeypatch, write
):
    real, left = pq.write_table, [write]

    def full(table, where, **options):
        left[0] -= 1
        if left[0] <= 0:
            where.write_bytes(b"PAR1")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))
        return real(table, where, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            generation.generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    assert not (tmp_path / "run/manifest.json").exists()
    run = generation.generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    assert file_bytes(run) == whole


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_small_disk_for_real(photo_source, untrained, tmp_path):
    """A tmpfs of 64 kB: one message with exit code 1, and nothing that looks like a run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs {disk} 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    try:
        code, _, err = visrl(
            "gen", "--model", untrained, "--source", photo_source, "-o", disk / "run", "--max-new-tokens", 4
        )
        assert code == 1 and "No space left" in err and "Traceback" not in err
        assert not (disk / "run/manifest.json").exists()
    finally:
        os.system(f"umount {disk}")


def test_a_folder_that_can_t_be_written(photo_source, tmp_path, monkeypatch):
    """As root every folder can be written, so the system's answer is put in its place."""

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "run"))

    monkeypatch.setattr(run_folder.Path, "mkdir", refused)
    code, _, err = visrl("gen", "--source", photo_source, "-o", tmp_path / "run")
    assert code == 1 and "Permission denied" in err and str(tmp_path / "run") in err and "Traceback" not in err


def spoil(kind, file):
    data = bytearray(file.read_bytes())
    if kind == "cut short":
        del data[len(data) // 2 :]
    elif kind == "a bit flipped":
        data[len(data) // 3] ^= 4
    elif kind == "emptied":
        data.clear()
    file.write_bytes(data)
    if kind == "gone":
        file.unlink()


@pytest.mark.parametrize("name", ["candidates.parquet", "images.parquet", "sha256.json"])
@pytest.mark.parametrize("kind", ["cut short", "a bit flipped", "emptied", "gone"])
def test_a_chunk_that_rotted_is_found_said_and_made_again(
    photo_source, scripted_roles, tmp_path, whole, caplog, kind, name
):
    run = generation.generate(config(photo_source), tmp_path / "run", max_chunks=2, roles=scripted_roles)
    spoil(kind, run.chunk_path(0) / name)
    again = []
    with caplog.at_level(logging.WARNING):
        run = generation.generate(config(photo_source), tmp_path / "run", on_chunk=again.append, roles=scripted_roles)
    assert "chunk-00000000 was damaged on the disk" in caplog.text and "chunk-00000001" not in caplog.text
    assert len(again[1:]) == 3, "after the start: the two that were missing, and that one"
    assert file_bytes(run) == whole


def test_a_finished_run_that_rotted_is_not_published(photo_source, scripted_roles, tmp_path):
    run = generation.generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    spoil("a bit flipped", next((run.path / "candidates").iterdir()))
    code, _, err = visrl("push", run.path, "--hub-id", "me/x", "--dry-run", "--ship-images")
    assert code == 1 and "candidates/part-00000.parquet is missing or was changed" in err and "Traceback" not in err


def test_a_source_that_changed_under_a_run_is_shown(photo_source, scripted_roles, tmp_path):
    generation.generate(config(photo_source), tmp_path / "run", max_chunks=1, roles=scripted_roles)
    photo_source.write_text(photo_source.read_text().replace("thing 3", "thing X"))
    with pytest.raises(VisRLError, match=r"source\.fingerprint: \w+ -> \w+") as told:
        generation.generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    assert "the questions, models, libraries or machine have changed since" in str(told.value)
    assert "visrl gen --config" not in str(told.value), "which would say the same again"


@pytest.mark.slow
def test_the_table_of_kills_in_small(tmp_path):
    command = [sys.executable, "-m", "tests.tools.kill_table", "--only", "filter", "--kills", "2"]
    paths = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "kills.json").read_text())
    assert [(record["kind"], record["equal"]) for record in records] == [("change", True), ("moment", True)]
    assert "| all | | 2 | 2 | |" in done.stdout
