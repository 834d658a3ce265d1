"""Settings of vLLM: those of --vllm-options, those that VisRL sets, and what is best where neither says anything.

Nothing here imports vLLM; vllm.py checks the names against the installed release.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from visrl_data.core.errors import UsageError

Options = Mapping[str, Any]

MAX_IMAGES = 2  # in one prompt: the image and a crop

# What VisRL sets itself, and the option of ours that moves it.
_OURS = {
    "model": "--model",
    "tokenizer": "--model",
    "revision": "--model ID@REVISION",
    "dtype": "--dtype",
    "trust_remote_code": "--trust-remote-code",
    "mm_processor_kwargs": "--max-pixels",
    "limit_mm_per_prompt": None,
    "enable_lora": None,
    "max_lora_rank": None,
    "structured_outputs_config": None,
    "seed": None,  # of vLLM; each reply has its own
}
# Where the work happens and how much at a time: no reply depends on it.
_NO_REPLY_DEPENDS_ON = {
    "gpu_memory_utilization", "kv_cache_memory_bytes", "enforce_eager", "tensor_parallel_size", "max_num_seqs",
    "max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill", "block_size",
    "use_tqdm_on_load",
}  # fmt: skip
_CPU_CACHE = 2 * 2**30  # bytes of the key-value cache, if a quarter of the free memory is more
_CPU_BLOCK = 32  # tokens; the CPU's attention takes multiples of it
_LLAVA_TOWERS = {"clip_vision_model", "siglip_vision_model", "pixtral"}  # that vLLM has of its own


def parse_vllm_options(text: str) -> dict[str, Any]:
    """Return the settings of NAME=VALUE,...; a value is JSON (a number, true), else a text. Raises UsageError."""
    options: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise UsageError(f"--vllm-options {text}: expected NAME=VALUE,..., such as max_model_len=8192.")
        try:
            setting = json.loads(value)
        except ValueError:
            setting = value
        if not _can_be_recorded(setting):
            raise UsageError(
                f"--vllm-options {name}={value}: expected no null and finite numbers. Leave it out for vLLM's default."
            )
        if name.replace("-", "_") in options:
            raise UsageError(f"--vllm-options {text}: {name} is there twice. Leave one of the two out.")
        options[name.replace("-", "_")] = setting
    return options


def _can_be_recorded(value: Any) -> bool:
    """Return whether config.toml can hold a JSON value: TOML has no null, and numbers are written as JSON has them."""
    if isinstance(value, float):
        return math.isfinite(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is not None and all(map(_can_be_recorded, items))


def check_vllm_options(options: Options, known: Collection[str], release: str) -> None:
    """Raise UsageError for a setting that VisRL makes itself or that vLLM does not have.

    known: the names of vLLM's own settings.
    """
    for name in options:
        if name in _OURS:
            hint = f" Use {_OURS[name]}." if _OURS[name] else ""
            raise UsageError(f"--vllm-options {name}: VisRL sets this itself.{hint}")
        if name not in known:
            like = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {like[0]}?" if like else ""
            raise UsageError(f"--vllm-options {name}: vLLM {release} has no such setting.{hint}")


def options_of_replies(options: Options) -> dict[str, Any]:
    """Return the settings on which replies depend, for a run's record."""
    return {name: value for name, value in sorted(options.items()) if name not in _NO_REPLY_DEPENDS_ON}


def default_options(config: Options, cpu: bool, free_memory: int) -> dict[str, Any]:
    """Return the settings for a model with this config.json on this machine.

    The context is as long as the memory allows. On a CPU: no compilation, which takes minutes; a cache of moderate
    size, for other programs are there too; whole prompts in one step, since seeds of a CPU know no pieces; small
    blocks, since a prompt shares only whole ones with others, and vLLM's 128 tokens hold more than many an image.
    """
    options: dict[str, Any] = {
        "max_model_len": -1,
        "model_impl": model_impl(config),
        "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
        "structured_outputs_config": {"backend": "guidance"},
    }
    if cpu:
        options |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "block_size": _CPU_BLOCK,
            "kv_cache_memory_bytes": min(_CPU_CACHE, free_memory // 4),
        }
    return options


def merge_options(defaults: Options, given: Options) -> dict[str, Any]:
    """Return the defaults with those of the user over them; a share of the memory replaces the default cache."""
    dropped = {"kv_cache_memory_bytes"} if "gpu_memory_utilization" in given else set()
    return {name: value for name, value in defaults.items() if name not in dropped} | dict(given)


def model_impl(config: Options) -> str:
    """Return vLLM's model_impl: "transformers" for a LLaVA with an image encoder that vLLM does not have."""
    tower = (config.get("vision_config") or {}).get("model_type")
    is_foreign = config.get("model_type") == "llava" and tower not in _LLAVA_TOWERS
    return "transformers" if is_foreign else "auto"
