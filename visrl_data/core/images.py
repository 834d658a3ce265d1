"""Encoded images -> THE ORIGINAL IMAGE, or a reason why not.

First step of every source, and again wherever a stored image is opened. The original image is the first
frame of the file, turned upright as its EXIF orientation says, in 8-bit RGB. Every width, height and box in
the project refers to it. Turning it happens here and nowhere else: the result carries no metadata that
could make a later library turn it a second time.

How other modes become RGB: transparency is laid over white; 16-bit gray is scaled (0..65535 -> 0..255, not
clipped); CMYK and palettes are converted by Pillow; color profiles are ignored, as the image processors
of models ignore them.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_IMAGE_PIXELS = 80_000_000  # width * height; 240 MB as RGB. Pillow itself refuses above 179 million.
MAX_IMAGE_BYTES = 256 * 2**20
MIN_IMAGE_SIDE = 8  # pixels: less than one patch of any vision tower

_ORIENTATION = 0x0112
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # a file may state any other number, which turns nothing


class BadImage(Exception):
    """An image that cannot be used. `reason` is the reason of the Drop, `detail` says more.

    Reasons: image_missing (no bytes, no such file), image_outside_root, image_too_large (declared pixels, or
    bytes of the file), image_too_small, image_truncated (the data ends too early), image_unreadable (not
    one of FORMATS, damaged, or of a mode without one right conversion to RGB), and of URLs image_url_refused
    and image_fetch_failed (sources/urls.py).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def decode(data: bytes, max_image_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decode the original image: upright, RGB, in memory, without metadata.

    max_image_pixels bounds width * height as the file declares them; it is checked before any pixel is
    decoded. Raises BadImage. A broken EXIF block counts as none.
    """
    if not data:
        raise BadImage("image_missing", "no bytes")
    picture = _open(data)
    with picture:
        _check_size(picture.size, max_image_pixels)
        try:
            picture.load()
            rgb = _to_rgb(picture)
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # decoders raise nearly every type on damaged bytes
            raise _damaged(data, error) from error
        turn = _TURN.get(exif_orientation(picture))
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info = {}
    return upright


def upright_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the original image, upright; only the header is read. Raises BadImage."""
    picture = _open(data)
    width, height = picture.size
    return (height, width) if exif_orientation(picture) in _ON_ITS_SIDE else (width, height)


def sha256(data: bytes) -> str:
    """Return the hex digest of an image's encoded bytes: its name in the `images` table."""
    return hashlib.sha256(data).hexdigest()


def read_under_root(root: Path, relative_path: str) -> bytes:
    """Read the bytes of an image file inside `root`, whatever the path says.

    An absolute path is allowed when it lies in the root. Links and `..` are resolved before the check; in a snapshot
    of the Hub's cache, links may lead to its blobs.
    Raises BadImage: image_outside_root, image_missing, image_too_large, image_unreadable (no permission).
    """
    if not relative_path.strip():
        raise BadImage("image_missing", "the path is empty")
    try:
        base = Path(root).resolve()
        path = (base / relative_path).resolve()
        if not is_inside(path, base):
            raise BadImage("image_outside_root", f"{relative_path[:200]!r} leads out of the images' folder")
        if not path.is_file():
            raise BadImage("image_missing", f"no file {relative_path[:200]!r}")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise BadImage("image_too_large", f"{path.stat().st_size} bytes; at most {MAX_IMAGE_BYTES}")
        return path.read_bytes()
    except PermissionError as error:
        raise BadImage("image_unreadable", f"no permission to read {relative_path[:200]!r}") from error
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links, a NUL in the path
        raise BadImage("image_missing", f"{relative_path[:200]!r} is no usable path: {type(error).__name__}") from error


def is_inside(path: Path, root: Path) -> bool:
    """Return whether a resolved path lies in a folder, or among the blobs of the Hub cache that the folder is part of.

    A cached repository is `snapshots/COMMIT/`, full of links into `blobs/` beside it.
    """
    base = root.resolve()
    snapshot = next((folder for folder in (base, *base.parents) if folder.parent.name == "snapshots"), None)
    blobs = None if snapshot is None else snapshot.parent.parent / "blobs"
    return path.is_relative_to(base) or (blobs is not None and path.parent == blobs)


def _open(data: bytes) -> Image.Image:
    """Open the picture and read its header. Raises BadImage."""
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("image_too_large", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(data, error) from error


def _check_size(size: tuple[int, int], max_image_pixels: int) -> None:
    width, height = size
    if width * height > max_image_pixels:
        raise BadImage("image_too_large", f"{width}x{height} pixels; at most {max_image_pixels} in all")
    if min(size) < MIN_IMAGE_SIDE:
        raise BadImage("image_too_small", f"{width}x{height} pixels; each side needs at least {MIN_IMAGE_SIDE}")


def _damaged(data: bytes, error: Exception) -> BadImage:
    riff_ends = len(data) < 12 or len(data) < int.from_bytes(data[4:8], "little") + 8
    cut_webp = data[:4] == b"RIFF" and riff_ends
    if cut_webp or isinstance(error, EOFError) or "truncated" in str(error).lower():
        return BadImage("image_truncated", "the data ends before the picture does")
    if isinstance(error, UnidentifiedImageError):
        return BadImage("image_unreadable", f"not one of {', '.join(FORMATS)}")
    return BadImage("image_unreadable", f"{type(error).__name__}: {error}"[:200])


def exif_orientation(picture: Image.Image) -> int:
    """Read the EXIF (or XMP) orientation, 1 to 8 in a sound file, as Pillow and `datasets` read it; 1 without one."""
    try:
        turn: int = picture.getexif().get(_ORIENTATION, 1)
        return turn
    except Exception:  # a broken EXIF block raises nearly every type, and says nothing about the pixels
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a loaded picture to a new RGB image, not yet turned."""
    if picture.mode.startswith("I;16"):
        return _from_16_bit(picture)
    if picture.mode in ("I", "F"):
        raise BadImage("image_unreadable", f"mode {picture.mode}: 32-bit gray without a known range")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.uint32)
    gray = ((values + 128) // 257).astype(np.uint8)  # nearest of value / 257
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")
