"""The crop rule: which pixels of the original image a focus box shows.

Generation, training and evaluation cut by the same rule, which each run and each trained model records. Departure from
the paper, which cuts the box itself: a crop has a minimum side and an aspect limit, so that a thin or tiny box
still shows something.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from visrl_data.core.boxes import Box, Size
from visrl_data.core.errors import VisRLError

_PIXEL_SNAP = 1e-6  # pixels: float noise that must not cost a crop a row


@dataclass(frozen=True, slots=True)
class CropRule:
    """How a focus box becomes a crop. Generation, training and evaluation must use the same one.

    min_side: the crop's smallest side, as a fraction of the image's LONGER side (not a number of pixels,
    so that a picture and its thumbnail are cropped alike). max_aspect: the largest long side / short
    side, in pixels.
    """

    min_side: float = 0.08
    max_aspect: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.min_side <= 1 and 1 <= self.max_aspect < math.inf):
            raise ValueError(f"a crop rule needs 0 <= min_side <= 1 and max_aspect >= 1, got {self}")

    @property
    def name(self) -> str:
        return f"min{self.min_side:g}-aspect{self.max_aspect:g}"

    def as_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)


def crop_pixels(box: Box, size: Size, rule: CropRule) -> tuple[int, int, int, int]:
    """Return the pixels (left, top, right, bottom) of the original image of `size` (width, height) that a box shows.

    The box, rounded outward to whole pixels, is grown around its center to the rule's minimum side and
    aspect, then shifted into the image; a side longer than the image is the image's. Never empty,
    always inside the image, always around the whole box.
    """
    spans = [_pixel_span(*ends, side) for ends, side in zip(((box.x1, box.x2), (box.y1, box.y2)), size, strict=True)]
    least = math.ceil(rule.min_side * max(size) - _PIXEL_SNAP)
    lengths = [max(end - start, min(least, side)) for (start, end), side in zip(spans, size, strict=True)]
    least = math.ceil(max(lengths) / rule.max_aspect - _PIXEL_SNAP)
    grown = []
    for (start, end), length, side in zip(spans, lengths, size, strict=True):
        length = min(max(length, least), side)
        start = min(max(start - (length - (end - start)) // 2, 0), side - length)
        grown.append((start, start + length))
    (left, right), (top, bottom) = grown
    return (left, top, right, bottom)


def cut_stored_crop(image: Image, crop: Sequence[int]) -> Image:
    """Cut a crop that was read from a file: (left, top, right, bottom) in pixels of the original image.

    Raises VisRLError for one that is not inside the image. Pillow would add black pixels for it, without bound.
    """
    lies_inside = len(crop) == 4 and 0 <= crop[0] < crop[2] <= image.width and 0 <= crop[1] < crop[3] <= image.height
    if not lies_inside:
        raise VisRLError(
            f"A pair has the crop {list(crop)[:4]}, which is not inside its image of {image.width}x{image.height} "
            "pixels: its rows are not as visrl made them. Fetch or copy the data again, or ask its owner."
        )
    return image.crop((crop[0], crop[1], crop[2], crop[3]))


def _pixel_span(start: float, end: float, side: int) -> tuple[int, int]:
    first = min(math.floor(start * side + _PIXEL_SNAP), side - 1)
    return first, max(math.ceil(end * side - _PIXEL_SNAP), first + 1)
