"""Check the files of a model folder before a loader reads them: which weights, where they are, and whether whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from visrl_data.core.boxes import SPACES
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import ImageSettings
from visrl_data.core.text import one_line

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LARGEST_HEADER = 100_000_000  # bytes; what safetensors itself reads


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises VisRLError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VisRLError(f"{path} is not valid JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise VisRLError(f"{path} holds no JSON object but {one_line(repr(content), 60)}, so it is no file of a model.")
    return content


def checked_record(path: Path) -> dict[str, Any]:
    """Read a visrl.json. Raises VisRLError for one that training did not write."""
    record = read_object(path)
    wrong = [name for name, is_sound in _RECORD.items() if record.get(name) is not None and not is_sound(record[name])]
    if wrong:
        raise VisRLError(f"{path}: {', '.join(wrong)} is not as training writes it. Copy or download the model again.")
    return record


def _is_rule(value: Any) -> bool:
    try:
        CropRule(**value)
    except (TypeError, ValueError, VisRLError):
        return False
    return True


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str) and isinstance(value.get("digest", ""), str)


def _are_prompts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _are_image_settings(value: Any) -> bool:
    try:
        _IMAGE_SETTINGS.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


_IMAGE_SETTINGS = TypeAdapter(ImageSettings)
_RECORD: dict[str, Callable[[Any], bool]] = {
    "box_space": lambda value: value in SPACES,
    "steps": lambda value: value in (1, 2),
    "crop_rule": _is_rule,
    "prompts": _are_prompts,
    "max_pixels": lambda value: isinstance(value, int) and value > 0,
    "image_settings": _are_image_settings,
    "origin_base": _is_reference,
    "base": _is_reference,
    "trained_from": _is_reference,
}


def check_weights(model: str, path: Path, pattern: str) -> None:
    """Raise VisRLError for weights in another format, in another folder, or cut short.

    Pickles run code when they are read. Weights outside the folder would not be in the model's digest. That none are
    there at all is left to the loader.
    """
    weights = sorted(path.glob(pattern))
    others = sorted(file.name for kind in _PICKLES for file in path.glob(kind))
    if others and not weights:
        raise VisRLError(
            f"{model}: {path} holds no {pattern}, only {others[0]}; weights are read from safetensors alone. "
            "Where you trust the files, load and save_pretrained them once, or take another revision."
        )
    for index in sorted(path.glob("*.safetensors.index.json")):
        _check_index(model, path, index)
    if (name := _named_weights(path)) is not None and not _is_here(path, name):
        raise VisRLError(f"{model}: {path}/config.json names the weights {one_line(name)}, {_OUTSIDE}")
    for file in weights:
        if problem := _damage(file):
            raise VisRLError(f"{model}: {file} {problem}. Copy or download it again.")


_OUTSIDE = "which are no safetensors file in that folder. Put all weights beside config.json, or take another revision."


def _check_index(model: str, path: Path, index: Path) -> None:
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict):
        raise VisRLError(f"{model}: {index} has no weight_map. Copy or download it again.")
    for name in sorted({str(name) for name in names.values()}):
        if not _is_here(path, name):
            raise VisRLError(f"{model}: {index} names the weights {one_line(name)}, {_OUTSIDE}")


def _named_weights(path: Path) -> str | None:
    name = read_object(path / "config.json").get("transformers_weights") if (path / "config.json").is_file() else None
    return None if name is None else str(name)


def _is_here(path: Path, name: str) -> bool:
    """Tell whether a name is that of a safetensors file, or an index of some, in a folder itself."""
    is_plain = name.endswith((".safetensors", ".safetensors.index.json")) and Path(name).name == name
    return is_plain and (path / name).is_file()


def _damage(file: Path) -> str:
    """Say what is wrong with a safetensors file, by its header and its size; "" when nothing is."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            return "is no safetensors file, or was cut short"
        try:
            header = json.loads(handle.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return "has a damaged header"
    return "" if size == expected else f"has {size} bytes, its header says {expected}"
