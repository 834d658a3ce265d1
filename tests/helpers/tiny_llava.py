"""LLaVA and its kind, tiny and untrained; with the tower of Pixtral, Pixtral and Mistral 3."""

from tests.helpers.tiny_parts import SMALL, TEMPLATE, NoVideos, eye_of, head_of, siglip_eye, text, words


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
        vision_config=siglip_eye(small),
        text_config={"model_type": "qwen2", **text(tokenizer, small)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    return processor, LlavaOnevisionForConditionalGeneration(config)


def _pixtral(small, merge):
    """Return the processor of a model with Pixtral's tower, and the options of its configuration."""
    from transformers import PixtralProcessor
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    tokenizer = words("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size=14),
        tokenizer=tokenizer,
        patch_size=14,
        spatial_merge_size=merge,
        chat_template=TEMPLATE.replace("IMAGE", "[IMG]"),
    )
    options = {
        "vision_config": {**eye_of(small), "model_type": "pixtral", "image_size": 112, "head_dim": head_of(small)},
        "text_config": {"model_type": "mistral", "sliding_window": None, **text(tokenizer, small)},
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
    }
    return processor, options


def pixtral(small=SMALL):
    """A LLaVA with another tower and processor, as mistral-community/pixtral-12b is."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    processor, options = _pixtral(small, merge=1)
    config = LlavaConfig(**options, vision_feature_layer=-1, vision_feature_select_strategy="full")
    return processor, LlavaForConditionalGeneration(config)


def mistral3(small=SMALL):
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    processor, options = _pixtral(small, merge=2)
    return processor, Mistral3ForConditionalGeneration(Mistral3Config(**options, tie_word_embeddings=False))
