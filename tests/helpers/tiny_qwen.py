"""Qwen2-VL to Qwen4-Exp, tiny and untrained; the caller stands in for the video processor."""

import json

import torch

from studies.spotlight.tokenizer import SPECIAL
from tests.helpers.tiny_parts import SMALL, TEMPLATE, NoVideos, head_of, ids, linear_attention, mrope, text, words
from visrl_data.core.prompts import PromptSet

VISION = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
SEEN = "<|vision_start|><|image_pad|><|vision_end|>"


def qwen_ids(tokenizer):
    names = ("image", "video", "vision_start", "vision_end")
    return ids(tokenizer, **dict(zip(names, VISION, strict=True)))


def qwen_eye(small):
    sizes = {name: small[name] for name in ("hidden_size", "intermediate_size")}
    return {**sizes, "depth": 2, "num_heads": 2, "fullatt_block_indexes": [1]}


def qwen2_vl(small=SMALL):
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer, width = words(*VISION, "<|box_start|>", "<|box_end|>"), small["hidden_size"]
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=84 * 84),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=TEMPLATE.replace("IMAGE", SEEN),
    )
    config = Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": width, "hidden_size": width, "mlp_ratio": 2, "num_heads": 2},
        text_config={**text(tokenizer, small), "rope_parameters": mrope(small)},
        **qwen_ids(tokenizer),
    )
    return processor, Qwen2VLForConditionalGeneration(config)


def qwen(small=SMALL, eye=None, max_pixels=84 * 84):
    """Qwen2.5-VL; the caller stands in for the video processor."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = words(*VISION)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=max_pixels),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=TEMPLATE.replace("IMAGE", SEEN),
    )
    config = Qwen2_5_VLConfig(
        vision_config={**(eye or qwen_eye(small)), "out_hidden_size": small["hidden_size"], "window_size": 56},
        text_config={**text(tokenizer, small), "rope_parameters": mrope(small)},
        **qwen_ids(tokenizer),
    )
    return processor, Qwen2_5_VLForConditionalGeneration(config)


def qwen3_processor(tokenizer):
    from transformers import Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=32 * 32, max_pixels=96 * 96, patch_size=16),
        tokenizer=tokenizer,
        video_processor=NoVideos(),
        chat_template=TEMPLATE.replace("IMAGE", SEEN),
    )


def qwen3_eye(small):
    eye = {**qwen_eye(small), "out_hidden_size": small["hidden_size"], "num_position_embeddings": 36}
    del eye["fullatt_block_indexes"]
    return eye


def qwen3_vl(small=SMALL, model_type="qwen3_vl", **more):
    """Qwen3-VL: features of its tower's first layer go into the first layer of the language model (deepstack)."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    tokenizer = words(*VISION)
    rope = mrope(small, mrope_interleaved=True)
    config = AutoConfig.for_model(
        model_type,
        vision_config={**qwen3_eye(small), "deepstack_visual_indexes": [0]},
        text_config={**text(tokenizer, small), "head_dim": head_of(small), "rope_parameters": rope, **more},
        **qwen_ids(tokenizer),
    )
    return qwen3_processor(tokenizer), AutoModelForImageTextToText.from_config(config)


def qwen3_vl_moe(small=SMALL):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": small["intermediate_size"]}
    return qwen3_vl(small, "qwen3_vl_moe", **experts)


def qwen3_5_words(*special):
    """A tokenizer of the class that transformers makes of whatever tokenizer Qwen3.5 was saved with: bytes, merged."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen3_5Tokenizer

    names = {"eos_token": "<|sl_end|>", "pad_token": "<|sl_pad|>"}
    blank = Qwen3_5Tokenizer(**names)
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    blank.backend_tokenizer.train_from_iterator([prompt.template for prompt in PromptSet().all()], trainer)
    model = json.loads(blank.backend_tokenizer.to_str())["model"]
    tokenizer = Qwen3_5Tokenizer(model["vocab"], merges=[tuple(pair) for pair in model["merges"]], **names)
    tokenizer.add_tokens([*SPECIAL, *special], special_tokens=True)
    return tokenizer


def qwen3_5(small=SMALL, model_type="qwen3_5", **more):
    """Qwen3.5: a layer of linear attention, then one of full attention."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    tokenizer = qwen3_5_words(*VISION)
    config = AutoConfig.for_model(
        model_type,
        vision_config=qwen3_eye(small),
        text_config={**text(tokenizer, small), **linear_attention(small, mrope_interleaved=True), **more},
        **qwen_ids(tokenizer),
    )
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("A_log", "dt_bias")):  # untrained, a state forgets all but the last tokens
                parameter.fill_(-3.0)
    return qwen3_processor(tokenizer), model


def qwen3_5_moe(small=SMALL):
    sizes = {"moe_intermediate_size": small["intermediate_size"],
             "shared_expert_intermediate_size": small["intermediate_size"]}  # fmt: skip
    return qwen3_5(small, "qwen3_5_moe", num_experts=4, num_experts_per_tok=2, **sizes)


def qwen4_exp(small=SMALL):
    """Qwen4-Exp: experts in each layer, several streams of residuals, and attention to blocks that an indexer picks."""
    wide = small["intermediate_size"]
    sizes = {"moe_intermediate_size": wide, "shared_expert_intermediate_size": wide, "hc_count": 2, "hc_lowrank": 8}
    indexer = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16,
               "indexer_compress_ratio": 4}  # fmt: skip
    return qwen3_5(small, "qwen4_exp", num_experts=4, num_experts_per_tok=2, **sizes, **indexer)
