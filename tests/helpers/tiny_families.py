"""Every family of families.py that transformers has here, tiny and untrained, and how a folder of one is saved.

Those whose processor has a video part are built with a stub in its place; what they do to pictures is their own.
"""

import importlib.util

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.helpers.tiny_gemma import gemma3, gemma3n, gemma4, paligemma, stand_in_for_timm
from tests.helpers.tiny_llama import llama4, mllama
from tests.helpers.tiny_llava import llava, llava_next, llava_onevision, mistral3, pixtral
from tests.helpers.tiny_native import ernie, glm4v, glm4v_moe, glm46v, kimi
from tests.helpers.tiny_parts import WIDE, stand_in_for_videos
from tests.helpers.tiny_qwen import qwen, qwen2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe, qwen4_exp
from tests.helpers.tiny_tiled import (
    aya_vision,
    cohere2_vision,
    idefics3,
    internvl,
    lfm2_vl,
    minicpm,
    molmo2,
    ovis2,
    smolvlm,
)
from tests.helpers.torchvision_stand_in import stand_in_for_torchvision

# By model_type.
TINY = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "llava:pixtral": pixtral,
    "mistral3": mistral3,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "qwen4_exp": qwen4_exp,
    "glm4v": glm4v,
    "ernie4_5_vl_moe": ernie,
    "kimi_k25": kimi,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "gemma3n": gemma3n,
    "gemma4": gemma4,
    "mllama": mllama,
    "llama4": llama4,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "minicpmv4_6": minicpm,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "ovis2": ovis2,
}
# Those whose image processors have no other backend than torchvision: left out where it is not installed.
WITH_TORCHVISION = {"lfm2_vl": lfm2_vl, "molmo2": molmo2}
if importlib.util.find_spec("torchvision"):
    TINY |= WITH_TORCHVISION
# Other types of these families.
VARIANTS = {
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5_moe": qwen3_5_moe,
    "glm46v": glm46v,
    "glm4v_moe": glm4v_moe,
}


def stand_ins(monkeypatch):
    """For torchvision without its video processors, for num2words, which pictures do not need, and for timm's tower."""
    from transformers.models.smolvlm import processing_smolvlm

    stand_in_for_videos(monkeypatch)
    stand_in_for_timm(monkeypatch)
    stand_in_for_torchvision(monkeypatch)
    monkeypatch.setattr(processing_smolvlm, "num2words", processing_smolvlm.num2words or str)


def save(family, folder, seed=0):
    """A model folder with random weights, as save_pretrained writes it."""
    torch.manual_seed(seed)
    processor, model = family()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_for_vllm(model_type, folder, seed=0):
    """A model folder that vLLM loads, where torchvision is: real video processors, and names of weights as on the Hub.

    Its weights are large: with the usual small ones the output hardly depends on the input.
    """
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch)
        processor, model = TINY[model_type](WIDE)
    if model_type in _VIDEOS:
        name, options = _VIDEOS[model_type]
        processor.video_processor = getattr(transformers, name)(**options)
    if model_type == "llava":  # as on the Hub
        processor.image_processor.do_center_crop = True
        processor.image_processor.size = {"shortest_edge": 56}
        processor.image_processor.crop_size = {"height": 56, "width": 56}
    if model_type == "gemma3":  # vLLM puts these together
        processor.tokenizer.add_tokens(["\n" * count for count in (2, 3, 4)])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "lm_head" not in name:
                parameter.mul_(8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    _name_as_on_the_hub(folder / "model.safetensors")
    return folder


_VIDEOS = {
    "qwen2_vl": ("Qwen2VLVideoProcessor", {}),
    "qwen2_5_vl": ("Qwen2VLVideoProcessor", {}),
    "qwen3_vl": ("Qwen3VLVideoProcessor", {"patch_size": 16}),
    "llava_onevision": ("LlavaOnevisionVideoProcessor", {}),
    "smolvlm": ("SmolVLMVideoProcessor", {}),
    "internvl": ("InternVLVideoProcessor", {}),
    "minicpmv4_6": ("MiniCPMV4_6VideoProcessor", {}),
}


def _name_as_on_the_hub(file):
    """Models with a tower of CLIP or SigLIP, built from a config, save it without a level of its names."""
    weights = load_file(file)
    if "vision_tower.embeddings.position_embedding.weight" in weights:
        full = "vision_tower.vision_model."
        weights = {name.replace("vision_tower.", full, 1): value for name, value in weights.items()}
        save_file(weights, file, metadata={"format": "pt"})
