"""Set how a processor resizes images, and read off it what it does: its settings, and size and tokens of an image.

Used by loading.py for each processor, by the engines for the box spaces in pixels, and by `visrl doctor`. families.py
says how a family's resolution is controlled; what becomes of an image is read off what the processor returns for it.
"""

from __future__ import annotations

import logging
import math
import sys
from typing import Any

from PIL.Image import Image

from visrl_data.core.image_settings import ImageSettings
from visrl_data.engines.messages import render_chat
from visrl_data.engines.refusals import PROCESSOR_ERRORS, raise_refusals
from visrl_data.models.families import Family

logger = logging.getLogger(__name__)


def show_whole(processor: Any, family: Family) -> None:
    """Make the processor show whole images: a center crop would hide their ends, where a box may lie.

    Padded to a square for a family that was trained so; else squashed to the size of the crop.
    """
    images = processor.image_processor
    if not getattr(images, "do_center_crop", False):
        return
    size = {"height": images.crop_size["height"], "width": images.crop_size["width"]}
    if family.resize_mode == "padded":
        kept = ("image_mean", "image_std", "resample", "rescale_factor")
        settings = {name: getattr(images, name) for name in kept}
        kind = _padding_processor(images)
        processor.image_processor = kind(do_pad=True, do_center_crop=False, size=size, **settings)
        return
    images.do_center_crop = False
    images.size = size


def _padding_processor(images: Any) -> Any:
    """Return the image processor that pads, on the backend of this one: PIL and torchvision resize differently."""
    import transformers

    is_pil = type(images).__name__.endswith("Pil")
    return transformers.LlavaImageProcessorPil if is_pil else transformers.LlavaImageProcessor


def limit_pixels(processor: Any, family: Family, max_pixels: int, model: str) -> None:
    """Make the processor resize images to at most max_pixels, by the family's control of resolution.

    Tiles are whole, so one tile is the least. Smaller images stay as they are. Warns where a family has no control.
    """
    images = processor.image_processor
    control = family.resolution_control or ("pixels" if _resizes_freely(images) else "")
    if control in ("pixels", "frame_pixels"):
        # Qwen's size is in pixels, though its names say edges; older releases keep the number twice.
        most = max_pixels * _frames(images, family)
        least = min(images.size["shortest_edge"], most)
        images.size = {"shortest_edge": least, "longest_edge": most}
        if getattr(images, "max_pixels", None) is not None:
            images.max_pixels, images.min_pixels = most, least
    elif control == "edge":
        tile = images.max_image_size["longest_edge"]
        longest = max(1, math.isqrt(max_pixels) // tile) * tile
        images.size = {"longest_edge": min(longest, images.size["longest_edge"])}
    elif control == "longest_edge":
        unit = processor.patch_size * processor.spatial_merge_size  # sides are rounded up to it
        longest = max(1, math.isqrt(max_pixels) // unit) * unit
        images.size = {"longest_edge": min(longest, images.size["longest_edge"])}
    elif control == "patch_count":
        images.max_patches = max(1, min(images.max_patches, max_pixels // images.patch_size**2))
    elif control == "pinpoints":
        images.image_grid_pinpoints = _pinpoints_within(images.image_grid_pinpoints, max_pixels)
    elif control == "patches":
        tile = images.size["height"] * images.size["width"]
        images.max_patches = max(1, min(images.max_patches, max_pixels // tile))
        if hasattr(images, "min_patches"):
            images.min_patches = min(images.min_patches, images.max_patches)
    elif control == "slices":
        images.max_slice_nums = max(1, min(images.max_slice_nums, max_pixels // images.scale_resolution**2))
    elif control == "tiles":
        images.max_tiles = min(images.max_tiles, max_pixels // images.tile_size**2)
        images.do_image_splitting = images.do_image_splitting and images.max_tiles >= images.min_tiles
        token = (images.encoder_patch_size * images.downsample_factor) ** 2
        images.max_image_tokens = max(1, min(images.max_image_tokens, max_pixels // token))
        images.min_image_tokens = min(images.min_image_tokens, images.max_image_tokens)
    elif control == "crops":
        fitting = [n for n in range(1, images.max_crops + 1) if _canvas_of_crops(images, n) <= max_pixels]
        images.max_crops = max(fitting, default=1)
    elif control == "soft_tokens":
        token = (images.patch_size * images.pooling_kernel_size) ** 2
        fitting = [count for count in _SOFT_TOKENS if count * token <= max_pixels]
        images.max_soft_tokens = min(images.max_soft_tokens, max(fitting, default=_SOFT_TOKENS[0]))
    else:
        logger.warning("%s resizes all images to one size: --max-pixels has no effect.", model)


def _canvas_of_crops(images: Any, crops: int) -> int:
    """Return the most pixels that Molmo 2's crops cover together: those of a row, which overlap least."""
    margin = sum(images.overlap_margins) * images.patch_size
    window = images.size["height"] - margin
    return int((crops * window + margin) * (window + margin))


def _frames(images: Any, family: Family) -> int:
    """Return how often a processor counts a picture's pixels: GLM's takes it for two frames of a video."""
    return int(images.temporal_patch_size) if family.resolution_control == "frame_pixels" else 1


_SOFT_TOKENS = (70, 140, 280, 560, 1120)  # the numbers of tokens of a picture that Gemma 4's processor takes
# Attributes of image processors that decide the size and the tiles of a picture.
_BOUNDS = (
    "do_resize", "size", "image_grid_pinpoints", "max_image_size", "do_image_splitting", "crop_to_patches",
    "min_patches", "max_patches", "max_slice_nums", "scale_resolution", "max_image_tiles", "max_soft_tokens",
    "tile_size", "min_tiles", "max_tiles", "min_image_tokens", "max_image_tokens",
    "max_crops",
)  # fmt: skip


def read_settings(processor: Any, family: Family, max_pixels: int | None) -> ImageSettings:
    """Return how a processor shows pictures. max_pixels: the bound that it was set to, None for its own."""
    images = processor.image_processor
    if family.resolution_control in ("pixels", "frame_pixels") or _resizes_freely(images):
        frames = _frames(images, family)
        bounds = {
            "min_pixels": images.size["shortest_edge"] // frames,
            "max_pixels": images.size["longest_edge"] // frames,
            "multiple_of": images.patch_size * images.merge_size,
        }
    else:
        values = {name: getattr(images, name, None) for name in _BOUNDS}
        values |= {name: value for name, value in _options(processor).items() if name in values}
        bounds = {name: _plain(value) for name, value in values.items() if value is not None}
    return {
        "family": family.name,
        "resize": resize_mode(processor, family),
        "center_crop": bool(getattr(images, "do_center_crop", False)),
        "bounds": bounds,
        "max_pixels": max_pixels,
    }


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it; of a size, the sides that it names."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return {name: side for name, side in dict(value).items() if side is not None}


def _resizes_freely(images: Any) -> bool:
    """Return whether an image processor of no known family bounds pictures as Qwen's does."""
    names = getattr(images, "model_input_names", ())
    return "image_grid_thw" in names and images.size["shortest_edge"] is not None


def _pinpoints_within(pinpoints: list[list[int]], max_pixels: int) -> list[list[int]]:
    """Return the grids (height, width) of at most max_pixels, or those of the fewest pixels where none is so small."""
    fewest = min(height * width for height, width in pinpoints)
    return [[height, width] for height, width in pinpoints if height * width <= max(max_pixels, fewest)]


def copy_pinpoints(model: Any, processor: Any) -> None:
    """Give a model that lays out tiles by its own pinpoints those of the processor."""
    pinpoints = getattr(processor.image_processor, "image_grid_pinpoints", None)
    if pinpoints is not None and hasattr(model.config, "image_grid_pinpoints"):
        model.config.image_grid_pinpoints = pinpoints


def picture_size(processor: Any, image: Image) -> tuple[int, int]:
    """Return (width, height) in pixels to which the whole image is resized, read off the processor's output.

    Of a tiled picture: of all tiles put together. Padding is not counted. Raises RequestRefused when the processor
    does not take the picture, for its shape as a rule.
    """
    images = processor.image_processor
    with raise_refusals(*PROCESSOR_ERRORS):
        batch = images(images=[image], return_tensors="pt", **_options(processor))
    if "image_grid_thw" in batch:
        if hasattr(images, "max_patches"):  # Kimi
            return _within_patches(images, image)
        _, rows, columns = batch["image_grid_thw"][0].tolist()
        return columns * images.patch_size, rows * images.patch_size
    if "image_position_ids" in batch:  # Gemma 4: (column, row) of each patch
        columns, rows = (batch["image_position_ids"][0].amax(dim=0) + 1).tolist()
        return columns * images.patch_size, rows * images.patch_size
    if "grids" in batch and "target_sizes" in batch:  # MiniCPM-V: a slice's size is in patches
        (rows, columns), sizes = batch["grids"][0], batch["target_sizes"].tolist()
        height, width = sizes[-1]
        return width * images.patch_size * max(1, columns), height * images.patch_size * max(1, rows)
    height, width = batch["pixel_values"].shape[-2:]
    if "image_rows" in batch:  # LFM2-VL: tiles, or the image at a size of its own
        rows, columns = int(batch["image_rows"][0]), int(batch["image_cols"][0])
        height, width = batch["image_sizes"][0]
        whole = rows * columns == 1
        return (int(width), int(height)) if whole else (columns * images.tile_size, rows * images.tile_size)
    if "image_num_crops" in batch:  # Molmo 2: of the canvas of its crops
        _, _, rows, columns = batch["image_grids"][0].tolist()
        down, across = (size * images.patch_size for size in images.pooling_size)
        return columns * across, rows * down
    if "grids" in batch:  # Ovis 2
        rows, columns = batch["grids"][0]
        return width * int(columns), height * int(rows)
    if "rows" in batch:  # Idefics3, SmolVLM
        return width * max(1, batch["cols"][0][0]), height * max(1, batch["rows"][0][0])
    if "num_patches" in batch:  # InternVL, Aya Vision, Command A Vision
        columns, rows = _canvas(images, image, (height, width))
        return columns * width, rows * height
    if "aspect_ratio_ids" in batch:  # Mllama
        return _on_mllamas_canvas(images, image)
    if "aspect_ratios" in batch:  # Llama 4
        return _on_llama4s_canvas(images, image, batch["aspect_ratios"][0].tolist())
    if "image_sizes" in batch and hasattr(images, "image_grid_pinpoints"):  # LLaVA-NeXT, LLaVA-OneVision
        return _on_a_grid(images, image)
    if _pads(images):  # LLaVA-1.5
        longer = max(image.size)
        return round(width * image.width / longer), round(height * image.height / longer)
    return width, height


def _pads(images: Any) -> bool:
    """Return whether pictures are padded to a square before they are resized."""
    return bool(getattr(images, "do_pad", False)) and hasattr(images, "pad_to_square")


def resize_mode(processor: Any, family: Family) -> str:
    """Return how images are resized: as the family does it, unless this processor is set up without its padding."""
    if not family.types:
        return "unknown"
    return "squashed" if family.resize_mode == "padded" and not _pads(processor.image_processor) else family.resize_mode


def _options(processor: Any) -> dict[str, Any]:
    """Return what the processor passes to its image processor on every call, and what makes tiles countable."""
    options = {**getattr(processor, "images_kwargs", {})}
    if hasattr(processor, "spatial_merge_size"):  # Pixtral's
        options["patch_size"] = processor.patch_size * processor.spatial_merge_size
    if hasattr(processor.image_processor, "do_image_splitting"):
        options["return_row_col_info"] = True
    return {name: value for name, value in options.items() if name != "return_tensors"}


def _canvas(images: Any, image: Image, tile: tuple[int, int]) -> tuple[int, int]:
    """Return columns and rows of the tiles, by the image processor's own function."""
    canvas: tuple[int, int] = _module_of(images).get_optimal_tiled_canvas(
        (image.height, image.width), tile, images.min_patches, images.max_patches
    )
    return canvas


def _module_of(images: Any) -> Any:
    """Return the module that defines an image processor, and the functions by which it resizes."""
    return sys.modules[type(images).__module__]


def _on_llama4s_canvas(images: Any, image: Image, tiles: tuple[int, int]) -> tuple[int, int]:
    """Return the size on a canvas of (rows, columns) of tiles; a small picture grows to one tile at most."""
    tile = images.size["height"]
    size = (image.height, image.width)
    target = [min(max(side, tile), tile * count) for side, count in zip(size, tiles, strict=True)]
    height, width = _module_of(images).get_max_res_without_distortion(size, target)
    return max(int(width), 1), max(int(height), 1)


def _within_patches(images: Any, image: Image) -> tuple[int, int]:
    """Return the size by Kimi's limits on patches, in all and on a side. What it pads to whole patches is left out."""
    (height, width), _ = _module_of(images).navit_resize(
        image.height, image.width, images.patch_size, images.merge_size, images.max_patches, images.size["max_height"]
    )
    return width, height


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
    """Return how many tokens an image takes in a user's turn."""

    def length(content: list[dict[str, Any]], pictures: list[list[Image]] | None) -> int:
        chat = [{"role": "user", "content": content}]
        text = render_chat(processor, chat)
        options = {"text": [text], "return_tensors": "pt"}
        batch = processor(images=pictures, **options) if pictures else processor.tokenizer(**options)
        return int(batch["input_ids"].shape[1])

    words = {"type": "text", "text": "What is this?"}
    return length([{"type": "image"}, words], [[image]]) - length([words], None)
