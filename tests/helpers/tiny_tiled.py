"""Families that cut a picture into tiles, tiny and untrained.

Those without an image processor on PIL are built with torchvision_stand_in.py in torchvision's place, or, LFM2-VL and
Molmo 2, where torchvision is.
"""

from tests.helpers.tiny_parts import (
    SMALL,
    TEMPLATE,
    NoVideos,
    eye_of,
    head_of,
    linear_attention,
    named,
    siglip_eye,
    text,
    words,
)

IDEFICS = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")


def _idefics_options(tokenizer, small):
    """Return the options of both configurations."""
    return {
        "vision_config": eye_of(small),
        "text_config": {"model_type": "llama", **text(tokenizer, small)},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
    }


def idefics3(small=SMALL):
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = words(*IDEFICS)
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = Idefics3Config(**_idefics_options(tokenizer, small))
    return processor, Idefics3ForConditionalGeneration(config)


def smolvlm(small=SMALL):
    """The caller stands in for num2words, which writes the lengths of videos."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = words(*IDEFICS, "<video>")
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = SmolVLMConfig(**_idefics_options(tokenizer, small))
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
    config = MiniCPMV4_6Config(
        vision_config={**eye_of(small), "image_size": 112},
        text_config={"model_type": "qwen3_5_text", **text(tokenizer, small), **linear_attention(small)},
        insert_layer_id=0,
        image_size=112,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )
    return processor, MiniCPMV4_6ForConditionalGeneration(config)


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
        vision_config=siglip_eye(small),
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
        vision_config=siglip_eye(small),
        text_config={"model_type": "cohere2", **text(tokenizer, small)},
        image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    return processor, Cohere2VisionForConditionalGeneration(config)


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
