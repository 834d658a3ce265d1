"""What a processor makes of a picture: the whole of it, how large, for how many tokens; and what bounds that.

Used by loading.py when a processor is made ready, by the engine for the box spaces in pixels, and by
`visrl doctor`. families.py says which lever a family has; what a picture becomes is read off what the processor
really makes of it.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from PIL.Image import Image

from visrl_data.engines.refusals import PROCESSOR_ERRORS, raise_refusals
from visrl_data.models.families import Family

logger = logging.getLogger(__name__)


def show_whole(processor: Any, family: Family) -> None:
    """A centre crop hides the ends of a picture, where a box may lie: show the whole picture instead.

    Padded to a square for a family that was trained so; else squashed to the size of the crop.
    """
    images = processor.image_processor
    if not getattr(images, "do_center_crop", False):
        return
    size = {"height": images.crop_size["height"], "width": images.crop_size["width"]}
    if family.resize_mode == "padded":
        from transformers import LlavaImageProcessorPil

        kept = ("image_mean", "image_std", "resample", "rescale_factor")
        settings = {name: getattr(images, name) for name in kept}
        processor.image_processor = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size=size, **settings)
        return
    images.do_center_crop = False
    images.size = size


def limit_pixels(processor: Any, family: Family, max_pixels: int, model: str) -> None:
    """Make the processor show at most so many pixels of a picture, by the family's lever.

    Tiles are whole: one tile is the least. What is smaller already stays as it is. Where there is no lever the
    user is told.
    """
    images = processor.image_processor
    lever = family.resolution_control or ("pixels" if _resizes_freely(images) else "")
    if lever == "pixels":
        # Qwen's size is in pixels, though its names say edges; older releases keep the number twice.
        least = min(images.size["shortest_edge"], max_pixels)
        images.size = {"shortest_edge": least, "longest_edge": max_pixels}
        if getattr(images, "max_pixels", None) is not None:
            images.max_pixels, images.min_pixels = max_pixels, least
    elif lever == "edge":
        tile = images.max_image_size["longest_edge"]
        longest = max(1, math.isqrt(max_pixels) // tile) * tile
        images.size = {"longest_edge": min(longest, images.size["longest_edge"])}
    elif lever == "pinpoints":
        images.image_grid_pinpoints = _pinpoints_within(images.image_grid_pinpoints, max_pixels)
    elif lever == "patches":
        tile = images.size["height"] * images.size["width"]
        images.max_patches = max(1, min(images.max_patches, max_pixels // tile))
        images.min_patches = min(images.min_patches, images.max_patches)
    elif lever == "slices":
        images.max_slice_nums = max(1, min(images.max_slice_nums, max_pixels // images.scale_resolution**2))
    else:
        logger.warning("%s sees pictures of a fixed size: --max-pixels changes nothing.", model)


def _resizes_freely(images: Any) -> bool:
    """Whether an image processor of no known family bounds pictures as Qwen's does."""
    names = getattr(images, "model_input_names", ())
    return "image_grid_thw" in names and images.size["shortest_edge"] is not None


def _pinpoints_within(pinpoints: list[list[int]], max_pixels: int) -> list[list[int]]:
    """The grids (height, width) of at most so many pixels; where none is so small, those of the fewest."""
    fewest = min(height * width for height, width in pinpoints)
    return [[height, width] for height, width in pinpoints if height * width <= max(max_pixels, fewest)]


def copy_pinpoints(model: Any, processor: Any) -> None:
    """A model that lays its tiles out by pinpoints of its own must have the processor's."""
    pinpoints = getattr(processor.image_processor, "image_grid_pinpoints", None)
    if pinpoints is not None and hasattr(model.config, "image_grid_pinpoints"):
        model.config.image_grid_pinpoints = pinpoints


def picture_size(processor: Any, image: Image) -> tuple[int, int]:
    """(width, height) in pixels to which the whole picture is resized, read off what the processor really makes.

    Of a tiled picture: of all tiles put together. Padding is not counted. Raises RequestRefused when the processor
    does not take the picture, for its shape as a rule.
    """
    images = processor.image_processor
    with raise_refusals(*PROCESSOR_ERRORS):
        made = images(images=[image], return_tensors="pt", **_options(processor))
    if "image_grid_thw" in made:
        _, rows, columns = made["image_grid_thw"][0].tolist()
        return columns * images.patch_size, rows * images.patch_size
    if "grids" in made:  # MiniCPM-V: a slice's size is in patches
        (rows, columns), sizes = made["grids"][0], made["target_sizes"].tolist()
        height, width = sizes[-1]
        return width * images.patch_size * max(1, columns), height * images.patch_size * max(1, rows)
    height, width = made["pixel_values"].shape[-2:]
    if "rows" in made:  # Idefics3, SmolVLM
        return width * max(1, made["cols"][0][0]), height * max(1, made["rows"][0][0])
    if "num_patches" in made:  # InternVL
        columns, rows = _canvas(images, image, (height, width))
        return columns * width, rows * height
    if "aspect_ratio_ids" in made:  # Mllama
        return _on_mllamas_canvas(images, image)
    if "image_sizes" in made:  # LLaVA-NeXT, LLaVA-OneVision
        return _on_a_grid(images, image)
    if _pads(images):  # LLaVA-1.5
        longer = max(image.size)
        return round(width * image.width / longer), round(height * image.height / longer)
    return width, height


def _pads(images: Any) -> bool:
    """Whether pictures are padded to a square before they are resized."""
    return bool(getattr(images, "do_pad", False)) and hasattr(images, "pad_to_square")


def resize_mode(processor: Any, family: Family) -> str:
    """What is done to a picture: as the family has it, unless this processor was set up without its padding."""
    if not family.types:
        return "unknown"
    return "squashed" if family.resize_mode == "padded" and not _pads(processor.image_processor) else family.resize_mode


def _options(processor: Any) -> dict[str, Any]:
    """What the processor tells its image processor on every call, and what makes tiles countable."""
    options = {**getattr(processor, "images_kwargs", {})}
    if hasattr(processor.image_processor, "do_image_splitting"):
        options["return_row_col_info"] = True
    return {name: value for name, value in options.items() if name != "return_tensors"}


def _canvas(images: Any, image: Image, tile: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of InternVL's tiles, by the image processor's own function."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    return get_optimal_tiled_canvas((image.height, image.width), tile, images.min_patches, images.max_patches)


def _on_mllamas_canvas(images: Any, image: Image) -> tuple[int, int]:
    from transformers.models.mllama import image_processing_pil_mllama as mllama

    side, size = images.size["height"], (image.height, image.width)
    canvas = mllama.get_optimal_tiled_canvas(*size, images.max_image_tiles, side)
    height, width = mllama.get_image_size_fit_to_canvas(*size, *canvas, side)
    return int(width), int(height)


def _on_a_grid(images: Any, image: Image) -> tuple[int, int]:
    from transformers.image_processing_utils import select_best_resolution

    size = (image.height, image.width)
    height, width = select_best_resolution(size, images.image_grid_pinpoints)
    scale = min(height / image.height, width / image.width)
    return min(math.ceil(image.width * scale), width), min(math.ceil(image.height * scale), height)


def picture_tokens(processor: Any, image: Image) -> int:
    """How many tokens a picture costs in a user's turn."""

    def length(content: list[dict[str, str]], pictures: list[list[Image]] | None) -> int:
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        given = {"text": [text], "return_tensors": "pt"}
        made = processor(images=pictures, **given) if pictures else processor.tokenizer(**given)
        return int(made["input_ids"].shape[1])

    words = {"type": "text", "text": "What is this?"}
    return length([{"type": "image"}, words], [[image]]) - length([words], None)
