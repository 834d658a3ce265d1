"""Find a model and identify it exactly.

A model folder is what `save_pretrained` writes: full weights, or a peft adapter. Next to it lies
`visrl.json`, where this project records what a pipeline must agree on: the space in which the actor
writes boxes, the crop rule it was trained with, how it is shown pictures, and `origin_base`, the ORIGINAL model
from before any training, which is the critic. A folder without it is an ordinary model and gets the defaults.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from visrl_data.core.crops import CropRule
from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import AGAIN, HubFailure, attempt, careful_client, hub_api
from visrl_data.core.image_settings import ImageSettings
from visrl_data.models.model_files import check_weights, checked_record, read_object
from visrl_data.models.remote_code import check_code
from visrl_data.spotlight import ACTOR, BASE

RECORD = "visrl.json"
ALIASES = {"spotlight": ACTOR, "spotlight-base": BASE}
# Files of a model folder that shape its replies. Remote code is not fetched unless asked for.
_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_NOT_HASHED = {RECORD, "README.md", "trainer_state.json"}


class ModelReference(TypedDict):
    """Name a model and its exact files."""

    id: str
    digest: str


class ModelRecord(TypedDict, total=False):
    """The content of visrl.json: what a pipeline must agree on, and for a model trained here, how it was trained.

    prompts: the templates by prompt id. base: the full weights under an adapter. data: what it was trained on,
    with the rows' counts. merged_from: the adapter of a merged model. digest: of the files as the training wrote them.
    """

    box_space: str
    crop_rule: dict[str, float]
    origin_base: ModelReference
    base: ModelReference | None
    stage: str
    steps: int
    trained_from: ModelReference
    data: dict[str, Any]
    prompts: dict[str, str]
    max_pixels: int | None
    image_settings: ImageSettings
    versions: dict[str, str]
    merged_from: ModelReference
    digest: str


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on this disk.

    id: as the user wrote it (an alias, a path or a Hub id). revision: the commit for a Hub model.
    digest: sha256 over the names and contents of the files that shape its replies.
    base: for an adapter, the model under it. box_space, crop_rule: None when not recorded.
    origin_base: id of the original model; a model that records none is its own origin.
    steps: of an answer: 2, box and then answer; or 1, at once (the answer-only baselines).
    prompts: the templates that it was trained with, by name; empty when not recorded.
    max_pixels: the bound of the pictures that it was trained on; None for that of its processor. image_settings: how
    they were shown; None when not recorded.
    """

    id: str
    revision: str | None
    path: Path
    digest: str
    base: ModelFolder | None
    box_space: str | None
    crop_rule: CropRule | None
    origin_base: str
    steps: int = 2
    prompts: dict[str, str] = field(default_factory=dict, hash=False)
    max_pixels: int | None = None
    image_settings: ImageSettings | None = field(default=None, hash=False)

    @property
    def weights(self) -> ModelFolder:
        """The full weights: the base of an adapter, else the model itself."""
        return self.base or self


def find_model(model: str, trust_remote_code: bool = False, weights: bool = True) -> ModelFolder:
    """Resolve `ID[@REV]`: an alias of a shipped model, a local folder, or a Hub id (downloaded, cached).

    weights: False downloads no weights of a Hub id, which is enough to look at the model.

    Raises VisRLError when there is no such model, when its weights are not in safetensors, or when the weights
    under an adapter are not those that it was trained on (where its record keeps their digest).
    """
    path, revision = _locate(model, trust_remote_code, weights)
    record = read_record(path)
    base = None
    if (path / "adapter_config.json").is_file():
        base = find_model(_base_of(model, path), trust_remote_code, weights)
        if weights:
            _check_base(model, record.get("base"), base)
    elif not (path / "config.json").is_file():
        raise VisRLError(
            f"{model}: {path} holds neither config.json nor adapter_config.json, so it is no model folder. "
            "Give a folder written by save_pretrained, a Hub id, or nothing for the shipped Spotlight."
        )
    if weights:
        check_weights(model, path, "adapter_model.safetensors" if base else "*.safetensors")
    fallback = base or ModelFolder(model, revision, path, "", None, None, None, model)
    rule, origin = record.get("crop_rule"), record.get("origin_base")
    return ModelFolder(
        id=model,
        revision=revision,
        path=path,
        digest=digest_folder(path),
        base=base,
        box_space=record.get("box_space", fallback.box_space),
        crop_rule=CropRule(**rule) if rule else fallback.crop_rule,
        origin_base=origin["id"] if origin else fallback.origin_base,
        steps=record.get("steps") or 2,
        prompts={name.partition("@")[0]: text for name, text in (record.get("prompts") or {}).items()},
        max_pixels=record.get("max_pixels", fallback.max_pixels),
        image_settings=record.get("image_settings", fallback.image_settings),
    )


def read_record(folder: Path) -> ModelRecord:
    """Return the visrl.json of a model folder; empty where there is none. Raises VisRLError."""
    path = folder / RECORD
    return cast(ModelRecord, checked_record(path)) if path.is_file() else {}


def is_local(model: str) -> bool:
    """Tell whether a model is shipped or is a folder here. The base of a local adapter may still be on the Hub."""
    return model in ALIASES or Path(model).is_dir()


def fetch_model(model: str, trust_remote_code: bool = False) -> None:
    """Download what is not here yet of a Hub id, and of the model under an adapter. Raises VisRLError."""
    path, _ = _locate(model, trust_remote_code, weights=True)
    if (path / "adapter_config.json").is_file():
        fetch_model(_base_of(model, path), trust_remote_code)


def _check_base(adapter: str, expected: ModelReference | None, base: ModelFolder) -> None:
    digest = expected.get("digest") if expected else None
    if expected and digest and digest != base.digest:
        raise VisRLError(
            f"{adapter} is an adapter on {expected['id']} as it was (digest {digest[:12]}); "
            f"what lies there now has digest {base.digest[:12]}. "
            "Restore the old weights, or train the adapter again."
        )


def digest_folder(path: Path) -> str:
    """Return the sha256 over (name, content) of the files that shape a model's replies, in order of name."""
    total = hashlib.sha256()
    for file in sorted({f for pattern in _PATTERNS for f in path.glob(pattern)}):
        if file.name in _NOT_HASHED:
            continue
        with file.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(f"{file.name}\0{content}\n".encode())
    return total.hexdigest()


def _locate(model: str, trust_remote_code: bool, weights: bool) -> tuple[Path, str | None]:
    if model in ALIASES:
        return ALIASES[model], None
    if Path(model).is_dir():
        return Path(model).resolve(), None
    name, _, revision = model.partition("@")
    mistyped = not revision and "/" in name and Path(name).parent.is_dir()  # like models/rl3 beside models/rl2
    if mistyped or name.count("/") != 1 or name.startswith((".", "/")):
        raise VisRLError(
            f"No model {model!r}: it is no folder here, no Hub id (user/name or user/name@revision), "
            f"and none of the shipped ones ({', '.join(ALIASES)})."
        )
    return _download(name, revision or None, trust_remote_code, weights)


def _download(name: str, revision: str | None, trust_remote_code: bool, weights: bool) -> tuple[Path, str]:
    small = [*_PATTERNS[1:], *(["*.py"] if trust_remote_code else [])]

    def fetch(commit: str | None, patterns: list[str]) -> Path:
        download = hub_api().snapshot_download
        return Path(attempt("", lambda: download(name, revision=commit, allow_patterns=patterns), delays=AGAIN))

    try:
        with careful_client():
            path = fetch(revision, small)
            if weights:
                check_code(name, path, trust_remote_code)  # before the gigabytes
                path = fetch(path.name, [_PATTERNS[0], *small])
    except HubFailure as error:
        raise VisRLError(
            f"Model {name}{'@' + revision if revision else ''} could not be fetched from the Hub: {error.reason}. "
            "Check the id and the connection, or `hf auth login` for a gated model."
        ) from error
    return path, path.name  # a snapshot's folder is named by its commit


def _base_of(model: str, adapter: Path) -> str:
    """Return the id of the weights under an adapter. Raises VisRLError where it names none, or another adapter."""
    config = read_object(adapter / "adapter_config.json")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not base or not isinstance(base, str):
        raise VisRLError(f"{adapter}/adapter_config.json names no base_model_name_or_path; the adapter can't be used.")
    if (Path(base) / "adapter_config.json").is_file():
        raise VisRLError(
            f"{model} is an adapter on {base}, which is itself an adapter: expected full weights under it. "
            f"`visrl merge {shlex.quote(base)} -o DIR` makes some."
        )
    return f"{base}@{revision}" if revision and "/" in base and not Path(base).is_dir() else base
