"""The families of tiny_families.py that came later: Llama 4, Mistral, Kimi, ERNIE and Cohere.

Those without an image processor on PIL are built with torchvision_stand_in.py in torchvision's place.
"""

from tests.helpers.tiny_models import (
    SMALL,
    TEMPLATE,
    NoVideos,
    eye_of,
    head_of,
    ids,
    named,
    text,
    words,
)


def llama4(small=SMALL):
    """Every layer a mixture of two experts, one of which takes each token."""
    from transformers import Llama4Config, Llama4ForConditionalGeneration, Llama4ImageProcessor, Llama4Processor

    marks = ("image_start", "image_end", "patch", "tile_x_separator", "tile_y_separator", "image")
    tokenizer, width = words(*(f"<|{mark}|>" for mark in marks), bos="<|bos|>"), small["hidden_size"]
    processor = Llama4Processor(
        image_processor=Llama4ImageProcessor(size={"height": 56, "width": 56}, max_patches=4),
        tokenizer=tokenizer,
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<|image|>"),
    )
    eye = {**eye_of(small), "intermediate_size": 4 * width, "vision_output_dim": width, "projector_input_dim": width,
           "projector_output_dim": width}  # fmt: skip
    experts = {"intermediate_size_mlp": small["intermediate_size"], "num_local_experts": 2, "head_dim": head_of(small)}
    config = Llama4Config(
        vision_config=eye,
        text_config={**text(tokenizer, small), **experts, "no_rope_layers": [1, 0], "attention_chunk_size": 512},
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
    )
    return processor, Llama4ForConditionalGeneration(config)


MISTRAL = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")


def _pixtral_processor(tokenizer, merge):
    from transformers import PixtralProcessor
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    return PixtralProcessor(
        image_processor=PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size=14),
        tokenizer=tokenizer,
        patch_size=14,
        spatial_merge_size=merge,
        chat_template=TEMPLATE.replace("IMAGE", "[IMG]"),
    )


def _pixtral_eye(small):
    return {**eye_of(small), "model_type": "pixtral", "image_size": 112, "head_dim": head_of(small)}


def pixtral(small=SMALL):
    """A LLaVA with another tower and processor, as mistral-community/pixtral-12b is."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer = words(*MISTRAL)
    config = LlavaConfig(
        vision_config=_pixtral_eye(small),
        text_config={"model_type": "mistral", "sliding_window": None, **text(tokenizer, small)},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return _pixtral_processor(tokenizer, 1), LlavaForConditionalGeneration(config)


def mistral3(small=SMALL):
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    tokenizer = words(*MISTRAL)
    config = Mistral3Config(
        vision_config=_pixtral_eye(small),
        text_config={"model_type": "mistral", "sliding_window": None, **text(tokenizer, small)},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    return _pixtral_processor(tokenizer, 2), Mistral3ForConditionalGeneration(config)


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


def aya_vision(small=SMALL):
    from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration, AyaVisionProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = words("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>")
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, max_patches=4),
        tokenizer=tokenizer,
        patch_size=14,
        img_size=56,
        downsample_factor=2,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **eye_of(small)},
        text_config={"model_type": "cohere2", **text(tokenizer, small)},
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        tie_word_embeddings=False,
    )
    return processor, AyaVisionForConditionalGeneration(config)


def cohere2_vision(small=SMALL):
    from transformers import (
        Cohere2VisionConfig,
        Cohere2VisionForConditionalGeneration,
        Cohere2VisionImageProcessor,
        Cohere2VisionProcessor,
    )

    marks = {"image_token": "<|IMG_PATCH|>", "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>",
             "img_line_break_token": "<|IMG_LINE_BREAK|>"}  # fmt: skip
    tokenizer = named(words(), **marks)
    processor = Cohere2VisionProcessor(
        image_processor=Cohere2VisionImageProcessor(size={"height": 56, "width": 56}, max_patches=4, patch_size=2),
        tokenizer=tokenizer,
        chat_template=TEMPLATE.replace("IMAGE", "<|IMG_PATCH|>"),
    )
    config = Cohere2VisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **eye_of(small)},
        text_config={"model_type": "cohere2", **text(tokenizer, small)},
        image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    return processor, Cohere2VisionForConditionalGeneration(config)


MORE = {
    "llama4": llama4,
    "llava:pixtral": pixtral,
    "mistral3": mistral3,
    "kimi_k25": kimi,
    "ernie4_5_vl_moe": ernie,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
}
