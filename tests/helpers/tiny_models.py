"""Other architectures, tiny and untrained: a processor without torchvision and a model for each."""

import torch
from transformers.image_processing_base import ImageProcessingMixin

from studies.spotlight.tokenizer import build_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ '<|sl_' ~ m.role ~ '|>' }}{% for p in m.content %}"
    "{{ 'IMAGE' if p.type == 'image' else p.text }}{% endfor %}{{ '<|sl_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|sl_assistant|>' }}{% endif %}"
)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SMALL, "hidden_size": 64, "intermediate_size": 128}  # heads of 32, which is the least that vLLM runs on a CPU


def eye_of(small):
    return {**small, "image_size": 56, "patch_size": 14}


def head_of(small):
    return small["hidden_size"] // small["num_attention_heads"]


def heads_of(small):
    """Where a configuration has sizes of its own for these."""
    return {"head_dim": head_of(small), "query_pre_attn_scalar": head_of(small)}


def words(*special, bos=None):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(list(special), special_tokens=True)
    if bos:
        tokenizer.add_special_tokens({"bos_token": bos})
    return tokenizer


def named(tokenizer, **tokens):
    """Special tokens that a processor asks its tokenizer for by name, kept when it is saved."""
    tokenizer.add_tokens(list(tokens.values()), special_tokens=True)
    tokenizer._set_model_specific_special_tokens(special_tokens=tokens)
    return tokenizer


def ids(tokenizer, **tokens):
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def text(tokenizer, small=SMALL):
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0}
    return {"vocab_size": len(tokenizer) + 8, "num_key_value_heads": 2, **small, **ids}


def llava(small=SMALL, eye=None, image_token="<|sl_image|>"):
    """LLaVA-1.5: a CLIP tower, one size of picture. image_token: of Spotlight's tokenizer, or a new one."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    eye = eye or eye_of(small)
    tokenizer, side = words(image_token), eye["image_size"]
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False),
        tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default", image_token=image_token,
        num_additional_image_tokens=1, chat_template=TEMPLATE.replace("IMAGE", image_token),
    )  # fmt: skip
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, "num_hidden_layers": 3, **eye},
        text_config={"model_type": "llama", **text(tokenizer, small)},
        image_token_index=tokenizer.convert_tokens_to_ids(image_token),
    )
    return processor, LlavaForConditionalGeneration(config)


def llava_next(small=SMALL):
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tokenizer, grid = words(), [[56, 112], [112, 56], [112, 112]]
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=grid
    )
    processor = LlavaNextProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default",
        image_token="<|sl_image|>", num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<|sl_image|>"),
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "projection_dim": 32,
            **eye_of(small),
            "num_hidden_layers": 3,
        },
        text_config={"model_type": "llama", **text(tokenizer, small)},
        image_token_index=tokenizer.convert_tokens_to_ids("<|sl_image|>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-2,
    )
    return processor, LlavaNextForConditionalGeneration(config)


def idefics3(small=SMALL):
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = words("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = Idefics3Config(
        vision_config=eye_of(small),
        text_config={"model_type": "llama", **text(tokenizer, small)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return processor, Idefics3ForConditionalGeneration(config)


def mllama(small=SMALL):
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    tokenizer = words("<|image|>", bos="<|bos|>")
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil(size={"height": 56, "width": 56}, max_image_tiles=2),
        tokenizer=tokenizer,
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<|image|>"),
    )
    eye = {
        **eye_of(small),
        "attention_heads": 2,
        "num_global_layers": 1,
        "max_num_tiles": 2,
        "vision_output_dim": 2 * small["hidden_size"],
    }
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = MllamaConfig(
        vision_config={
            **eye, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "intermediate_layers_indices": [0]
        },
        text_config={**text(tokenizer, small), "cross_attention_layers": [1], "rope_parameters": rope},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():  # untrained gates are shut
        for name, parameter in model.named_parameters():
            if "gate" in name and "gate_proj" not in name:
                parameter.fill_(0.5)
    return processor, model


def paligemma(small=SMALL):
    """PaliGemma 2, with a chat template, which its folders on the Hub lack."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = words("<image>", bos="<|bos|>")
    tokenizer.image_token, tokenizer.image_token_id = "<image>", tokenizer.convert_tokens_to_ids("<image>")
    pictures = SiglipImageProcessorPil(size={"height": 56, "width": 56})
    pictures.image_seq_length = 16
    plain = TEMPLATE.replace("'<|sl_' ~ m.role ~ '|>'", "''").replace("'<|sl_end|>'", "''")
    processor = PaliGemmaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        chat_template=plain.replace("'<|sl_assistant|>'", "''").replace("IMAGE", "<image>"),
    )
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            "projection_dim": small["hidden_size"],
            **eye_of(small),
        },
        text_config={
            "model_type": "gemma2",
            "head_dim": head_of(small),
            "query_pre_attn_scalar": head_of(small),
            **text(tokenizer, small),
        },
        image_token_index=tokenizer.image_token_id,
        projection_dim=small["hidden_size"],
    )
    model = PaliGemmaForConditionalGeneration(config)
    with torch.no_grad():  # untrained, what the projector says is next to nothing
        model.model.multi_modal_projector.linear.weight.mul_(50)
    return processor, model


class NoVideos(ImageProcessingMixin):
    """Stands where Qwen's video processor would, which needs torchvision; pictures go through PIL."""

    merge_size, temporal_patch_size, model_input_names = 2, 2, []
    slice_mode, downsample_mode = True, "16x"  # MiniCPM-V reads these, SmolVLM the next
    num_frames, fps = 1, 1
    font = ""  # ERNIE writes times into pictures

    @classmethod
    def from_pretrained(cls, *_, **__):
        return cls()

    def save_pretrained(self, *_, **__):
        pass


def stand_in_for_videos(monkeypatch):
    from transformers import processing_utils

    names = processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES
    monkeypatch.setitem(names, "video_processor", (__name__, "NoVideos"))
    monkeypatch.setattr(processing_utils.transformers_module, "VideoProcessorMixin", NoVideos, raising=False)


def qwen_eye(small):
    sizes = {name: small[name] for name in ("hidden_size", "intermediate_size")}
    return {**sizes, "depth": 2, "num_heads": 2, "fullatt_block_indexes": [1]}


def sections_of(small):
    """Half a head: of time, height and width."""
    head = head_of(small)
    return [head // 8, head * 3 // 16, head * 3 // 16]


def qwen(small=SMALL, eye=None, max_pixels=84 * 84):
    """Qwen2.5-VL; the caller stands in for the video processor."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = words("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=max_pixels),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
                            ("vision_end", "vision_end"))
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": sections_of(small), "rope_theta": 1e4}
    config = Qwen2_5_VLConfig(
        vision_config={**(eye or qwen_eye(small)), "out_hidden_size": small["hidden_size"], "window_size": 56},
        text_config={**text(tokenizer, small), "rope_parameters": rope},
        **ids,
    )  # fmt: skip
    return processor, Qwen2_5_VLForConditionalGeneration(config)
