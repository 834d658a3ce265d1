"""Write beside an export the settings with which its trainer trains as VisRL would: the same pictures, the same DPO.

    rl1.yaml  rl2.yaml   LLaMA-Factory:  llamafactory-cli train DIR/rl1.yaml
    rl1.sh    rl2.sh     ms-swift:       bash DIR/rl1.sh

Each starts from the actor that made the pairs. What either program does to a picture before the model's processor,
read from its sources: LLaMA-Factory 0.9.5 shrinks it to image_max_pixels, 768 x 768 by default, and rounds the sides
down; ms-swift 4.6 resizes Qwen's pictures itself, within MAX_PIXELS and MIN_PIXELS of the environment.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.boxes import Size
from visrl_data.core.image_settings import ImageSettings, describe_images, resized_size
from visrl_data.models.model_folder import ALIASES
from visrl_data.runs.image_fit import image_bounds, stock_size, swift_environment
from visrl_data.runs.manifest import RunManifest

_SMALLEST_SIDE, _LONGEST_RATIO, _CUT_RATIO = 28, 200, 180  # of LLaMA-Factory's plug-in of Qwen's families
# LLaMA-Factory's template of a family. Those that depend on the language model are left to the user, as are those that
# add thoughts or a system prompt there, which the actor was not prompted with (Gemma 4, GLM-4V, LFM2-VL, ERNIE 4.5 VL).
_TEMPLATES = {
    "LLaVA-1.5": "llava",
    "Qwen2-VL": "qwen2_vl",
    "Qwen2.5-VL": "qwen2_vl",
    "Qwen3-VL": "qwen3_vl_nothink",
    "Qwen3.5": "qwen3_5_nothink",
    "Llama-3.2-Vision": "mllama",
    "PaliGemma 2": "paligemma",
    "Gemma 3": "gemma3",
    "InternVL": "intern_vl",
    "MiniCPM-V": "minicpm_v_4_6",
    "Llama 4": "llama4",
    "Pixtral": "pixtral",
}
_NO_TEMPLATE = "LLaMA-Factory 0.9.5 has none for this family: train with ms-swift or TRL"
_TEMPLATE_HINTS = {
    "LLaVA-NeXT": "llava_next (Vicuna), llava_next_mistral, llava_next_llama3, llava_next_yi or llava_next_qwen",
    "Mistral 3": "mistral_small, or ministral3 for Ministral 3",
    "LLaVA-OneVision": _NO_TEMPLATE,
    "Idefics3": _NO_TEMPLATE,
    "SmolVLM": _NO_TEMPLATE,
    "Kimi K2.5": _NO_TEMPLATE,
    "Aya Vision": _NO_TEMPLATE,
    "Command A Vision": _NO_TEMPLATE,
}
_OWN_CHOICE = "the one of this model, by https://github.com/hiyouga/LLaMA-Factory#supported-models"
_SHARED = {"learning_rate": 5e-6, "num_train_epochs": 5, "per_device_train_batch_size": 1, "warmup_ratio": 0.1}
_ACCUMULATION = 24


@dataclass(frozen=True, slots=True)
class StartModel:
    """The model that a training of others starts from. adapter: of the actor, on the model; "" for full weights."""

    model: str
    revision: str
    adapter: str


def start_model(run: RunManifest) -> StartModel:
    """Return the actor of a run by the names that other programs load it by."""
    actor, origin = run["run"]["actor"], run["run"].get("origin_base", {})
    name = run["config"]["model"]
    is_adapter = bool(origin and actor.get("adapter") and origin["digest"] == actor.get("weights_digest"))
    base = origin["id"] if is_adapter else name
    model, _, revision = base.partition("@")
    return StartModel(_place(model), revision or str(actor.get("revision") or ""), _place(name) if is_adapter else "")


def _place(name: str) -> str:
    """Return where a model lies: the whole path of a folder here, since the training may start in another one."""
    folder = ALIASES.get(name, Path(name))
    return str(folder.resolve()) if folder.is_dir() else name


def llamafactory_size(size: Size, settings: ImageSettings) -> Size:
    """Return the size at which LLaMA-Factory, with the settings of its YAML, shows a picture to a model of Qwen's."""
    least, most = image_bounds(settings)
    width, height = size
    for is_outside, bound in ((width * height > most, most), (width * height < least, least)):
        if is_outside:
            scale = math.sqrt(bound / (width * height))
            width, height = int(width * scale), int(height * scale)
    width, height = max(width, _SMALLEST_SIDE), max(height, _SMALLEST_SIDE)
    width = height * _CUT_RATIO if width > height * _LONGEST_RATIO else width
    height = width * _CUT_RATIO if height > width * _LONGEST_RATIO else height
    return stock_size((width, height), settings)


def swift_size(size: Size, settings: ImageSettings) -> Size:
    """Return the size at which ms-swift, by its environment, shows a picture: it counts the bounds in whole tokens."""
    token = settings["bounds"]["multiple_of"] ** 2
    bounds = {name: settings["bounds"][name] // token * token for name in ("min_pixels", "max_pixels")}
    return resized_size(size, settings["bounds"] | bounds)


def llamafactory_settings(run: RunManifest, name: str, final: Path, names: Collection[str]) -> str:
    """Return the YAML of a training on <name>.json in the folder `final`. names: of all files there."""
    settings, start = run["run"].get("image_settings"), start_model(run)
    least, most = image_bounds(settings)
    family = settings["family"] if settings else run["run"].get("zero_shot", "")
    template = _TEMPLATES.get(family)
    values: dict[str, Any] = {
        "model_name_or_path": start.model,
        **({"model_revision": start.revision} if start.revision else {}),
        **({"adapter_name_or_path": start.adapter} if start.adapter else {}),
        "image_max_pixels": most,
        "image_min_pixels": least,
        **({"crop_to_patches": True} if settings and settings["bounds"].get("crop_to_patches") else {}),
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target": "all",
        "pref_beta": 0.1,
        "pref_loss": "sigmoid",
        "dataset_dir": str(final),
        "dataset": f"visrl-{name}",
        **({"eval_dataset": f"visrl-{name}-validation"} if f"{name}-validation" in names else {}),
        "template": template,
        "cutoff_len": 16384,
        "output_dir": str(final / f"{name}-adapter"),
        **_SHARED,
        "gradient_accumulation_steps": _ACCUMULATION,
        "lr_scheduler_type": "cosine",
        "bf16": True,
        "logging_steps": 10,
    }
    lines = [f"# {line}" for line in (f"llamafactory-cli train {final / name}.yaml", _about_pictures(run))]
    lines += [f"{key}: {_yaml(value)}" for key, value in values.items()]
    if template is None:
        hint = f"template:  # {_TEMPLATE_HINTS.get(family, _OWN_CHOICE)}"
        lines[lines.index("template: null")] = hint
    return "\n".join(lines) + "\n"


def swift_command(run: RunManifest, name: str, final: Path, names: Collection[str]) -> str:
    """Return the script of a training on <name>.jsonl in the folder `final`. names: of all files there."""
    settings, start = run["run"].get("image_settings"), start_model(run)
    options = {
        "rlhf_type": "dpo",
        "model": start.model,
        **({"model_revision": start.revision} if start.revision else {}),
        **({"adapters": start.adapter} if start.adapter else {}),
        "dataset": str(final / f"{name}.jsonl"),
        **({"val_dataset": str(final / f"{name}-validation.jsonl")} if f"{name}-validation" in names else {}),
        "tuner_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "beta": 0.1,
        **_SHARED,
        "gradient_accumulation_steps": _ACCUMULATION,
        "max_length": 16384,
        "output_dir": str(final / f"{name}-adapter"),
    }
    words = [*swift_environment(settings), "swift rlhf"]
    words += [f"--{key} {shlex.quote(str(value))}" for key, value in options.items()]
    comments = [f"# {line}" for line in (f"bash {final / name}.sh", _about_pictures(run))]
    return "\n".join(["#!/usr/bin/env bash", *comments, " \\\n    ".join(words)]) + "\n"


def _about_pictures(run: RunManifest) -> str:
    """Say how pictures must be shown."""
    settings = run["run"].get("image_settings")
    shown = describe_images(settings) if settings else "not on record: an earlier version made these pairs"
    return f"Boxes: {run['run']['box_space']}. Pictures, as the actor was shown them: {shown}."


def _yaml(value: Any) -> str:
    """Write a value as YAML 1.1 reads it: JSON, but for small floats, which need a point."""
    return f"{value:.1e}" if isinstance(value, float) and value < 0.01 else json.dumps(value, ensure_ascii=False)
