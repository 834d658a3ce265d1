"""Read the images of a source from folders, .zip and .tar files: one for all rows, or one for each set.

rows.py calls `Roots.read` with a row's path. An archive is read in place (archives.py); nothing is unpacked to disk.
A path leads only into the folder or archive that the user named: `..`, absolute paths and links that lead out are
refused, and no file is read that is larger than an image may be.

    --images-root photos/                               a folder, for all rows
    --images-root gqa=images.zip --images-root vsr=coco/    by set, or by the first folder of the path
    --images-root cot=all.tar/cot_image_data            a folder inside an archive
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import expand_home
from visrl_data.core.images import BadImage, read_under_root
from visrl_data.sources.archives import ARCHIVES, file_names, read_file
from visrl_data.sources.identity import file_stamp

_NAMED = re.compile(r"(?P<name>[\w-][\w.-]*)=(?P<path>.+)", re.DOTALL)


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
        file = file_names(self.path).get(posixpath.join(self.inside, name))
        if file is None:
            raise BadImage("image_missing", f"no file {shown} in {self.path.name}")
        return read_file(self.path, file, shown)

    def near(self, relative: str) -> str:
        """Return the path of a file with nearly the name of a missing one, in its folder or at the root; else ""."""
        if self.path.is_dir():
            parent = posixpath.dirname(relative)
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                parent = parent if (self.path / parent).resolve().is_relative_to(self.path.resolve()) else ""
            for folder in dict.fromkeys((parent, "")):
                name = _names_of_folder(self.path / folder).get(_stem(relative))
                if name:
                    return posixpath.join(folder, name)
            return ""
        return _names_of_archive(self.path, file_stamp(self.path)).get(_stem(relative), "")


def _stem(path: str) -> str:
    """Return what is left of a file's name without its folder, ending, case and Unicode form."""
    return unicodedata.normalize("NFKC", posixpath.splitext(posixpath.basename(path))[0]).casefold()


@functools.lru_cache(maxsize=64)
def _names_of_folder(folder: Path) -> Mapping[str, str]:
    """Return the files of a folder, the first hundred thousand, by `_stem`."""
    try:
        with os.scandir(folder) as entries:
            return {_stem(entry.name): entry.name for entry in itertools.islice(entries, 100_000) if entry.is_file()}
    except (OSError, ValueError):
        return {}


@functools.lru_cache(maxsize=8)
def _names_of_archive(archive: Path, stamp: tuple[int, int]) -> Mapping[str, str]:
    return {_stem(name): name for name in file_names(archive)}


def spellings(path: str) -> list[str]:
    """Return the forms in which a path may be stored: with / for \\, and composed or decomposed Unicode."""
    slashed = path.replace("\\", "/")
    forms = [unicodedata.normalize(form, p) for p in (path, slashed) for form in ("NFC", "NFD")]
    return list(dict.fromkeys((path, *forms)))


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
        for path in dict.fromkeys(spelling for name in paths for spelling in spellings(name)):
            for root, relative in self._places(path, source):
                try:
                    return root.read(relative)
                except BadImage as error:
                    if error.reason != "image_missing":
                        raise
                    missing = missing or BadImage(error.reason, error.detail)
        if missing is None:
            raise BadImage("image_missing", "the path is empty")
        raise BadImage(missing.reason, missing.detail + self._near(paths[0], source))

    def _near(self, path: str, source: str) -> str:
        """Name a file whose name differs from a missing one in case, ending or folder alone."""
        for root, _ in self._places(path, source):
            near = root.near(path.replace("\\", "/"))
            if near:
                return f"; there is {near[:200]!r}"
        return ""

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
    path = expand_home(name)
    archive = next((p for p in (path, *path.parents) if p.is_file()), None)
    if archive is None and path.is_dir():
        return Root(path)
    if archive is None:
        raise VisRLError(f"--images-root {name}: no such folder or archive.")
    if archive.suffix not in ARCHIVES:
        hint = ""
        if archive.name.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
            hint = " A compressed tar can only be read from its start: decompress it (gunzip), or unpack it."
        raise VisRLError(f"--images-root {name}: expected a folder, a .zip or a .tar file.{hint}")
    inside = path.relative_to(archive).as_posix()
    root = Root(archive, "" if inside == "." else inside)
    if not any(file.startswith(f"{root.inside}/") or not root.inside for file in file_names(archive)):
        raise VisRLError(f"--images-root {name}: the archive holds no file{' there' * bool(root.inside)}.")
    return root


def parse_roots(values: Sequence[str]) -> str | dict[str, str]:
    """Parse the values of --images-root. Raises UsageError for a name that occurs twice.

    ["DIR"] -> "DIR"; ["gqa=DIR", "b.zip"] -> {"gqa": "DIR", "": "b.zip"}.

    A folder whose own name has a "=" is written ./a=b.
    """
    roots: dict[str, str] = {}
    for text in values:
        match = _NAMED.fullmatch(text)
        name, path = (match["name"], match["path"]) if match else ("", text)
        if name in roots or not path:
            raise UsageError(f"--images-root {text}: expected DIR, or NAME=DIR with each NAME once.")
        roots[name] = path
    return roots[""] if list(roots) == [""] else roots
