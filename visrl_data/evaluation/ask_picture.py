"""Draw the box and the crop of an answer on its picture, and write it where `visrl ask -o` says.

The box is a green frame between two dark ones, so that it is seen on any background; the crop, where the crop rule made
it larger than the box, a thin white one. A written picture says in its EXIF data that visrl made it: only such a
picture is ever replaced.
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from visrl_data.core import files, images
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.records import Question
from visrl_data.evaluation.inference import ModelOutput

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
BOX_COLOR = (53, 208, 107)
CROP_COLOR = (255, 255, 255)
DARK = (0, 0, 0)
_SOFTWARE = 0x0131  # the EXIF tag of what made a picture
_MAKER = "visrl ask"
_QUALITY = 95

Pixels = tuple[int, int, int, int]


def draw_answer(question: Question, output: ModelOutput, with_crop: bool = False) -> Image.Image:
    """Return the original image with the box and the crop drawn. with_crop: the crop, enlarged, to the right of it."""
    image = images.decode(question.image)
    if output.box is None or output.crop is None:
        return image
    crop = image.crop(output.crop)
    width = max(3, round(max(image.size) / 200))
    left, top, right, bottom = (v * side for v, side in zip(output.box.xyxy, (*image.size, *image.size), strict=True))
    box = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    if output.crop != box:
        _draw_frame(image, output.crop, CROP_COLOR, max(1, width // 3))
    _draw_frame(image, box, BOX_COLOR, width)
    return _beside(image, crop) if with_crop else image


def _draw_frame(image: Image.Image, pixels: Pixels, color: tuple[int, int, int], width: int) -> None:
    """Draw a frame around pixels (left, top, right, bottom), inside them only where they touch the image's edge."""
    pen = ImageDraw.Draw(image)
    thin = max(1, width // 2)
    for grown, tint, thick in ((width + 2 * thin, DARK, width + 2 * thin), (width + thin, color, width)):
        left, top, right, bottom = pixels
        last_x, last_y = image.width - 1, image.height - 1
        inset = width + 2 * thin - grown  # so that the middle frame stays between the dark ones at the image's edge
        corners = (max(left - grown, inset), max(top - grown, inset),
                   min(right - 1 + grown, last_x - inset), min(bottom - 1 + grown, last_y - inset))  # fmt: skip
        pen.rectangle(corners, outline=tint, width=thick)


def _beside(image: Image.Image, crop: Image.Image) -> Image.Image:
    """Put the crop, as large as the image allows, to the right of it."""
    gap = max(4, image.width // 50)
    scale = min(image.width / crop.width, image.height / crop.height)
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    sheet = Image.new("RGB", (image.width + gap + size[0], image.height), "white")
    sheet.paste(image, (0, 0))
    sheet.paste(crop.resize(size, Image.Resampling.LANCZOS), (image.width + gap, 0))
    return sheet


def picture_paths(output: Path, names: list[str], models: list[str]) -> list[list[Path]]:
    """Return where the picture of each image and model goes: [image][model].

    One answer goes to the file `output`, unless that is a folder; several go into the folder, named by their images
    (and models). Raises VisRLError when a file that visrl did not write would be replaced.
    """
    several = len(names) * len(models) > 1
    if not several and not output.is_dir():
        paths = [[_checked(output)]]
    else:
        if output.suffix.lower() in FORMATS and not output.is_dir():
            raise UsageError(f"-o {output}: there are several pictures to write. Expected a folder.")
        files.make_folder(output)
        stems = _unlike([Path(name).stem for name in names])
        ends = _unlike([f"-{Path(model).name}" for model in models]) if len(models) > 1 else [""]
        paths = [[_checked(output / f"{stem}{end}.png") for end in ends] for stem in stems]
    return paths


def write_picture(path: Path, image: Image.Image) -> None:
    """Write a picture, in the format of its suffix, atomically. Raises VisRLError where it is too large for it."""
    exif = Image.Exif()
    exif[_SOFTWARE] = _MAKER
    buffer = BytesIO()
    form = FORMATS[path.suffix.lower()]
    try:
        image.save(buffer, form, exif=exif, quality=_QUALITY)
    except (OSError, ValueError) as error:  # JPEG has at most 65,500 pixels a side, WebP 16,383
        raise VisRLError(
            f"-o {path}: {form} can't hold {image.width}x{image.height} pixels ({error}). Expected a name that ends in "
            ".png."
        ) from error
    files.write_bytes(path, buffer.getvalue())


def _checked(path: Path) -> Path:
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"-o {path}: expected a file that ends in {', '.join(FORMATS)}, or a folder.")
    if not path.parent.is_dir():
        raise VisRLError(f"-o {path}: there is no folder {path.parent}. Make it, or choose another --output.")
    if path.is_symlink() or (path.exists() and not _is_ours(path)):
        raise VisRLError(f"-o {path} exists and is not a picture that visrl wrote. Choose another --output.")
    return path


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=images.FORMATS) as picture:
            return picture.getexif().get(_SOFTWARE) == _MAKER
    except Exception:  # whatever it is, it is none of ours
        return False


def _unlike(names: list[str]) -> list[str]:
    """Number names that occur again: a, b, a -> a, b, a-2."""
    unlike: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in unlike:
            number += 1
            candidate = f"{name}-{number}"
        unlike.append(candidate)
    return unlike
