"""Families of 2025 and 2026, tiny and untrained, as tiny_families.py has the others, which takes them in."""

import importlib.util

from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.helpers.tiny_models import SMALL, TEMPLATE, NoVideos, eye_of, head_of, ids, named, sections_of, text, words

SHARING = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}


def gemma4(small=SMALL):
    """Gemma 4: pictures attend both ways, as in its large models; layers share caches, as in its small ones."""
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4Processor,
    )
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    tokens = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
              "boa_token": "<|audio>", "eoa_token": "<audio|>"}  # fmt: skip
    tokenizer = named(words(bos="<|bos|>"), **tokens)
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessorPil(patch_size=6, pooling_kernel_size=2, max_soft_tokens=140),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<|image|>"),
    )
    head = head_of(small)
    rope = {"rope_type": "default", "rope_theta": 1e4}
    names = {"image": "<|image|>", "video": "<|video|>", "boi": "<|image>", "eoi": "<image|>", "audio": "<|audio|>"}
    config = Gemma4Config(
        vision_config={**small, "num_key_value_heads": 2, "head_dim": head, "patch_size": 6,
                       "pooling_kernel_size": 2, "position_embedding_size": 64},
        text_config={**text(tokenizer, small), "head_dim": head, "global_head_dim": head,
                     **SHARING, "sliding_window": 64,
                     "rope_parameters": {"sliding_attention": rope, "full_attention": rope},
                     "use_bidirectional_attention": "vision", "hidden_size_per_layer_input": 8,
                     "vocab_size_per_layer_input": len(tokenizer) + 8},
        **ids(tokenizer, **names),
    )  # fmt: skip
    return processor, Gemma4ForConditionalGeneration(config)


class Tower(nn.Module):
    """Stands where Gemma 3n's tower would, which needs timm: pixels (B, 3, 56, 56) to features (B, D, 4, 4)."""

    def __init__(self, config):
        super().__init__()
        self.convolution = nn.Conv2d(3, config.hidden_size, 14, 14)

    @classmethod
    def _from_config(cls, config, **_):
        return cls(config)

    def forward(self, pixel_values, **_):
        return BaseModelOutputWithPooling(last_hidden_state=self.convolution(pixel_values))


def stand_in_for_timm(monkeypatch):
    from transformers import Gemma3nVisionConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    monkeypatch.setitem(MODEL_MAPPING._extra_content, Gemma3nVisionConfig, Tower)


def gemma3n(small=SMALL):
    """The caller stands in for timm."""
    from transformers import (
        Gemma3nAudioFeatureExtractor,
        Gemma3nConfig,
        Gemma3nForConditionalGeneration,
        Gemma3nProcessor,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokens = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
              "audio_token": "<audio_soft_token>", "boa_token": "<start_of_audio>",
              "eoa_token": "<end_of_audio>"}  # fmt: skip
    tokenizer = named(words(bos="<|bos|>"), **tokens)
    processor = Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(),
        image_processor=SiglipImageProcessorPil(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<image_soft_token>"),
    )
    width, names = small["hidden_size"], ("image", "boi", "eoi", "audio", "boa", "eoa")
    config = Gemma3nConfig(
        vision_config={"hidden_size": width},
        audio_config={"hidden_size": width, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1,
                      "sscp_conv_channel_size": [8, 8]},
        text_config={**text(tokenizer, small), **SHARING, "head_dim": head_of(small), "sliding_window": 32,
                     "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tokenizer) + 8,
                     "laurel_rank": 8},
        vision_soft_tokens_per_image=16,
        **ids(tokenizer, **dict(zip(names, tokens.values(), strict=True))),
    )  # fmt: skip
    return processor, Gemma3nForConditionalGeneration(config)


def glm4v(small=SMALL, model_type="glm4v", **more):
    """GLM-4.1V."""
    from transformers import AutoConfig, AutoModelForImageTextToText, Glm4vProcessor
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    marks = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
             "<|end_of_video|>")  # fmt: skip
    tokenizer = words(*marks, "<|begin_of_box|>", "<|end_of_box|>")
    processor = Glm4vProcessor(
        image_processor=Glm4vImageProcessorPil(size={"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 84 * 84}),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=TEMPLATE.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>"),
    )
    names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    rope = {"rope_type": "default", "mrope_section": sections_of(small), "rope_theta": 1e4,
            "partial_rotary_factor": 1.0}  # fmt: skip
    width = small["hidden_size"]
    config = AutoConfig.for_model(
        model_type,
        vision_config={"depth": 2, "hidden_size": width, "num_heads": 2, "out_hidden_size": width, "image_size": 56,
                       "intermediate_size": small["intermediate_size"]},
        text_config={**text(tokenizer, small), "rope_parameters": rope, **more},
        **ids(tokenizer, **dict(zip(names, marks, strict=True))),
    )  # fmt: skip
    return processor, AutoModelForImageTextToText.from_config(config)


def glm46v(small=SMALL):
    return glm4v(small, "glm46v")


def glm4v_moe(small=SMALL):
    """GLM-4.5V and the large GLM-4.6V: a dense layer, then one of experts."""
    sizes = {"moe_intermediate_size": small["intermediate_size"], "first_k_dense_replace": 1}
    return glm4v(small, "glm4v_moe", n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, **sizes)


def ovis2(small=SMALL):
    """Ovis 2: a picture's features are mixtures of visual words, between marks that have visual words of their own."""
    from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Ovis2Processor
    from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

    marks = [f"<IMG_{name}>" for name in ("START", "GRID", "COL", "ROW", "END")]
    tokenizer = words("<image>", "<IMG_ATOM>", *marks)
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = Ovis2Config(
        vision_config={**eye_of(small), "vocab_size": 64},
        text_config={"model_type": "qwen2", **text(tokenizer, small)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(marks),
        vocab_size=len(tokenizer) + 8,
        hidden_size=small["hidden_size"],
    )
    return processor, Ovis2ForConditionalGeneration(config)


def lfm2_vl(small=SMALL):
    """LFM2-VL, whose processor is torchvision's alone: a layer of short convolutions, then one of attention."""
    from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration, Lfm2VlImageProcessor, Lfm2VlProcessor

    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = words("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *tiles)
    sizes = {"tile_size": 56, "max_tiles": 4, "encoder_patch_size": 14, "min_image_tokens": 1, "max_image_tokens": 4}
    processor = Lfm2VlProcessor(
        image_processor=Lfm2VlImageProcessor(**sizes),
        tokenizer=tokenizer,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = Lfm2VlConfig(
        vision_config={"model_type": "siglip2_vision_model", **small, "patch_size": 14, "num_patches": 16,
                       "vision_use_head": False},
        text_config={"model_type": "lfm2", **text(tokenizer, small), "layer_types": ["conv", "full_attention"],
                     "block_auto_adjust_ff_dim": False},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=small["hidden_size"],
    )  # fmt: skip
    return processor, Lfm2VlForConditionalGeneration(config)


def molmo2(small=SMALL):
    """Molmo 2, whose processor is torchvision's alone: a view of the whole, then crops that overlap."""
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration, Molmo2ImageProcessor, Molmo2Processor

    marks = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>")
    tokenizer = words("<|image|>", "<|video|>", "<im_low>", *marks, bos="<|bos|>")
    sizes = {"size": {"height": 56, "width": 56}, "max_crops": 4, "overlap_margins": [1, 1]}
    processor = Molmo2Processor(
        image_processor=Molmo2ImageProcessor(**sizes),
        video_processor=NoVideos(),
        tokenizer=tokenizer,
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<|image|>"),
    )
    names = ("image_patch", "", "image_start", "low_res_image_start", "frame_start", "image_end", "frame_end")
    at = dict(zip(names, tokenizer.convert_tokens_to_ids(list(marks)), strict=True))
    width, head = small["hidden_size"], head_of(small)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": head}
    config = Molmo2Config(
        vision_config={**small, **heads, "image_size": [56, 56]},
        adapter_config={**heads, "hidden_size": width, "intermediate_size": small["intermediate_size"],
                        "text_hidden_size": width, "vision_feature_layer": [0, 1]},
        text_config={**text(tokenizer, small), **heads, "additional_vocab_size": 8},
        image_patch_id=at.pop("image_patch"),
        **{f"{name}_token_id": token for name, token in at.items() if name},
    )  # fmt: skip
    return processor, Molmo2ForConditionalGeneration(config)


LATER = {"gemma4": gemma4, "gemma3n": gemma3n, "glm4v": glm4v, "ovis2": ovis2}
# Those whose image processors have no other backend than torchvision: left out where it is not installed.
WITH_TORCHVISION = {"lfm2_vl": lfm2_vl, "molmo2": molmo2}
if importlib.util.find_spec("torchvision"):
    LATER |= WITH_TORCHVISION
LATER_VARIANTS = {"glm46v": glm46v, "glm4v_moe": glm4v_moe}
