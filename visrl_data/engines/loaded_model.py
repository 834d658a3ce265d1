"""What the transformers engine asks of a loaded model and switches in it, with or without an adapter around it."""

from __future__ import annotations

import contextlib
from typing import Any

from transformers import GenerationConfig


def unwrapped(model: Any) -> Any:
    """Return the model under an adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def adapter(model: Any, on: bool) -> Any:
    """Return a context in which the adapter, if there is one, is on or off."""
    return contextlib.nullcontext() if on or not hasattr(model, "disable_adapter") else model.disable_adapter()


def keep_token_ids(model: Any) -> None:
    """Drop all but the token ids of a model's generation_config.

    transformers takes from it what a request leaves open, and applies that before our sampling: Qwen2.5-VL ships a
    temperature of 1e-6, which makes all samples of a prompt one and the same, and a repetition penalty.
    """
    settings = unwrapped(model).generation_config.to_dict()
    token_ids = {name: value for name, value in settings.items() if name.endswith("_token_id")}
    model.generation_config = unwrapped(model).generation_config = GenerationConfig(**token_ids)


def eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a reply: those of the model and that of its tokenizer."""
    ids = model.generation_config.eos_token_id
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return sorted({*ids, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])})
