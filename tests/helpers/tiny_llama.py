"""Llama 3.2 Vision and Llama 4, tiny and untrained."""

import torch

from tests.helpers.tiny_parts import SMALL, TEMPLATE, eye_of, head_of, text, words


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
