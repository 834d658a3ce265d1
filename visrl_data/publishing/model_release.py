"""Prepare a trained model folder: its weights, settings, tokenizer and card are published, and nothing of this machine.

Paths that a stage recorded (the model that it started from, its data, a base in a folder) are cut to their last
part; the commands on the card get the model's address on the Hub. The folder itself is not changed: `copy` makes
another one, of links to the large files.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from visrl_cards.model_usage import HEADING, describe_usage
from visrl_data.core.errors import VisRLError
from visrl_data.core.files import write_json, write_text
from visrl_data.models.model_files import read_object
from visrl_data.models.model_folder import (
    ALIASES,
    RECORD,
    ModelFolder,
    ModelReference,
    digest_folder,
    find_model,
    read_record,
)
from visrl_data.runs.parts import shareable
from visrl_data.spotlight import MODEL_CARD

# What a stage writes of a model, with the record of its training. Everything else in its folder (checkpoints,
# optimizer state, pickles) is not published.
STAGE_FILES = (
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "config.toml", "metrics.jsonl", "curves.svg"
)  # fmt: skip
MODEL_FILES = (*STAGE_FILES, "additional_chat_templates/*", "README.md", "LICENSE*")
NOT_MODEL_FILES = ("trainer_state.json", "optimizer*", "scheduler*", "rng_state*")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# Words of a tokenizer may look like paths, and name none.
_WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "*.index.json")
_CARD = "README.md"


def is_model_file(path: str) -> bool:
    """Tell whether a file of a model folder is part of the model."""
    if "/" in path and not path.startswith("additional_chat_templates/"):
        return False
    return matches(path, MODEL_FILES) and not matches(path, NOT_MODEL_FILES)


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files of a model folder that are part of the model, by path."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {path: file for path, file in files.items() if is_model_file(path)}


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether a path matches one of the patterns."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def copy(folder: Path, target: Path) -> None:
    """Write the folder that is published. Raises VisRLError for a settings file that cannot be read."""
    folder = folder.resolve()
    names = {str(folder): folder.name} | {path: shareable(path) for path in _local_paths(folder)}
    for path, file in model_files(folder).items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if _is_settings(path) or path == _CARD:
            write_text(target / path, _without(file.read_text(encoding="utf-8"), names))
        else:
            (target / path).symlink_to(file)


def stamp(folder: Path, target: Path, address: str) -> None:
    """Put USER/NAME@TAG into the commands of the copy's card, where the card of `folder` names that folder."""
    if not (target / _CARD).is_file():
        return
    name, repo = re.escape(folder.resolve().name), re.escape(address.partition("@")[0])
    place = rf"(?:\S*/)?{name}|'(?:[^'\n]*/)?{name}|{repo}@\S+"  # a name with a space is quoted
    here = rf"^(visrl .*?(?:--model|--config|merge) )(?:{place})(/config\.toml)?'?(?!\S)"

    text = (target / _CARD).read_text(encoding="utf-8")
    text = re.sub(here, lambda match: match[1] + ("config.toml" if match[2] else address), text, flags=re.MULTILINE)
    write_text(target / _CARD, _with_usage(text, target, address))


def _with_usage(text: str, target: Path, address: str) -> str:
    """Return a card whose code for people without visrl loads USER/NAME@TAG, and the base that the copy names."""
    start = text.find(HEADING)
    if start < 0 or not (target / RECORD).is_file():
        return text
    end = text.find("\n## ", start)
    model, _, tag = address.partition("@")
    return f"{text[:start]}{describe_usage(read_record(target), model, tag)}\n{text[end:] if end > 0 else ''}"


def local_base(folder: Path) -> ModelFolder | None:
    """Return the model under an adapter where the Hub has none of it: a shipped model, or a folder of this machine."""
    base = find_model(str(folder), weights=False).base
    return None if base is None or base.revision is not None else base


def copy_base(base: ModelFolder, target: Path) -> None:
    """Write the folder that is published of the model under an adapter."""
    copy(base.path, target)
    if base.id in ALIASES and not (target / _CARD).exists():
        write_text(target / _CARD, MODEL_CARD.read_text(encoding="utf-8"))


def name_base(target: Path, base: Path, address: str) -> None:
    """Put USER/NAME@COMMIT into the copy of an adapter as its base. base: the folder that was published there."""
    name, _, commit = address.partition("@")
    _update(target / "adapter_config.json", {"base_model_name_or_path": name, "revision": commit})
    record = read_record(target)
    if record:
        reference: ModelReference = {"id": address, "digest": digest_folder(base)}
        before = record.get("base")
        same = before is not None and before["digest"] == record["origin_base"]["digest"]
        _update(target / RECORD, {"base": reference, **({"origin_base": reference} if same else {})})
    card = target / _CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if text.startswith("---\n") and not re.search(r"^base_model:", text, re.MULTILINE):
        write_text(card, text.replace("---\n", f"---\nbase_model: {name}\n", 1))


def _update(file: Path, values: dict[str, Any]) -> None:
    write_json(file, read_object(file) | values)


def notes(folder: Path) -> list[str]:
    """Return what the owner of a model folder should know before it is public."""
    notes = []
    pickles = sorted(f.name for f in folder.rglob("*") if f.suffix in PICKLES)
    if pickles:
        notes.append(f"Left out, since only safetensors are published: {', '.join(pickles)}.")
    if not (folder / _CARD).is_file():
        notes.append("The folder has no README.md, so the model will have no card.")
    elif not re.search(r"^license:", (folder / _CARD).read_text("utf-8"), re.MULTILINE):
        notes.append(f"{folder / _CARD} names no license. Choose one and add a line to its head: license: ID")
    for file, key in (("adapter_config.json", "base_model_name_or_path"), (RECORD, "origin_base")):
        value = json.loads((folder / file).read_text("utf-8")).get(key) if (folder / file).is_file() else None
        name = value.get("id", "") if isinstance(value, dict) else value
        if name and (Path(name).is_absolute() or (name in ALIASES and file != RECORD)):
            notes.append(_nobody_has(folder, file, name))
    return notes


def _nobody_has(folder: Path, file: str, name: str) -> str:
    what = f"the shipped model {name}" if name in ALIASES else f"the folder {name}"
    if file == RECORD:
        return f"{file} names {what} as the original model, the critic of later rounds; nobody else has it."
    where = shlex.quote(str(folder))
    return (
        f"{file} names {what} as its base; it is not on the Hub, so others can't load this adapter. Publish the base "
        f"with it (--with-base), or the merged model: visrl merge {where} -o DIR, then visrl push DIR."
    )


def _is_settings(path: str) -> bool:
    return path.endswith((".json", ".toml")) and not matches(path, _WORDS)


def _local_paths(folder: Path) -> Iterator[str]:
    """Yield every absolute path that a settings file of the folder holds as a value."""
    for file in (file for path, file in model_files(folder).items() if _is_settings(path)):
        read = tomllib.loads if file.suffix == ".toml" else json.loads
        try:
            values = read(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise VisRLError(f"{file} cannot be read: {error}. Nothing was sent.") from error
        yield from (text for text in _texts(values) if _is_local(text))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _is_local(text: str) -> bool:
    """Tell whether a text is an absolute path (of the file system, or of the user's home) with a name in it."""
    return "\n" not in text and shareable(text) not in ("", text) and len(PurePath(text).parts) > 1


def _without(text: str, names: dict[str, str]) -> str:
    """Cut each path in a text to its last part; a longer path first, since it may begin with a shorter one."""
    for path in sorted(names, key=len, reverse=True):
        text = re.sub(rf"{re.escape(path)}(?![\w.-])", names[path].replace("\\", "\\\\"), text)
    return text
