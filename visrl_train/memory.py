"""Estimate the memory that a model takes in generation and in each training stage, from its shapes alone.

Used by `visrl doctor --model`. The model is built without storage from its config.json; with b bytes a number of
the dtype (float32 4, bfloat16 2), P parameters, of them P_l in the language model and P_a in an adapter:

    gen       b P                                  weights, shared by actor and critic when one is the base of the other
              b * rows * (tokens * cache + state)  keys and values of the layers with full attention, states of others
              and the larger of
                b * read * (2 h + 3 f)             activations of one layer (h hidden, f intermediate size)
                8 * rows * vocabulary              logits, and a copy for sampling
              b * h * tokens                       kept features of a chunk's images and crops, at most 1 GiB

Of the answer pass: the rows are the responses of a batch, the tokens those of image, crop, words and reply. `read` are
the tokens that one forward reads: those after the image, of all rows, or the images of the batch's questions; where
the family shares no prefixes, the whole prompts of all rows. The output layer gets one token a row.

    LoRA      b P + 16 P_a                         frozen weights; adapter, gradient and AdamW's two states in float32
    4 bits    as LoRA, the language model's linear layers at 0.55 bytes per number (4 bits and their constants), the
              rest in float32, to which peft casts it
    full      4 P + 12 P_l                         all in float32; gradients and AdamW's states of the trained part
    rl1, rl2  + 4 P_a, or full + b P               the frozen reference: a copy of the adapter, or the whole model

    a stage   b * rows * tokens * h * layers       stored by gradient checkpointing, from a billion parameters on
              b * rows * tokens * (10 h + 3 f)     and the one layer that is recomputed; without it, of every layer
              8 * rows * reply * vocabulary        log-probabilities of the replies

Rows are counted as separate; where the rows of a pair are merged (branches.py), a step of RL1 takes about half as
much, of RL2 a third.

Not included: activations of the vision tower, which runs before there is a cache, library buffers, fragmentation. Plan
for a quarter more. With quadratic (eager) attention, long prompts take more still. Several devices (FSDP, DeepSpeed)
divide what they shard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from visrl_data.core.config import GenConfig
from visrl_data.engines.image_encoder import KEPT_BYTES
from visrl_data.engines.recurrent_cache import STATEFUL
from visrl_data.models.families import family_at
from visrl_data.models.model_folder import ModelFolder
from visrl_train.stages import STAGES

ROWS = {name: stage.rows for name, stage in STAGES.items() if stage.rows is not None}
"""Stage -> rows in a batch for each unit of --batch-size: a pair has two, with its responses four."""
TUNINGS = ("lora", "4 bits", "full")
WORDS = 150  # tokens of a question with its request
REPLY = 40  # tokens of a box
_FOUR_BITS = 0.55  # bytes of a weight, with its share of the scales
_LARGE = 1_000_000_000  # as in trainers.py: gradient checkpointing from here on


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that determine memory.

    cache: numbers of all layers' keys and values for a token. state: of all linear attention for a row. features: of an
    image's token, those for the first layers included. shares_prefix: as in families.py.
    """

    parameters: int
    language: int
    adapter: int
    linears: int
    layers: int
    hidden: int
    intermediate: int
    cache: int
    state: int
    features: int
    vocabulary: int
    shares_prefix: bool


def shape_of(folder: ModelFolder, rank: int, trust_remote_code: bool = False) -> Shape:
    """Return the sizes of a model, without loading its weights. rank: that of a new adapter."""
    from visrl_data.engines.quantization import empty_model, language_linears
    from visrl_train.models import unfreeze_language_model

    model = empty_model(folder, trust_remote_code)
    pattern = re.compile(language_linears(model))
    linears = [module.weight.shape for name, module in model.named_modules() if pattern.fullmatch(name)]
    unfreeze_language_model(model)
    text: Any = model.config.get_text_config()
    vision: Any = getattr(model.config, "vision_config", None)
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        language=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        adapter=sum(rank * (rows + columns) for rows, columns in linears),
        linears=sum(rows * columns for rows, columns in linears),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=_intermediate(text),
        cache=_cache_numbers(text),
        state=_state_numbers(text),
        features=text.hidden_size * (1 + len(getattr(vision, "deepstack_visual_indexes", None) or ())),
        vocabulary=text.vocab_size,
        shares_prefix=family_at(folder.weights.path).shares_prefix,
    )


def _intermediate(text: Any) -> int:
    """Return the widest layer that a token goes through: by layer in Gemma 3n, of its experts in Qwen3.5's MoE."""
    size = getattr(text, "intermediate_size", None)
    if size is None:
        return int(text.moe_intermediate_size * text.num_experts_per_tok + text.shared_expert_intermediate_size)
    return int(size if isinstance(size, int) else max(size))


def _cache_numbers(text: Any) -> int:
    """Count the numbers of a token's keys and values in all layers that keep them."""
    layers = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return sum(kind not in STATEFUL for kind in layers) * 2 * int(heads * head)


def _state_numbers(text: Any) -> int:
    """Count the numbers of a row's states in all layers of linear attention."""
    linear = (getattr(text, "layer_types", None) or []).count("linear_attention")
    if not linear or not hasattr(text, "linear_num_value_heads"):
        return 0
    keys, values = text.linear_key_head_dim, text.linear_value_head_dim
    convolved = 2 * text.linear_num_key_heads * keys + text.linear_num_value_heads * values
    return linear * int(text.linear_num_value_heads * keys * values + text.linear_conv_kernel_dim * convolved)


def generation(shape: Shape, number: int, picture: int, crop: int, config: GenConfig) -> int:
    """Return the bytes for the answer pass, whose prompts are the longest, with a chunk of like pictures.

    number: bytes of one. picture, crop: tokens of an image and of its largest crop.
    """
    each = 2 * config.attempts  # responses to a question; those that fit a batch stay together
    rows = min(config.batch_size // each * each or config.batch_size, config.chunk_size * each)
    prompt = picture + crop + WORDS
    after = rows * (crop + WORDS)
    read = max(after, -(-rows // each) * picture) if shape.shares_prefix else rows * prompt
    work = max(number * read * (2 * shape.hidden + 3 * shape.intermediate), 8 * rows * shape.vocabulary)
    cache = rows * ((prompt + config.max_new_tokens) * shape.cache + shape.state)
    kept = min(number * config.chunk_size * (picture + each * crop) * shape.features, KEPT_BYTES)
    weights = number * shape.parameters
    if config.quantize:
        weights = number * (shape.parameters - shape.linears) + round(_FOUR_BITS * shape.linears)
    return weights + number * cache + work + kept


def training(shape: Shape, number: int, picture: int, stage: str, tuning: str) -> int:
    """Return the bytes for a step of a stage with its default options. tuning: one of TUNINGS."""
    rows = ROWS[stage] * STAGES[stage].config().batch_size
    tokens = (picture if stage == "rl1" else 2 * picture) + WORDS + REPLY
    layer = 10 * shape.hidden + 3 * shape.intermediate
    large = shape.parameters >= _LARGE
    kept = shape.hidden * shape.layers + layer if large else layer * shape.layers
    step = number * rows * tokens * kept + 8 * rows * REPLY * shape.vocabulary
    return step + _states(shape, number, stage, tuning)


def _states(shape: Shape, number: int, stage: str, tuning: str) -> int:
    """Return the bytes of weights, gradients, AdamW's states and the reference."""
    if tuning == "full":
        reference = 0 if stage == "sft" else number * shape.parameters
        return 4 * shape.parameters + 12 * shape.language + reference
    frozen = number * shape.parameters
    if tuning == "4 bits":
        frozen = 4 * (shape.parameters - shape.linears) + round(_FOUR_BITS * shape.linears)
    return frozen + (16 if stage == "sft" else 20) * shape.adapter
