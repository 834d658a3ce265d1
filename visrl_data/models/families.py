"""What is known of each family of models, in one table; everything else treats all models alike.

Read by engines/loading.py (what a processor does, what bounds a picture), engines/transformers.py (prefill),
factory.py (the box space and the focus request of a model that was not trained here), visrl_train/image_features.py
(encoding once), visrl_train/branches.py (sharing a beginning) and `visrl doctor`. docs/families.md shows it.

A model of no family in the table works with the defaults, and the user is warned. A model that was trained here
records its box space and its prompts in visrl.json: for it the conventions of its family no longer matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import Prompt, PromptSet
from visrl_data.models.model_files import read_object
from visrl_data.models.model_folder import ModelFolder
from visrl_data.models.remote_code import check_code

_ASK = "<image>\n{question}\n"
_UNIT = _ASK + (
    "Find the region of the image that is needed to answer this. Reply only with its bounding box as "
    "[x1, y1, x2, y2], in fractions of the image's width and height from 0 to 1 with three decimals."
)
_JSON = _ASK + (
    "Locate the one region of the image that is needed to answer this question, "
    "and report its bbox coordinates in JSON format."
)
_BBOX_2D = _ASK + (
    "Provide the bounding box of the one region of the image that is needed to answer this, as JSON with the key "
    "bbox_2d: [xmin, ymin, xmax, ymax], normalized integer coordinates in [0, 1000]."
)
_REGION = _ASK + "Please provide the bounding box coordinate of the one region that is needed to answer this question."
_DETECT = "<image>\ndetect {question}"
_DETECT_JSON = _ASK + "Detect the one region of the image that is needed to answer this, output only ```json"
_LOCATE = _ASK + "Locate the one region of the image that is needed to answer this and give me its bounding box."


@dataclass(frozen=True, slots=True)
class Family:
    """Models that share an architecture and conventions.

    types: `model_type` in config.json; after a colon that of its vision_config, where it decides. box_space: how the
    UN-TUNED model writes boxes (boxes.SPACES).
    trained_on_boxes: whether its makers trained it on boxes in that form; where not, the focus request spells it out.
    focus: template of the focus prompt of the un-tuned model; "" is the default of prompts.py.
    shares_prefill: its cache can be repeated, so that several replies to a prompt read it once.
    shares_prefix: texts that begin alike (the same picture, the same words) can share what the beginning costs: in
    generation with causal or linear attention, in training with causal attention alone, and a placeholder that is one
    token repeated.
    resize_mode: what its processor does with a picture: resized (to its own shape), squashed (to one size), padded
    (to a square, as it was trained), tiled. resolution_control: what --max-pixels moves
    (engines/image_processing.py); "" is nothing.
    encodes_once: visrl_train/image_features.py may hand out a picture's features again. requires: packages without
    which its processor or its tower can't be built. example: an id on the Hub.
    unsupported: why it can't be used; then nothing else of the row counts.
    """

    name: str
    types: tuple[str, ...]
    example: str
    box_space: str = "unit"
    trained_on_boxes: bool = False
    focus: str = ""
    shares_prefill: bool = True
    shares_prefix: bool = False
    resize_mode: str = "squashed"
    resolution_control: str = ""
    encodes_once: bool = False
    requires: tuple[str, ...] = ()
    unsupported: str = ""


_VIDEO = ("torchvision",)
_CANT_CHAT = (
    "its code comes with the weights and offers a chat of its own, no image-text-to-text model of transformers. "
    "Use MiniCPM-V 4.6 or later, which transformers has, or serve it and use --engine openai"
)

FAMILIES = (
    Family(
        "LLaVA-1.5", ("llava",), "llava-hf/llava-1.5-7b-hf",
        box_space="unit_padded_square", trained_on_boxes=True, shares_prefix=True, resize_mode="padded",
        encodes_once=True,
    ),
    Family(
        "LLaVA-NeXT", ("llava_next",), "llava-hf/llava-v1.6-mistral-7b-hf",
        focus=_UNIT, shares_prefix=True, resize_mode="tiled", resolution_control="pinpoints", encodes_once=True,
    ),
    Family(
        "LLaVA-OneVision", ("llava_onevision",), "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        focus=_UNIT, resize_mode="tiled", resolution_control="pinpoints", requires=_VIDEO,
    ),
    Family(
        "Qwen2-VL", ("qwen2_vl",), "Qwen/Qwen2-VL-7B-Instruct",
        box_space="per_mille_points", trained_on_boxes=True, focus=_REGION, shares_prefix=True, resize_mode="resized",
        resolution_control="pixels", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Qwen2.5-VL", ("qwen2_5_vl",), "Qwen/Qwen2.5-VL-7B-Instruct",
        box_space="resized_pixels_json", trained_on_boxes=True, focus=_JSON, shares_prefix=True,
        resize_mode="resized", resolution_control="pixels", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Qwen3-VL", ("qwen3_vl", "qwen3_vl_moe"), "Qwen/Qwen3-VL-8B-Instruct",
        box_space="per_mille_json", trained_on_boxes=True, focus=_JSON, shares_prefix=True, resize_mode="resized",
        resolution_control="pixels", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Qwen3.5", ("qwen3_5", "qwen3_5_moe"), "Qwen/Qwen3.5-4B",
        box_space="per_mille_json", focus=_JSON, shares_prefix=True, resize_mode="resized",
        resolution_control="pixels", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Qwen4-Exp", ("qwen4_exp",), "Qwen/Qwen4-Exp",
        box_space="per_mille_json", focus=_JSON, shares_prefill=False, resize_mode="resized",
        resolution_control="pixels", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Llama-3.2-Vision", ("mllama",), "meta-llama/Llama-3.2-11B-Vision-Instruct",
        focus=_UNIT, shares_prefill=False, resize_mode="tiled",
    ),
    Family(
        "PaliGemma 2", ("paligemma",), "google/paligemma2-10b-mix-448",
        box_space="paligemma_loc", trained_on_boxes=True, focus=_DETECT, encodes_once=True,
    ),
    Family(
        "Gemma 3", ("gemma3",), "google/gemma-3-4b-it",
        focus=_UNIT, encodes_once=True,
    ),
    Family(
        "Idefics3", ("idefics3",), "HuggingFaceM4/Idefics3-8B-Llama3",
        focus=_UNIT, resize_mode="tiled", resolution_control="edge",
    ),
    Family(
        "SmolVLM", ("smolvlm",), "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        focus=_UNIT, resize_mode="tiled", resolution_control="edge", requires=("torchvision", "num2words"),
    ),
    Family(
        "InternVL", ("internvl",), "OpenGVLab/InternVL3-8B-hf",
        box_space="per_mille_nested", trained_on_boxes=True, focus=_REGION, resize_mode="tiled",
        resolution_control="patches", requires=_VIDEO,
    ),
    Family(
        "MiniCPM-V", ("minicpmv4_6", "minicpmv4_7"), "openbmb/MiniCPM-V-4.6",
        box_space="per_mille_tagged", trained_on_boxes=True, focus=_REGION, resize_mode="tiled",
        resolution_control="slices", requires=_VIDEO,
    ),
    Family(
        "Llama 4", ("llama4",), "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        focus=_UNIT, resize_mode="tiled", resolution_control="patches", requires=_VIDEO,
    ),
    Family(
        "Pixtral", ("llava:pixtral",), "mistral-community/pixtral-12b",
        focus=_UNIT, resize_mode="resized", resolution_control="longest_edge", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Mistral 3", ("mistral3",), "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        focus=_UNIT, resize_mode="resized", resolution_control="longest_edge", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Kimi K2.5", ("kimi_k25",), "moonshotai/Kimi-K2.5",
        focus=_UNIT, resize_mode="resized", resolution_control="patch_count",
        shares_prefix=True, encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "ERNIE 4.5 VL", ("ernie4_5_vl_moe",), "baidu/ERNIE-4.5-VL-28B-A3B-PT",
        focus=_UNIT, resize_mode="resized", resolution_control="pixels", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Aya Vision", ("aya_vision",), "CohereLabs/aya-vision-8b",
        focus=_UNIT, resize_mode="tiled", resolution_control="patches",
    ),
    Family(
        "Command A Vision", ("cohere2_vision",), "CohereLabs/command-a-vision-07-2025",
        focus=_UNIT, resize_mode="tiled", resolution_control="patches", requires=_VIDEO,
    ),
    Family(
        "Gemma 4", ("gemma4",), "google/gemma-4-E4B-it",
        box_space="per_mille_yx_json", trained_on_boxes=True, focus=_DETECT_JSON, resize_mode="resized",
        resolution_control="soft_tokens", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Gemma 3n", ("gemma3n",), "google/gemma-3n-E4B-it",
        focus=_UNIT, encodes_once=True, requires=("timm",),
    ),
    Family(
        "GLM-4V", ("glm4v", "glm46v", "glm4v_moe"), "zai-org/GLM-4.6V-Flash",
        box_space="per_mille_marked", trained_on_boxes=True, focus=_LOCATE, shares_prefix=True, resize_mode="resized",
        resolution_control="frame_pixels", encodes_once=True, requires=_VIDEO,
    ),
    Family(
        "Ovis 2", ("ovis2",), "thisisiron/Ovis2-8B-hf",
        focus=_UNIT, resize_mode="tiled", resolution_control="patches",
    ),
    Family(
        "LFM2-VL", ("lfm2_vl",), "LiquidAI/LFM2.5-VL-3B",
        box_space="per_mille_json", trained_on_boxes=True, focus=_BBOX_2D, resize_mode="tiled",
        resolution_control="tiles", requires=_VIDEO,
    ),
    Family(
        "Molmo 2", ("molmo2",), "allenai/Molmo2-8B",
        focus=_UNIT, resize_mode="tiled", resolution_control="crops", requires=_VIDEO,
    ),
    Family(
        "MiniCPM-o", ("minicpmo", "minicpmv"), "openbmb/MiniCPM-o-2_6",
        unsupported=_CANT_CHAT,
    ),
    Family(
        "Kimi-VL", ("kimi_vl",), "moonshotai/Kimi-VL-A3B-Instruct",
        unsupported="its code comes with the weights and makes a causal language model, no image-text-to-text model of "
        "transformers. Serve it, with vLLM say, and use --engine openai, or use Kimi K2.5, which transformers has",
    ),
    Family(
        "Phi-4 multimodal", ("phi4_multimodal", "phi4mm"), "microsoft/Phi-4-multimodal-instruct",
        unsupported="it sees through an adapter beside its weights, which an adapter trained here would replace, and "
        "transformers has it as no image-text-to-text model. Serve it, with vLLM say, and use --engine openai",
    ),
    Family(
        "Florence-2", ("florence2",), "microsoft/Florence-2-large",
        unsupported="it carries out fixed tasks (<OD>, <CAPTION_TO_PHRASE_GROUNDING>) on one image and has no chat, so "
        "it can't be shown an image, its crop and a question. Use PaliGemma 2, which writes location tokens too",
    ),
    Family(
        "Kosmos-2 and 2.5", ("kosmos-2", "kosmos-2.5"), "microsoft/kosmos-2.5",
        unsupported="it completes a text about one image, captions or transcriptions with location tokens, so it can't "
        "be shown an image, its crop and a question. Use PaliGemma 2, which writes location tokens too",
    ),
    Family(
        "InternVL by its makers", ("internvl_chat",), "OpenGVLab/InternVL3_5-8B",
        unsupported="its code comes with the weights and offers a chat of its own, no image-text-to-text model of "
        "transformers. Name the folder of the same model in transformers' layout (OpenGVLab/InternVL3_5-8B-HF)",
    ),
    Family(
        "Ovis by its makers", ("ovis", "ovis2_5", "ovis2_6"), "AIDC-AI/Ovis2.5-9B",
        unsupported="its code comes with the weights and offers a chat of its own, no image-text-to-text model of "
        "transformers. Use Ovis 2 as transformers has it (thisisiron/Ovis2-8B-hf), or serve it and use --engine openai",
    ),
    Family(
        "Yi-VL", ("yi_vl", "llava_llama"), "01-ai/Yi-VL-6B",
        unsupported="its folder is in the original LLaVA layout, which transformers does not read. Convert it to the "
        "layout of llava-hf, and name the converted folder",
    ),
)  # fmt: skip
UNKNOWN = Family("unknown", (), "")
_BY_TYPE = {model_type: family for family in FAMILIES for model_type in family.types}


def family_of(model_type: str, tower: str = "") -> Family:
    """Return the family of a `model_type`; UNKNOWN, which is the defaults, for any other.

    tower: the `model_type` of its `vision_config`, which tells Pixtral from LLaVA-1.5.
    """
    return _BY_TYPE.get(f"{model_type}:{tower}", _BY_TYPE.get(model_type, UNKNOWN))


def family_of_model(model: Any) -> Family:
    """Return the family of a model of transformers that is loaded."""
    tower = getattr(model.config, "vision_config", None)
    return family_of(model.config.model_type, getattr(tower, "model_type", ""))


def family_at(path: Path) -> Family:
    """Return the family of the full weights in a folder, by its config.json; UNKNOWN where there is none."""
    return _family_in(_config(path))


def untuned_family(model: ModelFolder | None) -> Family | None:
    """Return the family whose conventions count for a model that was not trained here; None for one that was."""
    if model is None or model.box_space is not None:
        return None
    return family_at(model.weights.path)


def known_prompts(model: ModelFolder | None, box_space: str) -> PromptSet:
    """Return the prompts that a model knows: those it was trained with, or its family's request for a box.

    The family's request goes with the family's box space; for any other space the model gets our own.
    """
    family = untuned_family(model)
    if model is not None and model.prompts:
        known = {name: text for name, text in model.prompts.items() if name in ("focus", "answer")}
        return PromptSet(**{name: Prompt(name, text) for name, text in known.items()})
    if family is not None and family.focus and family.box_space == box_space:
        return PromptSet(focus=Prompt("focus", family.focus))
    return PromptSet()


def check_loadable(model: str, path: Path, trust_remote_code: bool) -> None:
    """Raise VisRLError for a family that can't be loaded, with what to do, and for code that is not trusted.

    Remote code counts when it is trusted and says of itself that it is an image-text-to-text model.
    """
    config = _config(path)
    family = _family_in(config)
    original_llava = "mm_vision_tower" in config and "vision_config" not in config
    if original_llava and not family.unsupported:
        family = family_of("llava_llama")
    if not family.unsupported or (
        trust_remote_code and "AutoModelForImageTextToText" in (config.get("auto_map") or {})
    ):
        check_code(model, path, trust_remote_code)
        return
    raise VisRLError(f"{model} could not be loaded, being of the family {family.name}: {family.unsupported}.")


def install_hint(error: BaseException) -> str:
    """Return how to install the package that an error of transformers asks for; "" where it asks for none."""
    names = sorted({name for family in FAMILIES for name in family.requires})
    missing = [name for name in names if re.search(rf"\b{name}\b", str(error), re.IGNORECASE)]
    return f" Install what it needs: pip install {missing[0]}." if missing else ""


def _family_in(config: dict[str, Any]) -> Family:
    tower = config.get("vision_config")
    return family_of(config.get("model_type", ""), tower.get("model_type", "") if isinstance(tower, dict) else "")


def _config(path: Path) -> dict[str, Any]:
    """Return the config.json of a folder; empty where there is none. Raises VisRLError for one of another shape."""
    file = path / "config.json"
    config = read_object(file) if file.is_file() else {}
    if not isinstance(config.get("model_type", ""), str) or not isinstance(config.get("auto_map") or {}, dict):
        raise VisRLError(f"{file}: model_type or auto_map is not as save_pretrained writes it. Fetch the model again.")
    return config
