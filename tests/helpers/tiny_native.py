"""GLM-4V, ERNIE 4.5 VL and Kimi K2.5, tiny and untrained: as in Qwen-VL, a picture keeps its size and shape."""

from tests.helpers.tiny_parts import SMALL, TEMPLATE, NoVideos, head_of, ids, mrope, named, text, words


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
    rope = mrope(small, partial_rotary_factor=1.0)
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


def ernie(small=SMALL):
    """A second layer with experts for texts and others for pictures."""
    from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration, Ernie4_5_VLMoeProcessor
    from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import (
        Ernie4_5_VLMoeImageProcessorPil,
    )

    kinds = ("image", "video")
    marks = {f"{kind}_token": f"<|{kind.upper()}_PLACEHOLDER|>" for kind in kinds}
    marks |= {f"{kind}_{end}_token": f"<|{kind.upper()}_{end.upper()}|>" for kind in kinds for end in ("start", "end")}
    tokenizer = named(words(), **marks)
    processor = Ernie4_5_VLMoeProcessor(
        image_processor=Ernie4_5_VLMoeImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84}),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=TEMPLATE.replace("IMAGE", "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"),
    )
    third = head_of(small) // 8  # height, width and time: half a head
    rope = {"rope_type": "default", "mrope_section": [3 * third // 2, 3 * third // 2, third], "rope_theta": 1e4}
    experts = {"moe_num_experts": 2, "moe_k": 1, "moe_num_shared_experts": 1, "moe_intermediate_size": [64, 32]}
    config = Ernie4_5_VLMoeConfig(
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
        text_config={**text(tokenizer, small), **experts, "rope_parameters": rope},
        tie_word_embeddings=False,
        **{f"{name}_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()},
    )
    return processor, Ernie4_5_VLMoeForConditionalGeneration(config)


def kimi(small=SMALL):
    """DeepSeek's language model: latent attention, and a second layer of two experts."""
    from transformers import Kimi_K25Config, Kimi_K25ForConditionalGeneration, Kimi_K25ImageProcessor, Kimi_K25Processor

    tokenizer = words("<|media_pad|>", "<|media_begin|>", "<|media_content|>", "<|media_end|>")
    tokenizer.add_tokens("<|kimi_k25_video_placeholder|>", special_tokens=True)
    processor = Kimi_K25Processor(
        image_processor=Kimi_K25ImageProcessor(max_patches=36),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=TEMPLATE.replace("IMAGE", "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>"),
    )
    ranks = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}
    experts = {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1,
               "first_k_dense_replace": 1, "moe_intermediate_size": small["intermediate_size"]}  # fmt: skip
    eye = {**small, "pos_emb_height": 6, "pos_emb_width": 6}
    config = Kimi_K25Config(
        vision_config=eye,
        text_config={"model_type": "deepseek_v3", **text(tokenizer, small), **ranks, **experts},
        projection_hidden_size=small["hidden_size"],
        tie_word_embeddings=False,
        **ids(tokenizer, image="<|media_pad|>", video="<|kimi_k25_video_placeholder|>",
              vision_start="<|media_begin|>", vision_end="<|media_end|>"),
    )  # fmt: skip
    return processor, Kimi_K25ForConditionalGeneration(config)
