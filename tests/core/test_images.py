"""Decoding: every picture upright and RGB with the right colours, or a BadImage with the right reason."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from visrl_data.core.images import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    BadImage,
    decode,
    read_under_root,
    sha256,
    upright_size,
)

RED, GREY = (220, 20, 30), (200, 200, 200)
SIZE = (64, 40)
MARK = (40, 8, 60, 24)  # pixels of the upright picture
UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture() -> Image.Image:
    """Grey, 64x40, with a red rectangle at MARK: no symmetry, so every wrong turn shows."""
    image = Image.new("RGB", SIZE, GREY)
    ImageDraw.Draw(image).rectangle((MARK[0], MARK[1], MARK[2] - 1, MARK[3] - 1), fill=RED)
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 64, 3), dtype=np.uint8))


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, **options)
    return caught.value.reason


def turned(orientation: int, kind: str) -> bytes:
    """The picture as a camera that was held otherwise stores it."""
    image = picture()
    raw = image.transpose(UNTURN[orientation]) if orientation in UNTURN else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return encode(raw, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_end_upright(orientation: int, kind: str) -> None:
    image = decode(turned(orientation, kind))
    assert (image.mode, image.size) == ("RGB", SIZE)
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(picture()))
    assert difference.max() <= (40 if kind == "JPEG" else 0)
    assert difference.mean() < 1.5
    # nothing is left by which a later library would turn it again, or that would enter a saved crop
    assert not image.info and not image.getexif()


@pytest.mark.parametrize("orientation", range(10))
def test_the_size_that_the_header_gives_is_that_of_the_upright_image(orientation: int) -> None:
    """Files state orientations that there are not, 0 or 9."""
    data = turned(orientation, "JPEG")
    assert upright_size(data) == decode(data).size


def test_orientation_in_xmp_counts_as_datasets_reads_it() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(picture().transpose(Image.Transpose.ROTATE_90), "JPEG", xmp=xmp)
    assert decode(data).size == SIZE


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0"])
def test_broken_exif_is_no_exif(block: bytes) -> None:
    assert decode(encode(picture(), "JPEG", exif=block)).size == SIZE


def test_modes_become_the_right_rgb() -> None:
    want = np.asarray(picture())
    assert np.array_equal(decode(encode(picture(), "PNG")), want)
    assert np.array_equal(decode(encode(picture(), "BMP")), want)
    assert np.array_equal(decode(encode(picture().quantize(4), "GIF")), want)
    cmyk = np.asarray(decode(encode(picture().convert("CMYK"), "JPEG", quality=95, subsampling=0))).astype(int)
    assert np.abs(cmyk - want).max() <= 40 and np.abs(cmyk - want).mean() < 1.5
    grey = np.asarray(decode(encode(picture().convert("L"), "PNG")))
    assert np.array_equal(grey, np.asarray(picture().convert("L").convert("RGB")))
    bits = np.asarray(decode(encode(picture().convert("1", dither=Image.Dither.NONE), "PNG")))
    assert set(bits.reshape(-1)) == {0, 255}


def test_transparency_is_laid_over_white() -> None:
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, 10, 40))
    alpha.paste(128, (10, 0, 20, 40))
    rgba = picture()
    rgba.putalpha(alpha)
    for data in (encode(rgba, "PNG"), encode(rgba, "WEBP", lossless=True), encode(rgba, "TIFF")):
        image = decode(data)
        assert image.getpixel((5, 5)) == (255, 255, 255)
        assert image.getpixel((15, 5)) == pytest.approx((227, 227, 227), abs=1)
        assert image.getpixel((50, 16)) == RED
    grey = Image.merge("LA", (Image.new("L", SIZE, 0), alpha))
    assert decode(encode(grey, "PNG")).getpixel((5, 5)) == (255, 255, 255)
    assert decode(encode(grey, "PNG")).getpixel((40, 5)) == (0, 0, 0)


def test_palette_with_transparency() -> None:
    image = picture().quantize(2)
    red = image.getpixel((50, 16))
    for transparency in (red, bytes(0 if index == red else 255 for index in range(2))):
        decoded = decode(encode(image, "PNG", transparency=transparency))
        assert decoded.getpixel((50, 16)) == (255, 255, 255)
        assert decoded.getpixel((0, 0)) == GREY
    keyed = decode(encode(picture(), "PNG", transparency=RED))  # one colour of an RGB file
    assert keyed.getpixel((50, 16)) == (255, 255, 255) and keyed.getpixel((0, 0)) == GREY


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.tile(np.array([0, 128, 257, 30000, 65535], dtype=np.uint16), (8, 8))[:, :40]
    for data in (encode(Image.fromarray(values), "PNG"), encode(Image.fromarray(values), "TIFF")):
        assert list(np.asarray(decode(data))[0, :5, 0]) == [0, 0, 1, 117, 255]  # value / 257, to the nearest
    keyed = _png(40, 8, 16, 0, values.astype(">u2").tobytes(), extra=[(b"tRNS", struct.pack(">H", 30000))])
    assert list(np.asarray(decode(keyed))[0, :5, 0]) == [0, 0, 1, 255, 255]


def test_32_bit_grey_has_no_known_range() -> None:
    assert reason(encode(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF")) == "image_unreadable"
    assert reason(encode(Image.fromarray(np.ones((16, 16), np.int32)), "TIFF")) == "image_unreadable"


def test_16_bit_colour_keeps_its_high_byte() -> None:
    pixel = struct.pack(">HHH", 0, 0x80FF, 0xFFFF)
    assert decode(_png(8, 8, 16, 2, pixel * 64)).getpixel((3, 3)) == (0, 128, 255)


def test_cmyk_and_lab_of_a_tiff() -> None:
    cmyk = np.asarray(decode(encode(picture().convert("CMYK"), "TIFF"))).astype(int)
    assert np.abs(cmyk - np.asarray(picture())).max() <= 2
    lab = decode(encode(Image.new("LAB", SIZE, (136, 208, 195)), "TIFF"))  # L 53, a 80, b 67: red
    assert lab.mode == "RGB" and lab.getpixel((3, 3)) == pytest.approx((255, 0, 0), abs=15)


def test_animated_palette_with_transparency_shows_its_first_frame() -> None:
    frame = picture().quantize(4)
    red = frame.getpixel((50, 16))
    others = [Image.new("P", SIZE, red)] * 2
    image = decode(encode(frame, "GIF", save_all=True, append_images=others, transparency=red, disposal=2))
    assert image.size == SIZE and image.getpixel((50, 16)) == (255, 255, 255) and image.getpixel((0, 0)) == GREY


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several(kind: str) -> None:
    others = [Image.new("RGB", SIZE, "blue"), Image.new("RGB", SIZE, "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encode(picture(), kind, save_all=True, append_images=others, **options))
    assert image.getpixel((50, 16)) == RED and image.getpixel((0, 0)) == GREY


def test_colour_profile_does_not_reach_what_is_saved_from_it() -> None:
    image = decode(encode(picture(), "PNG", icc_profile=b"x" * 300))
    assert b"iCCP" not in encode(image.crop((0, 0, 9, 9)), "PNG")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_no_truncated_file_passes_for_another_picture(
    kind: str, options: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    data = encode(noise(), kind, **options)
    whole = decode(data).tobytes()
    seen = set()
    for length in [*range(1, 60), *range(60, len(data), 97), *range(len(data) - 20, len(data))]:
        try:
            assert decode(data[:length]).tobytes() == whole  # only a trailer is missing
        except BadImage as error:
            seen.add(error.reason)
    assert seen <= {"image_truncated", "image_unreadable"}
    if "compression" not in options:  # libtiff does not tell a short file from a damaged one
        assert reason(data[: len(data) // 2]) == "image_truncated"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_raise_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = encode(noise(), kind)
        for _ in range(100):
            broken = bytearray(data)
            for at in rng.integers(0, min(len(data), 200), 4):
                broken[at] = rng.integers(0, 256)
            try:
                assert decode(bytes(broken)).mode == "RGB"
            except BadImage as error:
                assert error.reason.startswith("image_")


def _png(
    width: int, height: int, depth: int, colour: int, raw: bytes, extra: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG with any header; raw: its 8 rows of samples, or nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + raw[i : i + len(raw) // 8] for i in range(0, len(raw), max(1, len(raw) // 8)))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(*item) for item in [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_declared_size_is_checked_before_decoding(size: tuple[int, int]) -> None:
    assert reason(_png(*size, 8, 2, b"")) == "image_too_large"


def test_a_bomb_in_the_text_of_a_file() -> None:
    bomb = b"note\0\0" + zlib.compress(bytes(80 * 2**20), 9)
    assert reason(_png(8, 8, 8, 2, b"", extra=[(b"zTXt", bomb)])) == "image_unreadable"


def test_pillow_warning_as_an_error_is_a_drop_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(_png(10_000, 10_000, 8, 2, b"")) == "image_too_large"


def test_pixel_limit_is_inclusive() -> None:
    data = encode(picture(), "PNG")
    assert decode(data, max_image_pixels=64 * 40).size == SIZE
    assert reason(data, max_image_pixels=64 * 40 - 1) == "image_too_large"
    assert MAX_IMAGE_PIXELS < 178_956_970  # beyond it Pillow refuses by itself


def test_other_reasons() -> None:
    assert reason(b"") == "image_missing"
    assert reason(b"hello") == "image_unreadable"
    assert reason(encode(Image.new("RGB", (7, 300)), "PNG")) == "image_too_small"
    assert decode(encode(Image.new("RGB", (8, 8)), "PNG")).size == (8, 8)
    for kind in ("PPM", "ICO", "TGA", "EPS"):  # readable by Pillow, but not on the list
        assert reason(encode(picture(), kind)) == "image_unreadable"


def test_bad_image_says_reason_and_detail() -> None:
    assert str(BadImage("image_missing", "no bytes")) == "image_missing: no bytes"
    assert str(BadImage("image_missing")) == "image_missing"


def test_sha256() -> None:
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "sub" / "a.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "b.png").write_bytes(b"a folder whose name begins alike")
    return tmp_path / "root"


def path_reason(root: Path, path: str) -> str:
    with pytest.raises(BadImage) as caught:
        read_under_root(root, path)
    return caught.value.reason


def test_paths_inside_the_root(root: Path) -> None:
    (root / "link.png").symlink_to("sub/a.png")
    for path in ("sub/a.png", "sub/../sub/a.png", "./sub//a.png", str(root / "sub" / "a.png"), "link.png"):
        assert read_under_root(root, path) == b"inside"
    (root.parent / "alias").symlink_to(root)
    assert read_under_root(root.parent / "alias", str(root / "sub" / "a.png")) == b"inside"


def test_no_path_leads_out_of_the_root(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "up").symlink_to(root.parent)
    for path in ("../secret.png", "sub/../../secret.png", str(root.parent / "secret.png"), "link.png", "up/secret.png"):
        assert path_reason(root, path) == "image_outside_root"
    assert path_reason(root, "../root2/b.png") == "image_outside_root"
    assert path_reason(root, "../not-there.png") == "image_outside_root"  # what is outside stays unknown


def test_paths_that_are_no_files(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")  # must not be waited for
    for path in ("", "  ", "none.png", "sub", "loop", "pipe", "a\0b", "x" * 5000, "\ud800.png", "https://x.org/a.png"):
        assert path_reason(root, path) == "image_missing", path
    assert path_reason(root / "not-there", "a.png") == "image_missing"


def test_huge_files_are_not_read(root: Path) -> None:
    with open(root / "huge.png", "wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)  # sparse
    assert path_reason(root, "huge.png") == "image_too_large"


def test_file_without_permission(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # chmod would not stop a test that runs as root
    assert path_reason(root, "sub/a.png") == "image_unreadable"
