"""Families of 2025 and 2026, tiny and untrained, as tiny_families.py has the others, which takes them in."""

from tests.helpers.tiny_models import SMALL, TEMPLATE, NoVideos, head_of, ids, named, sections_of, text, words


def gemma4(small=SMALL):
    """Gemma 4 as its large models are: pictures attend both ways, and the layers before the last slide."""
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
        image_processor=Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=140),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<|image|>"),
    )
    head = head_of(small)
    rope = {"rope_type": "default", "rope_theta": 1e4}
    names = {"image": "<|image|>", "video": "<|video|>", "boi": "<|image>", "eoi": "<image|>", "audio": "<|audio|>"}
    config = Gemma4Config(
        vision_config={**small, "num_key_value_heads": 2, "head_dim": head, "patch_size": 4,
                       "position_embedding_size": 64},
        text_config={**text(tokenizer, small), "head_dim": head, "global_head_dim": head,
                     "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64,
                     "rope_parameters": {"sliding_attention": rope, "full_attention": rope},
                     "use_bidirectional_attention": "vision", "hidden_size_per_layer_input": 0},
        **ids(tokenizer, **names),
    )  # fmt: skip
    return processor, Gemma4ForConditionalGeneration(config)


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


LATER = {"gemma4": gemma4, "glm4v": glm4v}
LATER_VARIANTS = {"glm46v": glm46v, "glm4v_moe": glm4v_moe}
