"""`visrl doctor --model`: a model's family, box format, view of an image and memory, without loading its weights."""

from __future__ import annotations

import json
from typing import Any

from .console import print_result

IMAGE_SIZE = (640, 480)
CROP_SIZE = (384, 288)  # three fifths of the sides: larger than most
GIB = 2**30

_PREFILL = (
    "computed again for each reply",
    "shared by the replies to a prompt",
    "shared by all prompts with a common prefix; images encoded once",
)


def describe_model(model: str, max_pixels: int | None, dtype: str, trust_remote_code: bool) -> dict[str, Any]:
    """Return what is known of a model as plain values. Raises VisRLError for one that can't be used at all."""
    import torch

    from visrl_data.engines.loading import best_device, pick_dtype
    from visrl_data.models.families import check_loadable, family_at, known_prompts, untuned_family
    from visrl_data.models.model_folder import find_model

    folder = find_model(model, trust_remote_code, weights=False)
    check_loadable(folder.id, folder.weights.path, trust_remote_code)
    family, own = family_at(folder.weights.path), untuned_family(folder)
    space = folder.box_space or family.box_space
    kind = pick_dtype(dtype, torch.device(best_device()))
    seen = _image_view(folder, max_pixels, trust_remote_code)
    return {
        "model": folder.id,
        "family": family.name,
        "model_type": json.loads((folder.weights.path / "config.json").read_text("utf-8")).get("model_type", ""),
        "box_space": space,
        "box_space_from": "its own record" if own is None else "its family" if family.types else "the default",
        "focus_prompt": known_prompts(folder, space).focus.id,
        "prefill_shared": family.shares_prefill,
        "beginnings_shared": family.shares_prefix,
        "lever": family.resolution_control,
        **seen,
        **_sizes(folder, seen["picture_tokens"], seen["crop_tokens"], kind.itemsize, trust_remote_code),
        "dtype": str(kind).removeprefix("torch."),
    }


def _image_view(folder: Any, max_pixels: int | None, trust_remote_code: bool) -> dict[str, Any]:
    """Return how the processor sees an image, or the reason why it can't be loaded."""
    from PIL import Image

    from visrl_data.core.errors import VisRLError
    from visrl_data.engines.image_processing import picture_size, picture_tokens, resize_mode
    from visrl_data.engines.loading import load_processor
    from visrl_data.models.families import family_at

    bound = folder.max_pixels if max_pixels is None else max_pixels
    try:
        processor = load_processor(folder, bound, trust_remote_code)
    except VisRLError as error:
        unknown = dict.fromkeys(("picture", "resized_size", "picture_tokens", "crop_tokens"))
        return {"processor": str(error), "chat_template": False, **unknown}
    image = Image.new("RGB", IMAGE_SIZE, "gray")
    size, tokens = picture_size(processor, image), picture_tokens(processor, image)
    crop = picture_tokens(processor, Image.new("RGB", CROP_SIZE, "gray"))
    mode = resize_mode(processor, family_at(folder.weights.path))
    return {
        "processor": "ok",
        "chat_template": True,
        "picture": mode,
        "resized_size": list(size),
        "picture_tokens": tokens,
        "crop_tokens": crop,
    }


def _sizes(folder: Any, tokens: int | None, crop: int | None, number: int, trust_remote_code: bool) -> dict[str, Any]:
    """Count parameters and estimate memory in GiB; with 1,000 tokens per image where their number is unknown."""
    from visrl_data.core.config import GenConfig
    from visrl_train import memory
    from visrl_train.config import SftConfig

    shape = memory.shape_of(folder, SftConfig().lora_rank, trust_remote_code)
    picture = 1000 if tokens is None else tokens
    crop = picture if crop is None else crop
    gib = {
        name: round(memory.generation(shape, number, picture, crop, GenConfig(quantize=quantize)) / GIB, 2)
        for name, quantize in (("gen", None), ("gen 4 bits", True))
    }
    for stage in memory.ROWS:
        for way in memory.TUNINGS:
            gib[f"{stage} {way}"] = round(memory.training(shape, number, picture, stage, way) / GIB, 2)
    counts = {"parameters": shape.parameters, "language_parameters": shape.language, "lora_parameters": shape.adapter}
    return {**counts, "memory_gib": gib}


def print_model(facts: dict[str, Any]) -> None:
    """Print the facts of a model as a table."""
    bound = "--max-pixels bounds it" if facts["lever"] else "--max-pixels has no effect"
    size = facts["resized_size"]
    seen = (
        f"640x480 is seen as {size[0]}x{size[1]} ({facts['picture']}), {facts['picture_tokens']} tokens; {bound}"
        if size
        else f"unknown: {facts['processor']}"
    )
    note = "" if facts["box_space_from"] != "the default" else " (a family that visrl does not know: defaults)"
    lines = {
        "model": facts["model"],
        "family": f"{facts['family']}, model type {facts['model_type']}{note}",
        "boxes": f"{facts['box_space']}, from {facts['box_space_from']}; prompt {facts['focus_prompt']}",
        "chat template": "yes" if facts["chat_template"] else "not found",
        "prefill": _PREFILL[facts["prefill_shared"] + facts["beginnings_shared"]],
        "image": seen,
        "parameters": f"{facts['parameters']:,}; language model {facts['language_parameters']:,}; "
        f"an adapter {facts['lora_parameters']:,}",
    }
    for name, value in lines.items():
        print_result(f"{name:14}{value}")
    _print_memory(facts)


def _print_memory(facts: dict[str, Any]) -> None:
    from visrl_train.memory import ROWS, TUNINGS

    gib = facts["memory_gib"]
    print_result(f"\nMemory in GiB, estimated for {facts['dtype']} and the default batches (see docs/families.md):")
    for name in ("gen", "gen 4 bits"):
        print_result(f"{name:14}{gib[name]:>10}")
    print_result(" " * 14 + "".join(f"{way:>10}" for way in TUNINGS))
    for stage in ROWS:
        print_result(f"{stage:14}" + "".join(f"{gib[f'{stage} {way}']:>10}" for way in TUNINGS))
