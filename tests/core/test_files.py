"""Files appear whole, nothing is written through a link, and nobody else's files are touched."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from pathlib import Path

import pyarrow as pa
import pytest

from visrl_data.core import files
from visrl_data.core.errors import VisRLError


@pytest.mark.parametrize("name", ["report.json.tmp", "report.json~", ".report.json.tmp"])
def test_files_of_other_names_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    files.write_json(tmp_path / "report.json", {})
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([name, "report.json"])


@pytest.mark.parametrize("name", ["table.parquet", "table.parquet.tmp", f".table.parquet{files.TEMPORARY}"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    (target := tmp_path / "precious").write_text("mine")
    (folder := tmp_path / "run").mkdir()
    (folder / name).symlink_to(target)
    files.write_table(folder / "table.parquet", pa.table({"a": [1]}))
    assert target.read_text() == "mine"
    assert not (folder / "table.parquet").is_symlink()


def test_a_written_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "text")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a", "\ud800")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize("name", [".lock", "report.json.tmp", "work/deeper/file"])
def test_a_folder_with_a_link_is_not_worked_in(tmp_path: Path, name: str) -> None:
    (target := tmp_path / "precious").write_text("mine")
    (link := tmp_path / "run" / name).parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(VisRLError, match="is a symbolic link to .*precious"), files.lock_folder(tmp_path / "run"):
        pass
    assert target.read_text() == "mine"


def test_the_lock_empties_no_file(tmp_path: Path) -> None:
    (target := tmp_path / "precious").write_text("mine")
    (folder := tmp_path / "run").mkdir()
    os.link(target, folder / ".lock")
    with files.lock_folder(folder):
        pass
    assert target.read_text() == "mine"


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with files.lock_folder(tmp_path), pytest.raises(VisRLError, match="Another process"), files.lock_folder(tmp_path):
        pass
    with files.lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF])
def test_a_file_system_without_locks_is_worked_on_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def flock(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.lock_folder(tmp_path), files.replace_folder(tmp_path / "new", files.check_new) as work:
        (work / "a").touch()
    assert (tmp_path / "new" / "a").is_file()
    assert "has no locks" in caplog.text


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(RuntimeError), files.replace_folder(folder, files.check_new) as work:
        (work / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.replace_folder(folder, files.check_new) as work:
        (work / "whole").touch()
        assert not folder.exists()
    assert [f.name for f in tmp_path.rglob("*")] == ["new", "whole"]


def test_what_a_kill_left_is_put_right(tmp_path: Path) -> None:
    (tmp_path / f".new{files.TEMPORARY}" / "deep").mkdir(parents=True)
    (tmp_path / ".new.visrl-old").mkdir()
    (tmp_path / ".new.visrl-old" / "old").touch()
    seen = []
    with files.replace_folder(tmp_path / "new", lambda f: seen.append([g.name for g in f.iterdir()])) as work:
        assert list(work.iterdir()) == []
    assert seen == [["old"], ["old"]]
    assert [f.name for f in tmp_path.rglob("*")] == ["new"]


@pytest.mark.parametrize("name", ["new.tmp", ".new.tmp", ".new.old", "new.old"])
def test_neighbors_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    with files.replace_folder(tmp_path / "new", files.check_new):
        pass
    assert (tmp_path / name / "mine").is_file()


def test_a_link_in_place_of_the_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "mine").touch()
    (tmp_path / f".new{files.TEMPORARY}").symlink_to(tmp_path / "precious")
    with pytest.raises(VisRLError, match="in the way"), files.replace_folder(tmp_path / "new", files.check_new):
        pass
    assert (tmp_path / "precious" / "mine").is_file()


def test_two_writers_of_a_folder(tmp_path: Path) -> None:
    """The second ends with a message, while the first is at work and after it."""
    folder = tmp_path / "new"
    with files.replace_folder(folder, files.check_new) as work:
        (work / "first").touch()
        with pytest.raises(VisRLError, match="Another process"), files.replace_folder(folder, files.check_new):
            pass
    with pytest.raises(VisRLError, match="not empty"), files.replace_folder(folder, files.check_new):
        pass
    assert [f.name for f in tmp_path.rglob("*")] == ["new", "first"]


def test_two_writers_of_a_file_of_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fsync, began = tmp_path / "table.json", files.fsync, []

    def write_meanwhile(synced: Path) -> None:
        if not began:
            began.append(synced)
            files.write_shared_json(path, {"by": "another"})
        fsync(synced)

    monkeypatch.setattr(files, "fsync", write_meanwhile)
    files.write_shared_json(path, {"by": "the last"})
    assert began and [file.name for file in tmp_path.iterdir()] == ["table.json"]
    assert json.loads(path.read_text()) == {"by": "the last"}


def test_a_file_in_place_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(VisRLError, match="Choose another --output"):
            files.make_folder(path)
    with pytest.raises(VisRLError, match="Choose another --output"):
        files.check_new(tmp_path / "file")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos.v2", "photos.v2-train-1234"),
        ("mix:signs", "mix-signs-train-1234"),
        ("photos:full@v1.0", "photos-full-v1.0-train-1234"),
        ("été:a/b", "été-a-b-train-1234"),
    ],
)
def test_default_folders_can_be_copied_anywhere(tmp_path: Path, source: str, name: str) -> None:
    """scp and rsync take what is before a colon for a host; a run of an earlier version is still found."""
    assert files.default_folder(tmp_path, source, "train", "1234") == tmp_path / name
    earlier = tmp_path / f"{source}-train-1234"
    earlier.mkdir(parents=True)
    assert files.default_folder(tmp_path, source, "train", "1234") == earlier
