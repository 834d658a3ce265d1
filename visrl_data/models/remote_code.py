"""Find code that a model's folder wants to be run, and refuse it where the user did not trust it.

transformers reads the names of classes from the folder's JSON files (`auto_map`), and asks on the terminal whether to
run them wherever it is not told; an attention kernel of the Hub (`attn_implementation`) is compiled code. Nothing of
that is left to a question here: without --trust-remote-code such a folder is refused before anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visrl_data.core.errors import VisRLError

_FILES = (
    *("config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "generation_config.json"),
)
# Fields that name the class of what a JSON object describes; one that transformers has itself needs no code.
_CLASSES = ("processor_class", "image_processor_type", "feature_extractor_type", "video_processor_type")
_KERNELS = ("attn_implementation", "_attn_implementation")
_DEPTH = 20


def check_code(model: str, path: Path, trust_remote_code: bool) -> None:
    """Raise VisRLError for a folder that can't be loaded without code of its own, unless that code is trusted."""
    if trust_remote_code:
        return
    _never_ask()
    for name in _FILES:
        if (path / name).is_file() and (code := next(_needed(_content(path / name)), None)):
            raise VisRLError(
                f"{model} can't be loaded without code that is not part of transformers: {name} names {code}. "
                "It was not run. Read that code; if you trust it, add --trust-remote-code. Or use a model that "
                "transformers has."
            )


def _never_ask() -> None:
    """Make transformers refuse where it would ask: not each of its loaders passes on that code is not trusted."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def _needed(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the code that a JSON value names and that has no counterpart in transformers."""
    if not isinstance(value, dict) or depth > _DEPTH:
        return
    if value.get("auto_map") and not _is_known(value):
        yield repr(value["auto_map"])[:120]
    for name in _KERNELS:
        if "/" in str(value.get(name) or ""):
            yield f"the kernel {value[name]!r}"
    for inner in value.values():
        yield from _needed(inner, depth + 1)


def _is_known(about: dict[str, Any]) -> bool:
    """Tell whether transformers has classes of its own for what a JSON object describes."""
    import transformers
    from transformers import CONFIG_MAPPING

    if "model_type" in about:
        return str(about["model_type"]) in CONFIG_MAPPING
    names = [about[field] for field in _CLASSES if about.get(field)]
    if "AutoTokenizer" in str(about["auto_map"]):
        names.append(about.get("tokenizer_class"))
    return bool(names) and all(isinstance(name, str) and hasattr(transformers, name) for name in names)


def _content(path: Path) -> Any:
    """Return a JSON file's content; None where it is not valid, which the loader reports."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
