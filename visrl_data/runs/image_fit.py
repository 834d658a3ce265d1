"""Fit the pictures of training rows to programs that show pictures in their own way.

Rows for other trainers (the configs rl1 and rl2, and exports) hold boxes as the actor wrote them. Its picture was
padded to a square, which stock processors do not do: they cut the ends off. Or its boxes are in pixels of the picture
at one size, and the program shows it at another. Then the row holds the picture padded, or at that size, and a box lies
where it did. Everywhere else pictures stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from visrl_data.core.boxes import Size, make_frame, needs_resized_size
from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import ImageSettings, resized_size
from visrl_data.core.images import FORMATS, MAX_IMAGE_PIXELS
from visrl_data.core.text import one_line
from visrl_data.runs.manifest import RunManifest
from visrl_data.runs.stored_images import png

STOCK_MAX_PIXELS = 16384 * 28 * 28  # of Qwen2-VL's and Qwen2.5-VL's processors, and of programs that load them
_PADDING = (122, 116, 104)  # CLIP's mean color, with which LLaVA-1.5 was trained
_PROBE = (1 << 20, 1 << 20)

Program = Callable[[Size, ImageSettings], Size]
"""The size at which a program shows a picture of this size to a model whose actor was shown it by these settings."""


@dataclass(frozen=True, slots=True)
class ImageFit:
    """box_space: of the rows. pad_square: pad all pictures. settings: how the actor was shown them, if on record.

    programs: a picture stays as it is where each of them shows it as the actor was shown it.
    """

    box_space: str
    pad_square: bool
    settings: ImageSettings | None
    programs: tuple[Program, ...]

    def whole(self, data: bytes, row: Mapping[str, Any]) -> bytes:
        """Return the picture of a row of PREFERENCES, encoded."""
        if self.pad_square:
            return pad_to_square(data)
        if not needs_resized_size(self.box_space):
            return data
        shown = shown_size(row)
        if self._is_shown_at(_size(data), shown):
            return data
        return _encode(_open(data).resize(shown, Image.Resampling.BICUBIC), data)

    def _is_shown_at(self, size: Size, shown: Size) -> bool:
        settings = self.settings
        if settings is None or settings["resize"] != "resized":
            return False
        return all(program(size, settings) == shown for program in self.programs)

    def crop(self, data: bytes) -> bytes:
        """Return a crop, encoded."""
        return pad_to_square(data) if self.pad_square else data


def image_fit(run: RunManifest, pad_square: bool | None, *programs: Program) -> ImageFit:
    """Return the fit for rows of this run. pad_square: None pads where the actor was shown padded squares."""
    identity = run["run"]
    pad = needs_padding(run) if pad_square is None else pad_square
    return ImageFit(identity["box_space"], pad, identity.get("image_settings"), programs)


def needs_padding(run: RunManifest) -> bool:
    """Return whether stock processors show less of a picture than the actor was shown: LLaVA-1.5's cut its ends off."""
    settings = run["run"].get("image_settings")
    is_padded = settings["resize"] == "padded" if settings else run["run"].get("zero_shot") == "LLaVA-1.5"
    return is_padded or run["run"]["box_space"] == "unit_padded_square"


def stock_size(size: Size, settings: ImageSettings) -> Size:
    """Return the size at which a stock processor of Qwen's families shows a picture, whatever bound the actor had."""
    bounds = settings["bounds"]
    return resized_size(size, bounds | {"max_pixels": max(bounds["max_pixels"], STOCK_MAX_PIXELS)})


def image_bounds(settings: ImageSettings | None) -> tuple[int, int]:
    """Return (min, max) of a picture's pixels: those of Qwen's processors; for others, what changes no picture."""
    bounds = settings["bounds"] if settings else {}
    return bounds.get("min_pixels", 1), bounds.get("max_pixels", STOCK_MAX_PIXELS)


def swift_environment(settings: ImageSettings | None) -> list[str]:
    """Return what ms-swift reads from the environment: the bounds of Qwen's families."""
    if settings is None or "max_pixels" not in settings["bounds"]:
        return []
    least, most = image_bounds(settings)
    return [f"MAX_PIXELS={most}", f"MIN_PIXELS={least}"]


def shown_size(row: Mapping[str, Any]) -> Size:
    """Return the (width, height) at which the actor was shown the picture of a row whose boxes are in its pixels.

    The row holds the box in those pixels, as text, and in fractions: their quotient is the size. Raises VisRLError for
    a row of a stranger's set that says something else.
    """
    cells, _ = make_frame(row["box_space"], _PROBE, _PROBE).parse(row["win_box_text"])
    right, bottom = row["win_box"][2:]
    size = (round(cells[2] / right), round(cells[3] / bottom)) if cells and right > 0 and bottom > 0 else (0, 0)
    if not 0 < size[0] * size[1] <= MAX_IMAGE_PIXELS:
        raise VisRLError(
            f"A pair's win box is {one_line(row['win_box_text'], 100)} and {row['win_box']}, which no picture has: its "
            "rows are not as visrl made them. Fetch or copy the data again, or ask its owner."
        )
    return size


def pad_to_square(data: bytes) -> bytes:
    """Pad an encoded picture, centered, to a square of its longer side, as LLaVA-1.5's processor does."""
    picture = _open(data)
    side = max(picture.size)
    if picture.size == (side, side):
        return data
    square = Image.new("RGB", (side, side), _PADDING)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return _encode(square, data)


def _open(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data), formats=FORMATS).convert("RGB")


def _size(data: bytes) -> Size:
    with Image.open(BytesIO(data), formats=FORMATS) as picture:
        return picture.size


def _encode(picture: Image.Image, like: bytes) -> bytes:
    """Encode as JPEG what was a JPEG, which a PNG would make several times as large, and all else as PNG."""
    if not like.startswith(b"\xff\xd8"):
        return png(picture)
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
