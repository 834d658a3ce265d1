"""What the tiny untrained models share: sizes, a chat template, tokenizers, options of towers and language models."""

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


def siglip_eye(small):
    return {"model_type": "siglip_vision_model", "vision_use_head": False, **eye_of(small)}


def head_of(small):
    return small["hidden_size"] // small["num_attention_heads"]


def heads_of(small):
    """Where a configuration has sizes of its own for these."""
    return {"head_dim": head_of(small), "query_pre_attn_scalar": head_of(small)}


def sections_of(small):
    """Half a head: of time, height and width."""
    head = head_of(small)
    return [head // 8, head * 3 // 16, head * 3 // 16]


def mrope(small, **more):
    return {"rope_type": "default", "mrope_section": sections_of(small), "rope_theta": 1e4, **more}


def linear_attention(small, **rope):
    """A layer of linear attention, then one of full attention: Qwen3.5's language model."""
    head = head_of(small)
    heads = {"linear_key_head_dim": 4 * head, "linear_value_head_dim": 4 * head, "linear_num_key_heads": 2,
             "linear_num_value_heads": 2, "head_dim": head}  # fmt: skip
    rope |= {"mrope_section": [head // 16, head // 16, 0], "partial_rotary_factor": 0.25}
    kinds = ["linear_attention", "full_attention"]
    return {**heads, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **rope}, "layer_types": kinds}


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
