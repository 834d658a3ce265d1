"""Find images by size and checksum in a folder or an archive; the search behind `visrl rebuild`.

Image files count, and the pictures inside .parquet, .zip and .tar files, since many sources are published that way.
Only what lies in the folder is read: linked folders are not entered, and a link that leads out is not followed, except
among the blobs of the Hub cache that the folder is part of. Bytes of the right size with another checksum are another
picture (edited, or encoded again), and are never taken.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from visrl_data.core.errors import VisRLError
from visrl_data.core.images import BadImage, is_inside
from visrl_data.sources.archives import ARCHIVES, file_names, read_file


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An image that is looked for. ids: of the first questions about it; size: of its encoded bytes."""

    sha256: str
    size: int
    ids: tuple[str, ...]
    source_id: str
    source_url: str


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """Where a picture is: a file, a member of an archive, or a row of a column in a row group of a parquet file."""

    path: Path
    column: str = ""
    group: int = 0
    row: int = 0
    member: str = ""


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """What a folder holds. images: location by checksum. wrong: locations with a right size and another checksum."""

    images: dict[str, ImageLocation]
    wrong: tuple[ImageLocation, ...]
    files: int


def find_images(folder: Path, needed: tuple[MissingImage, ...]) -> ImageSearch:
    """Look through a folder and its sub-folders, or an archive.

    Bytes are hashed only when their number is that of an image. Raises VisRLError when there is no such place.
    """
    is_archive = folder.is_file() and folder.suffix in ARCHIVES
    if not folder.is_dir() and not is_archive:
        raise VisRLError(f"--images {folder}: expected a folder, a .zip or a .tar file.")
    sizes = {image.size for image in needed}
    checksums = {image.sha256 for image in needed}
    images: dict[str, ImageLocation] = {}
    wrong, files = [], 0
    for path in [folder.resolve()] if is_archive else _files(folder.resolve()):
        files += 1
        for location, sha in _candidates(path, sizes):
            if sha in checksums:
                images.setdefault(sha, location)
            else:
                wrong.append(location)
    return ImageSearch(images, tuple(wrong), files)


def read_image(search: ImageSearch, sha256: str) -> bytes:
    """Return the bytes of an image. Raises VisRLError when they have changed since the search."""
    at = search.images[sha256]
    if at.member:
        data = _member(at.path, at.member)
    else:
        data = _column(at.path, at.group, at.column)[at.row].as_py() if at.column else at.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise VisRLError(f"{at.path} changed while it was being used. Start again.")
    return data


def _files(root: Path) -> Iterator[Path]:
    """Yield the files below root, in order of name. A linked file counts when what it leads to is inside of root."""
    for folder, folders, names in os.walk(root):  # does not follow links to folders
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and is_inside(path.resolve(), root) and os.access(path, os.R_OK):
                yield path


def _candidates(path: Path, sizes: set[int]) -> Iterator[tuple[ImageLocation, str]]:
    """Yield the locations in a file whose bytes have one of the sizes, with their sha256."""
    if path.suffix == ".parquet":
        yield from _in_parquet(path, sizes)
    elif path.suffix in ARCHIVES:
        yield from _in_archive(path, sizes)
    elif path.stat().st_size in sizes:
        with path.open("rb") as file:
            yield ImageLocation(path), hashlib.file_digest(file, "sha256").hexdigest()


def _in_archive(path: Path, sizes: set[int]) -> Iterator[tuple[ImageLocation, str]]:
    with contextlib.suppress(VisRLError):  # a damaged archive, or something else by that name
        for name, file in file_names(path).items():
            if file.size in sizes:
                yield ImageLocation(path, member=name), hashlib.sha256(_member(path, name)).hexdigest()


def _member(path: Path, name: str) -> bytes:
    """Return the bytes of a member of an archive; none of one that can't be read."""
    try:
        return read_file(path, file_names(path)[name], name)
    except BadImage:
        return b""


def _in_parquet(path: Path, sizes: set[int]) -> Iterator[tuple[ImageLocation, str]]:
    try:
        schema, groups = pq.read_schema(path), pq.read_metadata(path).num_row_groups
    except (pa.ArrowException, OSError):
        return  # a damaged file, or something else by that name
    for column in (field.name for field in schema if _holds_bytes(field.type)):
        for group in range(groups):
            try:
                values = _column(path, group, column)
            except (pa.ArrowException, OSError):
                continue  # a damaged row group
            for row, size in enumerate(pc.binary_length(values).to_pylist()):
                if size in sizes:
                    yield ImageLocation(path, column, group, row), hashlib.sha256(values[row].as_py()).hexdigest()


def _holds_bytes(kind: pa.DataType) -> bool:
    """Accept a column of bytes, or of the pictures of `datasets`: structs of bytes and path."""
    kinds = [member.type for member in kind if member.name == "bytes"] if pa.types.is_struct(kind) else [kind]
    return any(pa.types.is_binary(one) or pa.types.is_large_binary(one) for one in kinds)


@functools.lru_cache(maxsize=2)
def _column(path: Path, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        values = file.read_row_group(group, columns=[column])[column]
    return pc.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values
