"""PaliGemma and the Gemmas, tiny and untrained: each picture takes as many tokens, which may attend both ways."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.helpers.tiny_parts import SMALL, TEMPLATE, NoVideos, head_of, heads_of, ids, named, siglip_eye, text, words


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
        vision_config={**siglip_eye(small), "projection_dim": small["hidden_size"]},
        text_config={"model_type": "gemma2", **heads_of(small), **text(tokenizer, small)},
        image_token_index=tokenizer.image_token_id,
        projection_dim=small["hidden_size"],
    )
    model = PaliGemmaForConditionalGeneration(config)
    with torch.no_grad():  # untrained, what the projector says is next to nothing
        model.model.multi_modal_projector.linear.weight.mul_(50)
    return processor, model


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
        vision_config=siglip_eye(small),
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


SHARING = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}


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
