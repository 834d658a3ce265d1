"""Random models in the shapes of Qwen2.5-VL-7B and LLaVA-1.5-7B, made on the GPU: no download, no weights on disk.

The processors and the tokenizers are those of models.py; the embeddings have as many rows as the real ones. The output
layer's rows of tokens that such a tokenizer does not have are zero, so that none is among the best 50 and replies are
texts. With 4 bits the weights go through transformers' own loading, as `--quantize` has it, from memory.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from benchmarks import models
from visrl_data.engines.loading import best_device

QWEN_TEXT = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "layer_types": ["full_attention"] * 28,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}  # fmt: skip
QWEN_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
LLAVA_TEXT = {
    "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128,
}  # fmt: skip
LLAVA_VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "projection_dim": 768,
}  # fmt: skip


def qwen7b(folder: Path) -> Path:
    """A model folder whose file of weights is empty."""
    return _emptied(models.qwen(folder), QWEN_TEXT, QWEN_VISION)


def llava7b(folder: Path) -> Path:
    """A model folder whose file of weights is empty."""
    return _emptied(models.llava(folder), LLAVA_TEXT, LLAVA_VISION)


def _emptied(folder: Path, text: dict[str, Any], vision: dict[str, Any]) -> Path:
    save_file({}, folder / "model.safetensors")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["text_config"] |= text
    config["vision_config"] |= vision
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


@contextlib.contextmanager
def made_in_place(attention: str = "sdpa") -> Iterator[None]:
    """While this is open, the weights of a folder by qwen7b or llava7b are random ones, made on the GPU."""
    load: Callable[..., Any] = AutoModelForImageTextToText.from_pretrained

    def make(path: Path, **options: Any) -> Any:
        return _random(path, attention, **options) if _is_empty(path) else load(path, **options)

    with mock.patch.object(AutoModelForImageTextToText, "from_pretrained", make):
        yield


def _is_empty(path: Path) -> bool:
    with safe_open(Path(path) / "model.safetensors", "pt") as held:
        return not held.keys()


def _random(path: Path, attention: str, dtype: torch.dtype, quantization_config: Any = None, **_: Any) -> Any:
    config = AutoConfig.from_pretrained(path)
    torch.manual_seed(0)  # the GPU's generator is seeded at random; two methods must have the same weights
    with torch.device(best_device()):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        model.get_output_embeddings().weight[models.VOCABULARY :] = 0
    if quantization_config is None:
        return model.eval()
    return type(model).from_pretrained(
        None, config=config, state_dict=model.state_dict(), dtype=dtype, quantization_config=quantization_config
    )
