"""A random model in the shape of Qwen2.5-VL-7B, made on the GPU: nothing is downloaded, no weights are written.

Used by generation.py on a machine with a GPU. The processor and the tokenizer are those of models.qwen; the embedding
has as many rows as the real one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from benchmarks import models
from visrl_data.engines import loading
from visrl_data.engines import transformers as engine
from visrl_data.models.model_folder import ModelFolder

TEXT = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "layer_types": ["full_attention"] * 28,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}  # fmt: skip
VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip


def qwen7b(folder: Path) -> Path:
    """A model folder whose file of weights is empty."""
    models.qwen(folder)
    save_file({}, folder / "model.safetensors")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["text_config"] |= TEXT
    config["vision_config"] |= VISION
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


@contextlib.contextmanager
def made_in_place() -> Iterator[None]:
    """While this is open, the weights of a folder by qwen7b are random ones, made on the GPU."""
    load = loading.load_model

    def make(folder: ModelFolder, dtype: torch.dtype, trust_remote_code: bool) -> Any:
        with safe_open(folder.weights.path / "model.safetensors", "pt") as held:
            if held.keys():
                return load(folder, dtype, trust_remote_code)
        with torch.device("cuda"):
            return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder.path), dtype=dtype).eval()

    with mock.patch.object(engine, "load_model", make):
        yield
