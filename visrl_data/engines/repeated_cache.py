"""Several replies to one prompt share its prefill: the prompt runs once, and its key-value cache is repeated.

For families whose prompts share no prefixes; those that do go through prefix_cache.py.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from visrl_data.engines.loaded_model import unwrapped
from visrl_data.engines.recurrent_cache import is_recurrent

_BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # inputs of a length of L


def decode_repeated(model: Any, inputs: dict[str, torch.Tensor], n: int, options: dict[str, Any]) -> torch.Tensor:
    """Prefill (B, L) once, then decode B * n rows from the repeated cache: tokens (B * n, L + new).

    The last token of the prompts runs in each row, followed by the row's own draw. It is cut from the cache after it
    was read, since PaliGemma's prompts attend to it; the state of linear attention can't be cut, and never sees it.
    """
    text = model.config.get_text_config()
    recurrent = is_recurrent(text)
    config = GenerationConfig(
        max_new_tokens=1,
        do_sample=False,
        return_dict_in_generate=True,
        pad_token_id=options["generation_config"].pad_token_id,
    )
    short = {name: inputs[name][:, :-1] for name in _BY_TOKEN if name in inputs} if recurrent else {}
    cache = model.generate(**inputs | short, **_new_cache(text), generation_config=config).past_key_values
    if not recurrent:
        cache.crop(-1)
    ids = inputs["input_ids"]
    cache.reorder_cache(torch.arange(len(ids), device=ids.device).repeat_interleave(n))
    inner: Any = getattr(unwrapped(model), "model", None)
    if getattr(inner, "rope_deltas", None) is not None:  # Qwen-VL keeps positions as model state
        inner.rope_deltas = inner.rope_deltas.repeat_interleave(n, dim=0)
    rows: torch.Tensor = model.generate(
        input_ids=ids.repeat_interleave(n, dim=0),
        attention_mask=inputs["attention_mask"].repeat_interleave(n, dim=0),
        past_key_values=cache,
        **options,
    )
    return rows


def _new_cache(text: Any) -> dict[str, Any]:
    """Return a cache that can be cut where a window or a chunk has dropped tokens; nothing for other models.

    text: the configuration of the language model.
    """
    if all(getattr(text, name, None) is None for name in ("sliding_window", "attention_chunk_size")):
        return {}
    cache = DynamicCache(config=text)
    if hasattr(cache, "activate_past_recording"):  # not in older releases of transformers
        cache.activate_past_recording()
    return {"past_key_values": cache}
