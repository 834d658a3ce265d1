"""Load the language model in 4 bits (`--quantize`), for the transformers engine and for training.

NF4 with double quantization (QLoRA; Dettmers et al., 2023), by bitsandbytes. Only the linear layers of the language
model: the vision tower, the projector and the output layer stay as they are.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import torch
from torch import nn

from visrl_data.core.errors import VisRLError
from visrl_data.models.families import check_loadable, install_hint
from visrl_data.models.model_folder import ModelFolder

NF4 = "nf4"


def four_bits(folder: ModelFolder, dtype: torch.dtype, on_gpu: bool, trust_remote_code: bool) -> Any:
    """Return how transformers is to quantize a model. Raises VisRLError without a GPU or without bitsandbytes."""
    if not on_gpu:
        raise VisRLError("--quantize needs a GPU. Without one, leave it out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise VisRLError("--quantize needs bitsandbytes: pip install '.[quant]'.")
    return nf4(dtype, other_linears(empty_model(folder, trust_remote_code)))


def nf4(dtype: torch.dtype, kept: list[str]) -> Any:
    """Return the settings of NF4. kept: names of the layers that are not quantized."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def empty_model(folder: ModelFolder, trust_remote_code: bool = False) -> Any:
    """Build the model of a folder without storage for its weights. Raises VisRLError for a package that is missing."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText

    check_loadable(folder.id, folder.weights.path, trust_remote_code)
    config = AutoConfig.from_pretrained(folder.weights.path, trust_remote_code=trust_remote_code)
    try:
        with init_empty_weights():
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
        raise VisRLError(f"{folder.id} could not be built: {reason}.{install_hint(error)}") from error
    model.tie_weights()
    return model


def language_linears(model: Any) -> str:
    """Return a regular expression for the linear layers of the language model, and of nothing else.

    Names such as q_proj would match the vision tower too, which most families name alike. The output layer is
    left out: TRL multiplies by its weights directly, so an adapter on it would be ignored. So is Llama 4's router of
    experts, which returns more than a projection.
    """
    decoder, prefix = language_model(model)
    linears = {name: module for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    head = model.get_output_embeddings()
    leaves = {_leaf(name) for name, one in linears.items() if one is not head and not hasattr(one, "num_experts")}
    return rf"{re.escape(prefix)}\.(?:.*\.)?({'|'.join(map(re.escape, sorted(leaves)))})"


def _leaf(name: str) -> str:
    """Return the last part of a module's name; of an item of a list, whose last part is a number, the last two."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


def other_linears(model: Any) -> list[str]:
    """Return the linear layers that language_linears leaves out: tower, projector, output layer."""
    language = re.compile(language_linears(model))
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if not language.fullmatch(name)]


def language_model(model: Any) -> tuple[nn.Module, str]:
    """Return the language model inside a model, and its name there. Raises VisRLError."""
    decoder = model.get_decoder()
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    if not prefix:
        raise VisRLError(
            f"{type(model).__name__} has no language model that get_decoder() returns. "
            "Expected an image-text-to-text model of transformers."
        )
    return decoder, prefix
