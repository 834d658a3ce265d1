"""Archives: what their headers state is not believed, and a few bytes never become gigabytes."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import pytest

from tests.helpers.archives import tar_of, zip_of
from visrl_data.core.errors import VisRLError
from visrl_data.core.images import MAX_IMAGE_BYTES, BadImage
from visrl_data.sources import archives
from visrl_data.sources.image_roots import Root, open_root

MIB = 2**20
PACKED = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def reason(root: Root, path: str) -> str:
    with pytest.raises(BadImage) as caught:
        root.read(path)
    return caught.value.reason


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("hard.jpg")
    hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/passwd"
    root = open_root(tar_of(tmp_path / "a.tar", link, hard, ("a.jpg", b"a")))
    assert reason(root, "link.jpg") == reason(root, "hard.jpg") == "image_missing"
    assert root.read("a.jpg") == b"a"


def test_members_that_are_too_large_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = zip_of(tmp_path / "a.zip", ("a.jpg", b"x" * 1000), ("b.jpg", b"y" * 10), method=zipfile.ZIP_STORED)
    data = bytearray(stored.read_bytes())
    data[data.index(b"xxx") + 5] = 0
    stored.write_bytes(data)
    assert reason(open_root(stored), "a.jpg") == "image_unreadable", "its checksum does not fit"
    bomb = zip_of(tmp_path / "bomb.zip", ("a.jpg", bytes(2000)))
    whole = tar_of(tmp_path / "a.tar", ("a.jpg", b"x" * 2000))
    for file in (bomb, whole):
        monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 1999)
        assert reason(open_root(file), "a.jpg") == "image_too_large"
        monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", MAX_IMAGE_BYTES)
    root = open_root(whole)
    stamp = whole.stat()
    whole.write_bytes(whole.read_bytes()[:600] + bytes(100))
    with pytest.raises((BadImage, VisRLError)):
        root.read("a.jpg")
    assert whole.stat().st_size < stamp.st_size


def with_stated_size(file: Path, size: int) -> Path:
    """State another unpacked size in both headers of the only member."""
    data = bytearray(file.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[22:26] = data[central + 24 : central + 28] = size.to_bytes(4, "little")
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("method", PACKED)
def test_a_member_whose_size_lies_is_not_unpacked(tmp_path: Path, method: int) -> None:
    bomb = with_stated_size(zip_of(tmp_path / "a.zip", ("a.jpg", bytes(64 * MIB)), method=method), 1000)
    root = open_root(bomb)
    tracemalloc.start()
    assert reason(root, "a.jpg") == "image_unreadable"
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, *PACKED])
def test_each_method_of_a_zip_is_read_and_checked(tmp_path: Path, method: int) -> None:
    content = bytes(range(256)) * 40
    file = zip_of(tmp_path / "a.zip", ("a.jpg", content), method=method)
    root = open_root(file)
    assert root.read("a.jpg") == content
    data = bytearray(file.read_bytes())
    start = data.index(b"a.jpg") + 5
    data[start + 40] ^= 0xFF
    file.write_bytes(data)
    assert reason(root, "a.jpg") == "image_unreadable"


def test_an_lzma_dictionary_is_no_larger_than_the_file(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", ("a.jpg", b"x" * 5000), method=zipfile.ZIP_LZMA)
    data = bytearray(file.read_bytes())
    start = data.index(b"a.jpg") + 5
    data[start + 5 : start + 9] = (0xFFFFFFFF).to_bytes(4, "little")
    file.write_bytes(data)
    assert open_root(file).read("a.jpg") == b"x" * 5000
    data[start + 4] = 255
    file.write_bytes(data)
    assert reason(open_root(file), "a.jpg") == "image_unreadable"


def test_a_member_with_a_password_is_a_drop(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", ("a.jpg", b"a"), method=zipfile.ZIP_STORED)
    data = bytearray(file.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(data)
    assert reason(open_root(file), "a.jpg") == "image_unreadable"


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a header of a .tar whose size is these bytes."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108] = b"0000644\0"
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 10 + b"\xfe\x00"])
def test_a_tar_member_of_a_negative_size_ends_the_index(tmp_path: Path, size: bytes) -> None:
    good = io.BytesIO()
    with tarfile.open(fileobj=good, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"a"))
    (tmp_path / "a.tar").write_bytes(good.getvalue()[:1024] + header("b.jpg", size) + bytes(4096))
    root = open_root(tmp_path / "a.tar")
    assert root.read("a.jpg") == b"a" and reason(root, "b.jpg") == "image_missing"


@pytest.mark.parametrize("text", [b"20 size=-99\n", b"12 size=-99\n", b"20 size=99999999999999999999\n", b"9 size=x\n"])
def test_a_bad_size_in_an_extended_header_is_no_way_in(tmp_path: Path, text: bytes) -> None:
    extended = header("x", b"%011o\0" % len(text), b"x") + text.ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(
        extended + header("a.jpg", b"00000000001\0") + b"a".ljust(512, b"\0") + bytes(1024)
    )
    try:  # some versions of tarfile refuse it, others read on
        assert open_root(tmp_path / "a.tar").read("a.jpg") in (b"a", b"")
    except VisRLError as error:
        assert "cannot be read as an archive" in str(error) or "holds no file" in str(error)


def test_a_hard_link_in_a_tar_is_its_target(tmp_path: Path) -> None:
    link = tarfile.TarInfo("b/link.jpg")
    link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"a"))
        tar.addfile(link)
    assert open_root(tmp_path / "a.tar").read("b/link.jpg") == b"a"


@pytest.mark.parametrize(
    ("name", "encoding"), [("图片/一.jpg", "gbk"), ("Bücher.jpg", "utf-8"), ("写真.jpg", "shift_jis")]
)
def test_names_in_a_zip_that_are_not_marked_as_utf_8(tmp_path: Path, name: str, encoding: str) -> None:
    file = zip_of(tmp_path / "a.zip", ("n" * len(name.encode(encoding)), b"a"), method=zipfile.ZIP_STORED)
    file.write_bytes(file.read_bytes().replace(b"n" * len(name.encode(encoding)), name.encode(encoding)))
    assert open_root(file).read(name) == b"a"
    assert unicodedata.is_normalized("NFC", name)
