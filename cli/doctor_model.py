"""`visrl doctor --model`: what visrl knows of a model, and what the model takes, without loading its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PICTURE = (640, 480)
GIB = 2**30

_SHARED = (
    "read again for each reply",
    "shared by the replies to a prompt",
    "shared by all prompts that begin alike; pictures encoded once",
)


def look_at_model(model: str, max_pixels: int | None, dtype: str, trust_remote_code: bool) -> dict[str, Any]:
    """Everything as plain values. Raises VisRLError for a model that can't be used at all."""
    import torch

    from visrl_data.engines.loading import best_device, pick_dtype
    from visrl_data.models.families import check_loadable, family_at, known_prompts, native
    from visrl_data.models.model_folder import find_model

    folder = find_model(model, trust_remote_code, weights=False)
    check_loadable(folder.id, folder.weights.path, trust_remote_code)
    family, own = family_at(folder.weights.path), native(folder)
    space = folder.box_space or family.box_space
    kind = pick_dtype(dtype, torch.device(best_device()))
    seen = _picture(folder, max_pixels, trust_remote_code)
    return {
        "model": folder.id,
        "family": family.name,
        "model_type": _model_type(folder.weights.path),
        "box_space": space,
        "box_space_from": "its own record" if own is None else "its family" if family.types else "the default",
        "focus_prompt": known_prompts(folder, space).focus.id,
        "prefill_shared": family.shares_prefill,
        "beginnings_shared": family.shares_prefix,
        "lever": family.lever,
        **seen,
        **_sizes(folder, seen["picture_tokens"], kind.itemsize, trust_remote_code),
        "dtype": str(kind).removeprefix("torch."),
    }


def _model_type(path: Path) -> str:
    kind: str = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    return kind


def _picture(folder: Any, max_pixels: int | None, trust_remote_code: bool) -> dict[str, Any]:
    """What the processor makes of a picture; with the reason when the processor can't be made."""
    from PIL import Image

    from visrl_data.core.errors import VisRLError
    from visrl_data.engines.image_processing import picture_size, picture_tokens, resize_mode
    from visrl_data.engines.loading import load_processor
    from visrl_data.models.families import family_at

    try:
        processor = load_processor(folder, max_pixels, trust_remote_code)
    except VisRLError as error:
        nothing = dict.fromkeys(("picture", "seen_size", "picture_tokens"))
        return {"processor": str(error), "chat_template": False, **nothing}
    picture = Image.new("RGB", PICTURE, "grey")
    size, tokens = picture_size(processor, picture), picture_tokens(processor, picture)
    how = resize_mode(processor, family_at(folder.weights.path))
    return {"processor": "ok", "chat_template": True, "picture": how, "seen_size": list(size), "picture_tokens": tokens}


def _sizes(folder: Any, tokens: int | None, number: int, trust_remote_code: bool) -> dict[str, Any]:
    """Parameters, and memory in GiB; 1,000 tokens a picture where their number is not known."""
    from visrl_data.core.config import GenConfig
    from visrl_train import memory
    from visrl_train.config import SftConfig

    shape = memory.shape_of(folder, SftConfig().lora_rank, trust_remote_code)
    picture = 1000 if tokens is None else tokens
    gib = {"gen": round(memory.generation(shape, number, picture, GenConfig()) / GIB, 2)}
    for stage in memory.ROWS:
        for way in memory.TUNINGS:
            gib[f"{stage} {way}"] = round(memory.training(shape, number, picture, stage, way) / GIB, 2)
    counts = {"parameters": shape.parameters, "language_parameters": shape.language, "lora_parameters": shape.adapter}
    return {**counts, "memory_gib": gib}


def print_model(found: dict[str, Any]) -> None:
    """For people."""
    lever = "--max-pixels bounds it" if found["lever"] else "--max-pixels changes nothing"
    size = found["seen_size"]
    seen = (
        f"640x480 is seen as {size[0]}x{size[1]} ({found['picture']}), {found['picture_tokens']} tokens; {lever}"
        if size
        else f"unknown: {found['processor']}"
    )
    known = "" if found["box_space_from"] != "the default" else " (no family that visrl knows: it gets the defaults)"
    lines = {
        "model": found["model"],
        "family": f"{found['family']}, model type {found['model_type']}{known}",
        "boxes": f"{found['box_space']}, from {found['box_space_from']}; asked with {found['focus_prompt']}",
        "chat template": "yes" if found["chat_template"] else "not found",
        "prefill": _SHARED[found["prefill_shared"] + found["beginnings_shared"]],
        "picture": seen,
        "parameters": f"{found['parameters']:,}; language model {found['language_parameters']:,}; "
        f"an adapter {found['lora_parameters']:,}",
    }
    for name, value in lines.items():
        print(f"{name:14}{value}")
    _print_memory(found)


def _print_memory(found: dict[str, Any]) -> None:
    from visrl_train.memory import ROWS, TUNINGS

    gib = found["memory_gib"]
    print(f"\nMemory in GiB, reckoned for {found['dtype']} and the default batches (docs/families.md says how):")
    print(f"{'gen':14}{gib['gen']:>10}")
    print(" " * 14 + "".join(f"{way:>10}" for way in TUNINGS))
    for stage in ROWS:
        print(f"{stage:14}" + "".join(f"{gib[f'{stage} {way}']:>10}" for way in TUNINGS))
