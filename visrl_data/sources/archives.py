"""Read single files of .zip and .tar archives in place, within limits, by an index that each process builds once.

An archive is a stranger's file: the sizes that it states may be wrong, and a few kilobytes may unpack to gigabytes. A
file is therefore unpacked here, up to the stated size and no further, which `zipfile` does not promise for all its
methods. Links in a .zip and symbolic links in a .tar are not followed; a hard link in a .tar is its target.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import lzma
import posixpath
import shlex
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from visrl_data.core.errors import VisRLError
from visrl_data.core.images import MAX_IMAGE_BYTES, BadImage
from visrl_data.sources.identity import file_stamp

ARCHIVES = (".zip", ".tar")
_ENCODINGS = ("utf-8", "gb18030", "shift_jis")  # of names that an archive does not mark as UTF-8
_UTF8_FLAG, _ENCRYPTED_FLAG = 0x800, 0x1
_HEADER = 30  # bytes of a local header of a .zip, before the name


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file in an archive. size: when unpacked, as stated; offset: of its bytes in a .tar, of its header in a .zip.

    stored: its size in a .zip; method, checksum and is_encrypted are those of a .zip.
    """

    size: int
    offset: int
    stored: int = 0
    method: int = zipfile.ZIP_STORED
    checksum: int = 0
    is_encrypted: bool = False


def file_names(archive: Path) -> Mapping[str, ArchiveFile]:
    """Return the plain files of an archive by normalized name; of two, the last counts. Raises VisRLError."""
    try:
        return _index(archive, file_stamp(archive))
    except (
        *(OSError, EOFError, ValueError, OverflowError, RecursionError, NotImplementedError),
        *(tarfile.TarError, zipfile.BadZipFile),
    ) as error:
        test = shlex.join(["unzip", "-t", str(archive)] if archive.suffix == ".zip" else ["tar", "-tf", str(archive)])
        raise VisRLError(
            f"{archive} cannot be read as an archive: it is damaged, incomplete or no plain {archive.suffix} "
            f"({type(error).__name__}: {error}). `{test}` tests it; fetch or pack it again."
        ) from error


def read_file(archive: Path, file: ArchiveFile, shown: str) -> bytes:
    """Read a file of an archive. shown: its name, for messages.

    Raises BadImage: image_too_large, image_truncated, image_unreadable (damaged, encrypted, not of the stated size).
    """
    if file.size > MAX_IMAGE_BYTES:
        raise BadImage("image_too_large", f"{file.size} bytes; at most {MAX_IMAGE_BYTES}")
    try:
        with open(archive, "rb") as opened:
            data = _unpack(opened, file) if archive.suffix == ".zip" else _stored(opened, file.offset, file.size)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError) as error:
        detail = f"{shown} in {archive.name}: {type(error).__name__}: {error}"
        raise BadImage("image_unreadable", detail[:200]) from error
    if len(data) < file.size:
        raise BadImage("image_truncated", f"{archive.name} ends inside {shown}")
    return data


@functools.lru_cache(maxsize=32)
def _index(archive: Path, stamp: tuple[int, int]) -> Mapping[str, ArchiveFile]:
    files = _zip_files(archive) if archive.suffix == ".zip" else _tar_files(archive)
    by_name: dict[str, ArchiveFile] = {}
    for names, file in files:  # in the order of the archive: of two files by a name, the last counts
        by_name |= dict.fromkeys(map(posixpath.normpath, names), file)
    return {name: file for name, file in by_name.items() if not name.startswith(("/", "../"))}


def _zip_files(archive: Path) -> list[tuple[list[str], ArchiveFile]]:
    """Return each file with the names that it may have."""
    with zipfile.ZipFile(archive) as zipped:
        members = [info for info in zipped.infolist() if not info.is_dir()]
    files = []
    for info in members:
        is_marked = bool(info.flag_bits & _UTF8_FLAG)
        names = (
            [info.filename] if is_marked else _spellings(info.filename, info.orig_filename.encode("cp437", "replace"))
        )
        is_encrypted = bool(info.flag_bits & _ENCRYPTED_FLAG)
        place = (info.header_offset, info.compress_size, info.compress_type, info.CRC, is_encrypted)
        files.append((names, ArchiveFile(info.file_size, *place)))
    return files


def _spellings(name: str, raw: bytes) -> list[str]:
    """Return a name as it is, and as other encodings read its bytes."""
    names = [name]
    for encoding in () if name.isascii() else _ENCODINGS:
        with contextlib.suppress(UnicodeError):
            names.append(raw.decode(encoding))
    return names


def _tar_files(archive: Path) -> list[tuple[list[str], ArchiveFile]]:
    """Return each file with the names that it may have."""
    files: list[tuple[list[str], ArchiveFile]] = []
    targets: dict[str, ArchiveFile] = {}
    with tarfile.open(archive, "r:") as tar:
        for info in tar:
            if info.size < 0:  # the next header would be sought before this one, without end
                break
            file = ArchiveFile(info.size, info.offset_data) if info.isreg() else None
            if info.islnk():
                file = targets.get(posixpath.normpath(info.linkname))
            if file is not None:
                targets[posixpath.normpath(info.name)] = file
                files.append((_spellings(info.name, info.name.encode("utf-8", "surrogateescape")), file))
    return files


def _stored(opened: BinaryIO, offset: int, size: int) -> bytes:
    opened.seek(offset)
    return opened.read(size)


def _unpack(opened: BinaryIO, file: ArchiveFile) -> bytes:
    """Unpack a member of a .zip. Raises ValueError, and what its decompressor raises."""
    if file.is_encrypted:
        raise ValueError("it has a password")
    header = _stored(opened, file.offset, _HEADER)
    if len(header) < _HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError("its header is damaged")
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    packed = _stored(opened, file.offset + _HEADER + name + extra, min(file.stored, MAX_IMAGE_BYTES))
    data = _decompress(packed, file)
    if len(packed) == file.stored and (len(data) != file.size or zlib.crc32(data) != file.checksum):
        raise ValueError("its content is not what the archive states: damaged, or of another size")
    return data


def _decompress(packed: bytes, file: ArchiveFile) -> bytes:
    """Return the unpacked bytes, one more than the stated size at most."""
    limit = file.size + 1
    match file.method:
        case zipfile.ZIP_STORED:
            return packed
        case zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)
        case zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(packed, limit)
        case zipfile.ZIP_LZMA:
            return _unlzma(packed, file.size, limit)
    raise ValueError(f"compression method {file.method} is not supported; pack the images anew")


def _unlzma(packed: bytes, size: int, limit: int) -> bytes:
    """Unpack LZMA as .zip has it: two bytes of version, two of a length, five of properties, the data."""
    if len(packed) < 9 or packed[2:4] != b"\x05\x00":
        raise ValueError("its LZMA header is damaged")
    literals, dictionary = packed[4], int.from_bytes(packed[5:9], "little")
    if literals >= 9 * 5 * 5:
        raise ValueError("its LZMA header is damaged")
    one_filter = {
        "id": lzma.FILTER_LZMA1,
        "lc": literals % 9,
        "lp": literals // 9 % 5,
        "pb": literals // 45,
        # No longer than the data: memory for all of it is taken at once.
        "dict_size": max(4096, min(dictionary, size)),
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[one_filter]).decompress(packed[9:], limit)
