"""Write files and folders so that a crash leaves the old or the new content, never half; digest and lock them.

Nothing is written through a symbolic link, and temporary names (TEMPORARY) are ones that nobody else gives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.core.errors import VisRLError

logger = logging.getLogger(__name__)

ROWS = 10_000
LOCK = ".lock"
TEMPORARY = ".visrl-tmp"
_OLD = ".visrl-old"


def make_folder(path: Path) -> None:
    """Make a folder for output, with its parents. Raises VisRLError where a file is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise VisRLError(f"{path} can't be made: {error.filename} is no folder. Choose another --output.") from None


def default_folder(root: Path, *parts: str) -> Path:
    """Return root/<the parts, with hyphens between>, without a character that scp, a shell or Windows reads.

    A folder of an earlier version, whose name kept such characters, is the same one.
    """
    name = "-".join(parts)
    earlier = root / name
    return earlier if earlier.is_dir() else root / re.sub(r"[^\w.+-]+", "-", name)


def expand_home(name: str | Path) -> Path:
    """Return a path with the home folder for a leading ~; that of a user who is not known here stays as it is."""
    return Path(os.path.expanduser(name))


def cache_folder(name: str) -> Path:
    """Return the folder of this name for what can be made again: in $VISRL_CACHE, or in ~/.cache/visrl."""
    return Path(os.environ.get("VISRL_CACHE") or Path.home() / ".cache" / "visrl") / name


def check_own(folder: Path, ours: Collection[str]) -> None:
    """Raise VisRLError when a folder holds anything but these names, its lock and our temporary files."""
    others = sorted(f.name for f in folder.iterdir() if f.name not in {*ours, LOCK} and f.suffix != TEMPORARY)
    if others:
        raise VisRLError(f"{folder} is not empty (it holds {others[0]}). Choose another --output.")


def check_new(folder: Path) -> None:
    """Raise VisRLError when a folder is not empty, or is a file."""
    if folder.is_dir():
        check_own(folder, ())
    elif folder.exists():
        raise VisRLError(f"{folder} is no folder. Choose another --output.")


def check_links(folder: Path) -> None:
    """Raise VisRLError when a folder holds a symbolic link: what is written to it, or read, would be elsewhere."""
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if (link := Path(parent, name)).is_symlink():
                raise VisRLError(
                    f"{link} is a symbolic link to {os.readlink(link)}. A folder that visrl works in holds none, since "
                    "they can lead anywhere. Put the file itself there, or remove the link."
                )


@contextlib.contextmanager
def lock_folder(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a folder for this process. Raises VisRLError when another one holds it, or when it holds a link.

    check: raises when the folder must not be written; then no lock file stays in it either.
    """
    if not path.is_dir():
        raise VisRLError(f"{path}: no such run folder. `visrl gen -o {path}` makes one.")
    check_links(path)
    is_new = not (path / LOCK).exists()
    handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _lock(handle, path)
        try:
            check()
        except VisRLError:
            if is_new:
                (path / LOCK).unlink()
            raise
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    """Lock an open file. Raises VisRLError when another process holds it; warn where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise VisRLError(f"Another process is at work in {folder}. Wait for it, or use another folder.") from None
        logger.warning(
            "The file system of %s has no locks (%s), so a second process is not kept out of it. Start one at a time.",
            folder,
            error.strerror,
        )


@contextlib.contextmanager
def replace_folder(folder: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Make an empty folder beside `folder`, which takes its place when the block ends without an error.

    check: raises when what is in `folder` must not be replaced. Raises VisRLError when another process writes it.
    """
    folder = folder.resolve()
    make_folder(folder.parent)
    work, old = (folder.with_name(f".{folder.name}{kind}") for kind in (TEMPORARY, _OLD))
    with _locked_work(work, folder):
        if old.exists() and not folder.exists():  # killed between the two renames
            os.rename(old, folder)
        try:
            check(folder)
            yield work
            check(folder)
            if folder.exists():
                os.rename(folder, old)
            os.rename(work, folder)
            fsync(folder.parent)
        finally:
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _locked_work(work: Path, folder: Path) -> Iterator[None]:
    """Hold an empty folder of this name, whatever an earlier process left in it.

    The lock is on the folder itself, which no later process finds any more once it was renamed.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            work.mkdir()
        try:
            handle = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # renamed by the process that had it
            continue
        except OSError:
            raise VisRLError(f"{work} is in the way: expected no such file. Remove it.") from None
        try:
            _lock(handle, folder)
            if not _is_same(handle, work):
                continue
            for leftover in work.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
            yield
            return
        finally:
            os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_shared_json(path: Path, value: Any) -> None:
    """Write a JSON file that other processes may write at the same time, as those of a cache; the last one stays."""
    with tempfile.TemporaryDirectory(suffix=TEMPORARY, dir=path.parent) as folder:
        own = Path(folder) / path.name
        write_json(own, value)
        os.replace(own, path)
    fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    with _replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    with _replace_file(path) as temporary:
        temporary.write_bytes(data)


def write_table(path: Path, table: pa.Table) -> None:
    with _replace_file(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROWS, compression="zstd")


@contextlib.contextmanager
def _replace_file(path: Path) -> Iterator[Path]:
    """Make a temporary file, which is synced and takes the place of `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        fsync(temporary)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
