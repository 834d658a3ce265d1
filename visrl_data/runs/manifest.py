"""Define what run.json and manifest.json hold. The keys are part of the format: runs made before have them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from visrl_data.engines.protocol import ModelIdentity


class SourceIdentity(TypedDict):
    """A source as a run read it. rows: after --skip and --limit."""

    name: str
    rows: int
    fingerprint: str


class RunIdentity(TypedDict):
    """run.json: what the rows of a run depend on besides its options.

    prompts: template by id. versions: of Python and the libraries. origin_base: id and digest of the original base
    model, which every later stage and round inherits as its critic. zero_shot: the family whose conventions are used,
    for an actor that was not trained here.
    """

    schema_version: int
    source: SourceIdentity
    actor: ModelIdentity
    critic: ModelIdentity
    box_space: str
    crop_rule: dict[str, float]
    prompts: dict[str, str]
    deterministic: bool
    versions: dict[str, str]
    origin_base: NotRequired[dict[str, str]]
    zero_shot: NotRequired[str]


def critic_identity(run: RunIdentity, config: Mapping[str, Any]) -> ModelIdentity | None:
    """Return the model that scored, under its own name and digest; None where no model did.

    Where the critic is the base under the actor's adapter, run.json has the actor's entry with `adapter` off.
    """
    if not config["box_critic"] and config["response_critic"] != "model":
        return None
    actor, critic, origin = run["actor"], run["critic"], run.get("origin_base", {})
    weights = critic.get("weights_digest")
    is_base = actor.get("adapter") and not critic.get("adapter") and weights not in (None, critic.get("digest"))
    if not is_base or weights is None:
        return critic
    name = origin["id"] if origin.get("digest") == weights else f"base of {critic.get('model', 'the actor')}"
    revision = name.partition("@")[2] or None
    return {**critic, "model": name, "revision": revision, "digest": weights}


class FilterSettings(TypedDict):
    """The thresholds that the pairs of a run were last picked with (Eq. 4)."""

    box_win: float
    box_lose: float
    response_win: float
    response_lose: float
    box_critic: bool


class RunManifest(TypedDict):
    """manifest.json of a finished run. config: the resolved options; counts: rows by table; sha256: by path."""

    run: RunIdentity
    config: dict[str, Any]
    filter: FilterSettings
    counts: dict[str, int]
    sha256: dict[str, str]


class DatasetRun(RunManifest):
    """A run as the manifest of a dataset has it: without the paths of the machine that made it."""

    id: str


class ReleaseFields(TypedDict):
    """What a release writes into the manifest of a dataset. previous: the tag before this one."""

    data_version: str | None
    hub_id: str | None
    pretty_name: str | None
    languages: list[str]
    previous: str | None
    changes: list[str]


class DatasetContents(ReleaseFields):
    """The manifest of a dataset as far as it is known before the files are written.

    parts: what each run or earlier dataset contributed.
    """

    kind: str
    schema_version: int
    generator_versions: list[str]
    builder_version: str
    runs: list[DatasetRun]
    parts: list[dict[str, Any]]
    pairs: dict[str, int]
    repeated_questions: int
    images: int
    unavailable: int
    validation_share: float
    license: dict[str, Any]
    ship_images: bool | None


class DatasetManifest(DatasetContents):
    """manifest.json of a dataset folder. counts: rows by config and split; sha256: of each other file, by path.

    rebuilt: images found and missing, only where `visrl rebuild` made the folder.
    """

    counts: dict[str, dict[str, int]]
    example: str
    sha256: dict[str, str]
    rebuilt: NotRequired[dict[str, int]]
