"""Read the images of a source from folders, .zip and .tar files: one for all rows, or one for each set.

rows.py calls `Roots.read` with a row's path. An archive is read in place (archives.py); nothing is unpacked to disk.
A path leads only into the folder or archive that the user named: `..`, absolute paths and links that lead out are
refused, and no file is read that is larger than an image may be.

    --images-root photos/                               a folder, for all rows
    --images-root gqa=images.zip --images-root vsr=coco/    by set, or by the first folder of the path
    --images-root cot=all.tar/cot_image_data            a folder inside an archive
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.errors import VisRLError
from visrl_data.core.images import BadImage, read_under_root
from visrl_data.sources.archives import ARCHIVES, file_names, read_file

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
