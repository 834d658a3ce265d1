"""Read the images of a source from folders, .zip and .tar files: one for all rows, or one for each set.

rows.py calls `Roots.read` with a row's path. An archive is read in place, file by file, by an index of its names
that each process builds once; nothing is unpacked to disk. A path leads only into the folder or archive that the
user named: `..`, absolute paths and links that lead out are refused, and no file is read that is larger than an
image may be.

    --images-root photos/                               a folder, for all rows
    --images-root gqa=images.zip --images-root vsr=coco/    by set, or by the first folder of the path
    --images-root cot=all.tar/cot_image_data            a folder inside an archive
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.errors import VisRLError
from visrl_data.core.images import MAX_IMAGE_BYTES, BadImage, read_under_root
from visrl_data.sources.identity import file_stamp

_NAMED = re.compile(r"(?P<name>[\w-][\w.-]*)=(?P<path>.+)", re.DOTALL)
_ARCHIVES = (".zip", ".tar")


@dataclass(frozen=True, slots=True)
class Root:
    """A folder, or an archive with the folder inside it ("" for all of it)."""

    path: Path
    inside: str = ""

    def read(self, relative: str) -> bytes:
        """Read the bytes of an image file. Raises BadImage with the reasons of `read_under_root`."""
        if self.path.is_dir():
            return read_under_root(self.path, relative)
        shown = repr(relative[:200])
        name = posixpath.normpath(relative) if relative.strip() else ""
        if name.startswith(("/", "../")) or name == "..":
            raise BadImage("image_outside_root", f"{shown} leads out of the archive of images")
        return _read_member(self.path, posixpath.join(self.inside, name), shown)


@dataclass(frozen=True, slots=True)
class Roots:
    """Roots by name, of a set (a row's `source`) or of the first folder of a path; default: for all other rows."""

    default: Root
    named: Mapping[str, Root]

    def read(self, paths: Sequence[str], source: str) -> bytes:
        """Read the first of `paths` (alternative spellings of one file) that exists, under the first root that has it.

        Raises BadImage: about the first path when none exists, and at once when a path leads out of its root.
        """
        missing: BadImage | None = None
        for path in paths:
            for root, relative in self._places(path, source):
                try:
                    return root.read(relative)
                except BadImage as error:
                    if error.reason != "image_missing":
                        raise
                    missing = missing or BadImage(error.reason, error.detail)
        raise missing or BadImage("image_missing", "the path is empty")

    def _places(self, path: str, source: str) -> Iterator[tuple[Root, str]]:
        """Yield where a path may be: in a named root, without its first folder or with it; then in the default root."""
        first, _, rest = path.partition("/")
        for name in dict.fromkeys((first, source)):
            if name in self.named:
                yield from ((self.named[name], relative) for relative in (rest, path) if relative)
        yield self.default, path


def open_roots(images_root: str | Path | Mapping[str, str | Path] | None, folder: Path) -> Roots:
    """Open what --images-root names; `folder` is the default root where it names none. Raises VisRLError."""
    paths = images_root if isinstance(images_root, Mapping) else {} if images_root is None else {"": images_root}
    roots = {name: open_root(path) for name, path in paths.items()}
    return Roots(roots.pop("", Root(folder)), roots)


def open_root(name: str | Path) -> Root:
    """Open a folder, an archive, or a folder inside an archive, whose names are read here. Raises VisRLError."""
    path = Path(name).expanduser()
    archive = next((p for p in (path, *path.parents) if p.is_file()), None)
    if archive is None and path.is_dir():
        return Root(path)
    if archive is None:
        raise VisRLError(f"--images-root {name}: no such folder or archive.")
    if archive.suffix not in _ARCHIVES:
        hint = ""
        if archive.name.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
            hint = " A compressed tar can only be read from its start: decompress it (gunzip), or unpack it."
        raise VisRLError(f"--images-root {name}: expected a folder, a .zip or a .tar file.{hint}")
    inside = path.relative_to(archive).as_posix()
    root = Root(archive, "" if inside == "." else inside)
    if not any(file.startswith(f"{root.inside}/") or not root.inside for file in _names(archive)):
        raise VisRLError(f"--images-root {name}: the archive holds no file{' there' * bool(root.inside)}.")
    return root


def parse_roots(values: Sequence[str]) -> str | dict[str, str]:
    """Parse the values of --images-root. Raises VisRLError for a name that occurs twice.

    ["DIR"] -> "DIR"; ["gqa=DIR", "b.zip"] -> {"gqa": "DIR", "": "b.zip"}.

    A folder whose own name has a "=" is written ./a=b.
    """
    roots: dict[str, str] = {}
    for text in values:
        match = _NAMED.fullmatch(text)
        name, path = (match["name"], match["path"]) if match else ("", text)
        if name in roots or not path:
            raise VisRLError(f"--images-root {text}: expected DIR, or NAME=DIR with each NAME once.")
        roots[name] = path
    return roots[""] if list(roots) == [""] else roots


def _read_member(archive: Path, name: str, shown: str) -> bytes:
    try:
        member = _names(archive).get(name)
        if member is None:
            raise BadImage("image_missing", f"no file {shown} in {archive.name}")
        if member.size > MAX_IMAGE_BYTES:
            raise BadImage("image_too_large", f"{member.size} bytes; at most {MAX_IMAGE_BYTES}")
        if archive.suffix == ".zip":
            return _open_zip(archive, file_stamp(archive), os.getpid()).read(member.name)
        with open(archive, "rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        detail = f"{shown} in {archive.name}: {type(error).__name__}: {error}"  # damaged, or with a password
        raise BadImage("image_unreadable", detail[:200]) from error
    if len(data) < member.size:
        raise BadImage("image_truncated", f"{archive.name} ends inside {shown}")
    return data


@dataclass(frozen=True, slots=True)
class _ArchiveFile:
    """A file in an archive: its name there, its size when unpacked, and its offset in a .tar."""

    name: str
    size: int
    offset: int


def _names(archive: Path) -> Mapping[str, _ArchiveFile]:
    try:
        return _index(archive, file_stamp(archive))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise VisRLError(f"{archive} cannot be read as an archive: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=32)
def _index(archive: Path, stamp: tuple[int, int]) -> Mapping[str, _ArchiveFile]:
    """List the plain files of an archive (no links, none outside it) by normalized name; of two, the last counts."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            files = [_ArchiveFile(info.filename, info.file_size, 0) for info in zipped.infolist() if not info.is_dir()]
    else:
        with tarfile.open(archive, "r:") as tar:
            files = [_ArchiveFile(info.name, info.size, info.offset_data) for info in tar if info.isreg()]
    by_name = {posixpath.normpath(file.name): file for file in files}
    return {name: file for name, file in by_name.items() if not name.startswith(("/", "../"))}


@functools.lru_cache(maxsize=32)
def _open_zip(archive: Path, stamp: tuple[int, int], process: int) -> zipfile.ZipFile:
    """Open an archive and keep it open, once per process: two that share a file would move each other's position."""
    return zipfile.ZipFile(archive)
