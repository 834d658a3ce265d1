"""Record how a model is shown a picture, and compare two such records.

A box in pixels is a box of the picture as the processor resized it, and a box of the padded square means nothing to a
model that is shown the center alone. So the settings that decide it are recorded with each run, each published set and
each model folder, as box space and crop rule are; generation, training, evaluation and merging read them back.
engines/image_processing.py reads them off a processor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator
from typing_extensions import TypedDict

from visrl_data.core.boxes import Size, lattice_of
from visrl_data.core.conditions import differences, flatten
from visrl_data.core.errors import VisRLError


def _check_bounds(bounds: dict[str, Any]) -> dict[str, Any]:
    """Refuse bounds of pixels that are no numbers: sizes are computed with them."""
    for name in ("min_pixels", "max_pixels", "multiple_of"):
        if name in bounds and not (isinstance(bounds[name], int) and bounds[name] > 0):
            raise ValueError(f"{name} is {bounds[name]!r}, expected a number above 0")
    return bounds


Bounds = Annotated[dict[str, Any], AfterValidator(_check_bounds)]


class ImageSettings(TypedDict):
    """How pictures are shown.

    family: of the model (families.py). resize: resized (to a size of its own), squashed (to one size), padded (to a
    square), tiled, or unknown. center_crop: whether the ends are cut off. bounds: what decides the size, by the names
    of the image processor, but for Qwen's, which are min_pixels and max_pixels. max_pixels: --max-pixels, if given.
    """

    family: str
    resize: str
    center_crop: bool
    bounds: Bounds
    max_pixels: int | None


# What a box depends on, by the lattice of its space; the boxes of other spaces mean the same however large, squashed or
# tiled the picture is shown.
_DECISIVE = {"pixels": ("resize", "center_crop", "bounds"), "padded": ("resize", "center_crop")}


def describe_images(settings: ImageSettings) -> str:
    """Return how pictures are shown, in words: "resized, min_pixels 3136, max_pixels 802816, multiple_of 28"."""
    words = [settings["resize"], *(["without their ends (center crop)"] if settings["center_crop"] else [])]
    bounds = flatten({name: value for name, value in settings["bounds"].items() if value is not True})
    return ", ".join([*words, *(f"{name} {value}" for name, value in bounds.items())])


def resized_size(size: Size, bounds: Mapping[str, Any]) -> Size:
    """Return the (width, height) to which Qwen's processors resize a picture, by bounds that they have on record.

    Both sides become multiples; a picture above max_pixels is rounded down to them, one below min_pixels up.
    """
    step, (width, height) = bounds["multiple_of"], size
    sides = [max(step, round(side / step) * step) for side in size]
    if sides[0] * sides[1] > bounds["max_pixels"]:
        scale = math.sqrt(width * height / bounds["max_pixels"])
        sides = [max(step, math.floor(side / scale / step) * step) for side in size]
    elif sides[0] * sides[1] < bounds["min_pixels"]:
        scale = math.sqrt(bounds["min_pixels"] / (width * height))
        sides = [math.ceil(side * scale / step) * step for side in size]
    return sides[0], sides[1]


def image_differences(old: ImageSettings, new: ImageSettings) -> dict[str, str]:
    """Return "old -> new" for each setting that differs, but for the family and the option: the sizes tell."""
    return differences(old, new, ("family", "max_pixels"))


def check_images(subject: str, old: ImageSettings, new: ImageSettings, box_space: str, advice: str) -> str | None:
    """Return a line that says what differs; None when nothing does.

    subject: what was shown pictures as `old`. box_space: "" where no box depends on it. Raises VisRLError, with the
    advice, where boxes of this space would lie elsewhere.
    """
    changes = image_differences(old, new)
    if not changes:
        return None
    shown = ", ".join(f"{name} {change}" for name, change in changes.items())
    decisive = _DECISIVE.get(lattice_of(box_space), ())
    if any(name.partition(".")[0] in decisive for name in changes):
        raise VisRLError(
            f"{subject} was shown pictures differently: {shown}. Boxes in {box_space} would lie elsewhere. {advice}"
        )
    same = f" Boxes in {box_space} mean the same either way." if box_space else ""
    return f"{subject} was shown pictures differently: {shown}.{same}"
