"""Builds the untrained model and its processor, and writes them as model folders.

LLaVA in the transformers library: a FocalNet (a convolutional tower, read at its last stage: 6 x 6
positions), LLaVA's two-layer projector, and a small Llama with tied embeddings. Chosen for the CPU:
36 tokens a picture, PIL alone for the pixels, and convolutions, which learn to read digits from far
fewer pictures than a plain ViT does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    CLIPImageProcessorPil,
    FocalNetConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from studies.spotlight import codes
from studies.spotlight.answers import NUMBER_WORDS
from studies.spotlight.tokenizer import COORDINATES, END, IMAGE, PAD, build_tokenizer
from studies.spotlight.views import CROP_RULE, GRID, VIEW
from visrl_data.models.model_folder import digest_folder
from visrl_data.spotlight.scenes import COLORS, DIGITS, SHAPES

BASE_ID = "spotlight-base"
"""The alias of models/model_folder.py under which the actor's adapter finds its base."""
WORD_STD = 0.1
"""Standard deviation of untrained embeddings: norm 1.1, beside codes of norm 1."""
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def build_processor() -> LlavaProcessor:
    """Build the processor: pictures squashed to VIEW x VIEW, scaled to [-1, 1]; text as tokenizer.py says."""
    pictures = CLIPImageProcessorPil(
        size={"height": VIEW, "width": VIEW},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    tokenizer = build_tokenizer()
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=VIEW // GRID,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        chat_template=tokenizer.chat_template,
    )


def build_model(processor: LlavaProcessor, seed: int = 0) -> LlavaForConditionalGeneration:
    """Build the untrained model in float32, with embeddings of known words started from the codes."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    vision = FocalNetConfig(
        image_size=VIEW,
        patch_size=4,
        embed_dim=32,
        depths=(1, 1, 3),
        focal_levels=(1, 2, 2),
        focal_windows=(3, 5, 7),  # FocalNet has no position embedding: wide kernels feel the picture's edges
        use_post_layernorm_in_modulation=True,  # else the product of features explodes on a rare picture
        mlp_ratio=2.0,
        use_conv_embed=True,
        drop_path_rate=0.0,
    )
    vision.hidden_size = 4 * vision.embed_dim
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=codes.WIDTH,
        intermediate_size=3 * codes.WIDTH,
        num_hidden_layers=5,
        num_attention_heads=4,
        head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # most of a head free to match contents
        max_position_embeddings=4096,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        bos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=GRID * GRID,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.pad_token_id = text.pad_token_id
    for module in [*model.model.vision_tower.modules(), *model.model.multi_modal_projector.modules()]:
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.reset_parameters()  # the library's small start leaves a narrow tower almost silent
    _start_attention(model)
    _start_embeddings(model, tokenizer)
    return model


def start_number_words(model: LlavaForConditionalGeneration, encode: Callable[[str], list[int]]) -> None:
    """Move the embeddings of number words most of the way to those of their digits, which they mean."""
    table: torch.Tensor = model.get_input_embeddings().weight.data
    for digit, word in zip(DIGITS, NUMBER_WORDS, strict=True):
        for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}"):
            (token,) = encode(form)
            table[token] += 0.75 * (table[encode(digit)[0]] - table[token])


def save_base(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write the base model folder: float16 weights that load as float32."""
    model.half().save_pretrained(folder)
    _edit_json(folder / "config.json", dtype="float32")
    _save_rest(processor, folder, {})


def load_base(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load the base model in float32 and its processor."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, LlavaProcessor.from_pretrained(folder)


def move_to(model: LlavaForConditionalGeneration, device: torch.device) -> LlavaForConditionalGeneration:
    """Move the model to a device."""
    torch.nn.Module.to(model, device)  # transformers' own `to` does the same, but has lost its type
    return model


def add_adapter(model: LlavaForConditionalGeneration) -> PeftModel:
    """Add a fresh LoRA adapter on the linear layers of the language model."""
    config = LoraConfig(
        r=16, lora_alpha=32, target_modules=LORA_TARGETS, task_type="CAUSAL_LM", base_model_name_or_path=BASE_ID
    )
    return get_peft_model(model, config)


def save_actor(tuned: PeftModel, processor: LlavaProcessor, folder: Path, base: Path) -> None:
    """Write the actor's adapter folder: float16 weights; the base named by its alias and by its digest."""
    tuned.half().save_pretrained(str(folder))
    (folder / "README.md").unlink()  # peft's, full of placeholders
    _edit_json(folder / "adapter_config.json", base_model_name_or_path=BASE_ID)
    origin = {"id": BASE_ID, "digest": digest_folder(base)}
    _save_rest(processor, folder, {"base": origin, "origin_base": origin})


def _save_rest(processor: LlavaProcessor, folder: Path, extra: dict[str, object]) -> None:
    """Write the processor, and visrl.json: box space, crop rule, and `extra`; readable by everybody."""
    processor.save_pretrained(folder)
    about = {"box_space": "unit", "crop_rule": CROP_RULE.as_dict(), **extra}
    (folder / "visrl.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def _edit_json(path: Path, **values: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}, indent=2) + "\n", encoding="utf-8")


def _start_attention(model: LlavaForConditionalGeneration) -> None:
    """Start attention as "copy what you look at": the output turns values back (after mimetic
    initialization, Trockman & Kolter 2023). Words and image tokens share codes, so a copy is an answer.
    """
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            part: Any = layer.self_attn
            part.q_proj.weight.normal_(0.0, 0.08)
            part.k_proj.weight.normal_(0.0, 0.08)
            part.v_proj.weight.normal_(0.0, 0.05)
            part.o_proj.weight.copy_(part.v_proj.weight.T)


def _start_embeddings(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    """Draw random rows, plus the codes for color, shape and digit words; coordinates have the waves of an x1, so that
    the first coordinate of a box, the one that needs choosing, is a mere copy of the object's code.
    """
    embeddings: Any = model.get_input_embeddings()
    table: torch.Tensor = embeddings.weight.data
    table.normal_(0.0, WORD_STD)
    turn = codes.rotation()
    for names, slot in ((COLORS, codes.COLOR), (SHAPES, codes.SHAPE), (DIGITS, codes.DIGIT)):
        for k, name in enumerate(names):
            for form in (name, " " + name, name.capitalize(), " " + name.capitalize()):
                token = tokenizer.convert_tokens_to_ids(form)
                if form in tokenizer.get_vocab():
                    table[token] += turn[slot.start + k]
    values = torch.arange(len(COORDINATES)) / (len(COORDINATES) - 1)
    first = turn[codes.BOX.start : codes.BOX.start + codes.WAVES]
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(COORDINATES)))
    table[ids] = 0.3 * table[ids] + 1.5 * codes.waves(values) @ first
