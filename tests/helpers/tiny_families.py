"""More architectures, tiny and untrained, as tiny_models.py has them: with them the table of families is covered.

Those whose processor has a video part are built with a stub in its place; what they do to pictures is their own.
"""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.helpers.more_tiny_families import MORE
from tests.helpers.tiny_later_families import LATER, LATER_VARIANTS, stand_in_for_timm
from tests.helpers.tiny_models import (
    SMALL,
    TEMPLATE,
    WIDE,
    NoVideos,
    eye_of,
    head_of,
    heads_of,
    idefics3,
    llava,
    llava_next,
    mllama,
    named,
    paligemma,
    qwen,
    text,
    words,
)
from tests.helpers.tiny_qwen import qwen2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe, qwen4_exp


def llava_onevision(small=SMALL):
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionProcessor,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    tokenizer, grid = words("<image>", "<video>"), [[56, 56], [56, 112], [112, 56], [112, 112]]
    pictures = LlavaOnevisionImageProcessorPil(size={"height": 56, "width": 56}, image_grid_pinpoints=grid)
    processor = LlavaOnevisionProcessor(
        image_processor=pictures, tokenizer=tokenizer, video_processor=NoVideos(), num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **eye_of(small)},
        text_config={"model_type": "qwen2", **text(tokenizer, small)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    return processor, LlavaOnevisionForConditionalGeneration(config)


def gemma3(small=SMALL):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokens = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = named(words(bos="<|bos|>"), **tokens)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<start_of_image>"),
    )
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **eye_of(small)},
        text_config={"model_type": "gemma3_text", **heads_of(small), **text(tokenizer, small)},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():  # untrained, the projector is zero
        model.model.multi_modal_projector.mm_input_projection_weight.normal_()
    return processor, model


def smolvlm(small=SMALL):
    """The caller stands in for num2words, which writes the lengths of videos."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = words("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<video>")
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = SmolVLMConfig(
        vision_config=eye_of(small),
        text_config={"model_type": "llama", **text(tokenizer, small)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return processor, SmolVLMForConditionalGeneration(config)


def internvl(small=SMALL):
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
              "video_token": "<video>"}  # fmt: skip
    tokenizer = named(words("<box>", "</box>"), **tokens)
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        image_seq_length=4,
        chat_template=TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>"),
    )
    config = InternVLConfig(
        vision_config={**eye_of(small), "image_size": [56, 56], "patch_size": [14, 14]},
        text_config={"model_type": "qwen2", **text(tokenizer, small)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return processor, InternVLForConditionalGeneration(config)


def minicpm(small=SMALL):
    """MiniCPM-V 4.6: sliced pictures, and a language model with linear attention."""
    from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, MiniCPMV4_6Processor
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    tokens = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
              "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
              "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"}  # fmt: skip
    tokenizer = named(words("<box>", "</box>"), **tokens)
    processor = MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessorPil(max_slice_nums=2, scale_resolution=112),
        video_processor=NoVideos(),
        tokenizer=tokenizer,
        chat_template=TEMPLATE.replace("IMAGE", "<|image_pad|>"),
    )
    head = head_of(small)
    heads = {"linear_key_head_dim": 4 * head, "linear_value_head_dim": 4 * head, "linear_num_key_heads": 2,
             "linear_num_value_heads": 2, "head_dim": head}  # fmt: skip
    sections = [head // 16, head // 16, 0]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    config = MiniCPMV4_6Config(
        vision_config={**eye_of(small), "image_size": 112},
        text_config={"model_type": "qwen3_5_text", **text(tokenizer, small), **heads, "rope_parameters": rope,
                     "layer_types": ["linear_attention", "full_attention"]},
        insert_layer_id=0,
        image_size=112,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )  # fmt: skip
    return processor, MiniCPMV4_6ForConditionalGeneration(config)


# Every family of families.py that transformers has here, by its model_type.
TINY = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "qwen4_exp": qwen4_exp,
    "mllama": mllama,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "minicpmv4_6": minicpm,
    **MORE,
    **LATER,
}
# Other types of these families.
VARIANTS = {"qwen3_vl_moe": qwen3_vl_moe, "qwen3_5_moe": qwen3_5_moe, **LATER_VARIANTS}


def stand_ins(monkeypatch):
    """For torchvision without its video processors, for num2words, which pictures do not need, and for timm's tower."""
    from transformers.models.smolvlm import processing_smolvlm

    from tests.helpers.tiny_models import stand_in_for_videos
    from tests.helpers.torchvision_stand_in import stand_in_for_torchvision

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
