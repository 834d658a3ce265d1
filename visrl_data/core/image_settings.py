"""Record how a model is shown a picture, and compare two such records.

A box in pixels is a box of the picture as the processor resized it, and a box of the padded square means nothing to a
model that is shown the center alone. So the settings that decide it are recorded with each run, each published set and
each model folder, as box space and crop rule are; generation, training, evaluation and merging read them back.
engines/image_processing.py reads them off a processor.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from visrl_data.core.boxes import lattice_of
from visrl_data.core.conditions import differences, flatten
from visrl_data.core.errors import VisRLError


class ImageSettings(TypedDict):
    """How pictures are shown.

    family: of the model (families.py). resize: resized (to a size of its own), squashed (to one size), padded (to a
    square), tiled, or unknown. center_crop: whether the ends are cut off. bounds: what decides the size, by the names
    of the image processor, but for Qwen's, which are min_pixels and max_pixels. max_pixels: --max-pixels, if given.
    """

    family: str
    resize: str
    center_crop: bool
    bounds: dict[str, Any]
    max_pixels: int | None


# What a box depends on, by the lattice of its space; the boxes of other spaces mean the same however large, squashed or
# tiled the picture is shown.
_DECISIVE = {"pixels": ("resize", "center_crop", "bounds"), "padded": ("resize", "center_crop")}


def describe_images(settings: ImageSettings) -> str:
    """Return how pictures are shown, in words: "resized, min_pixels 3136, max_pixels 802816, multiple_of 28"."""
    words = [settings["resize"], *(["without their ends (center crop)"] if settings["center_crop"] else [])]
    bounds = flatten({name: value for name, value in settings["bounds"].items() if value is not True})
    return ", ".join([*words, *(f"{name} {value}" for name, value in bounds.items())])


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
