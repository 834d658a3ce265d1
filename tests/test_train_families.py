"""Other architectures, tiny and untrained: a row's log-probability is the same alone and in a batch with other rows.

It fails when a mask, a tile or a cross-attention is cut, shifted or padded wrongly. Mllama fails in TRL's own
collators, whose cross_attention_mask covers the prompt alone.
"""

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from visrl_data.prompts import PromptSet
from visrl_data.spotlight.tokenizer import build_tokenizer
from visrl_train.models import language_linears
from visrl_train.turns import Turn, Turns

from .conftest import draw_photo

TEMPLATE = (
    "{% for m in messages %}{{ '<|sl_' ~ m.role ~ '|>' }}{% for p in m.content %}"
    "{{ 'IMAGE' if p.type == 'image' else p.text }}{% endfor %}{{ '<|sl_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|sl_assistant|>' }}{% endif %}"
)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
EYE = {**SMALL, "image_size": 56, "patch_size": 14}


def words(*special, bos=None):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(list(special), special_tokens=True)
    if bos:
        tokenizer.add_special_tokens({"bos_token": bos})
    return tokenizer


def text(tokenizer):
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0}
    return {"vocab_size": len(tokenizer) + 8, "num_key_value_heads": 2, **SMALL, **ids}


def llava_next():
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
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **EYE, "num_hidden_layers": 3},
        text_config={"model_type": "llama", **text(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<|sl_image|>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-2,
    )
    return processor, LlavaNextForConditionalGeneration(config)


def idefics3():
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = words("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = Idefics3Config(
        vision_config=EYE,
        text_config={"model_type": "llama", **text(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return processor, Idefics3ForConditionalGeneration(config)


def mllama():
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    tokenizer = words("<|image|>", bos="<|bos|>")
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil(size={"height": 56, "width": 56}, max_image_tiles=2),
        tokenizer=tokenizer,
        chat_template="<|bos|>" + TEMPLATE.replace("IMAGE", "<|image|>"),
    )
    eye = {**EYE, "attention_heads": 2, "num_global_layers": 1, "max_num_tiles": 2, "vision_output_dim": 64}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = MllamaConfig(
        vision_config={
            **eye, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "intermediate_layers_indices": [0]
        },
        text_config={**text(tokenizer), "cross_attention_layers": [1], "rope_parameters": rope},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():  # untrained gates are shut
        for name, parameter in model.named_parameters():
            if "gate" in name and "gate_proj" not in name:
                parameter.fill_(0.5)
    return processor, model


@pytest.mark.parametrize("family", [llava_next, idefics3, mllama])
def test_a_row_is_the_same_alone_and_in_a_batch(family):
    torch.manual_seed(0)
    processor, model = family()
    add_fused_lm_head(model.eval())
    turns, prompts = Turns(processor), PromptSet()
    wide, tall, small = draw_photo(1, (100, 60)), draw_photo(2, (60, 100)), draw_photo(3, (30, 30))
    rows = [
        Turn("a", prompts.focus.parts(question="which?"), (wide,), "[0.100, 0.200, 0.300, 0.400]"),
        Turn("b", prompts.answer.parts(question="what a thing?"), (tall, small), "7"),
    ]

    def log_probs(some):
        batch = turns.encode(some)
        learnt = batch.pop("completion_mask")
        labels = batch["input_ids"].masked_fill(learnt == 0, -100)
        with torch.no_grad():
            fused = model(**batch, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1)
            logits = model(**batch, use_cache=False).logits[:, :-1].log_softmax(dim=-1)
        plain = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * learnt[:, 1:]
        assert fused.tolist() == pytest.approx(plain.sum(dim=1).tolist(), abs=1e-4)
        return fused.tolist()

    together = log_probs(rows)
    assert together == pytest.approx([log_probs([row])[0] for row in rows], abs=1e-4)
    swapped = Turn("c", rows[1].parts, (small, tall), "7")
    assert abs(log_probs([swapped])[0] - together[1]) > 1e-4, "the pictures must be seen"


@pytest.mark.parametrize("family", [llava_next, idefics3, mllama])
def test_adapters_are_put_on_the_language_model_alone(family):
    import re

    _, model = family()
    pattern = language_linears(model)
    hit = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
    assert len(hit) >= 14 and not any("vision" in name or "projector" in name or "lm_head" in name for name in hit)
