"""Define what run.json and manifest.json hold. The keys are part of the format: runs made before have them too.

What is read back is checked against these types (core/reading.py), and by the functions here where a type says too
little.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Len
from pydantic import AfterValidator, TypeAdapter
from typing_extensions import TypedDict

from visrl_data.core.image_settings import ImageSettings
from visrl_data.core.prompts import recorded_prompts
from visrl_data.engines.protocol import ModelIdentity

Count = Annotated[int, Ge(0)]


def _check_paths(digests: dict[str, str]) -> dict[str, str]:
    """Refuse a path that leads out of the folder."""
    for name in digests:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise ValueError(f"{name!r} is no path inside the folder")
    return digests


Digests = Annotated[dict[str, str], AfterValidator(_check_paths)]
"""sha256 by path."""


def _check_prompts(templates: dict[str, str]) -> dict[str, str]:
    try:
        recorded_prompts(templates)
    except TypeError:
        raise ValueError(f"expected the prompts of visrl, got {', '.join(templates)}") from None
    return templates


Prompts = Annotated[dict[str, str], AfterValidator(_check_prompts)]
"""Template by id."""


class _ReadOptions(TypedDict):
    """The options of a run that are read by name after it is made."""

    model: str
    seed: int
    round: int
    attempts: Annotated[int, Ge(1)]
    chunk_size: Annotated[int, Ge(1)]
    gold_rule: str


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a run that its readers can rely on. Raises ValueError."""
    _READ_OPTIONS.validate_python(options, strict=True)
    return options


_READ_OPTIONS = TypeAdapter(_ReadOptions)
Options = Annotated[dict[str, Any], AfterValidator(check_options)]
"""The resolved options, by name; those without a value are absent."""


class SourceIdentity(TypedDict):
    """A source as a run read it. rows: after --skip and --limit."""

    name: str
    rows: Count
    fingerprint: str


class RunIdentity(TypedDict):
    """run.json: what the rows of a run depend on besides its options.

    prompts: template by id. versions: of Python and the libraries. origin_base: id and digest of the original base
    model, which every later stage and round inherits as its critic. zero_shot: the family whose conventions are used,
    for an actor that was not trained here. image_settings: how the actor was shown pictures; absent in runs of earlier
    versions, and where a server showed them.
    """

    schema_version: int
    source: SourceIdentity
    actor: ModelIdentity
    critic: ModelIdentity
    box_space: str
    crop_rule: dict[str, float]
    prompts: Prompts
    deterministic: bool
    versions: dict[str, str]
    origin_base: NotRequired[dict[str, str]]
    zero_shot: NotRequired[str]
    image_settings: NotRequired[ImageSettings]


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
    """The thresholds that the pairs of a run were last picked with (Eq. 4). lose: absent for uniform."""

    box_win: float
    box_lose: float
    response_win: float
    response_lose: float
    box_critic: bool
    lose: NotRequired[Literal["actor-first", "hardest"]]


class RunCounts(TypedDict):
    """The rows of a finished run by table."""

    questions: Count
    candidates: Count
    drops: Count
    images: Count
    pairs: Count


class RunManifest(TypedDict):
    """manifest.json of a finished run."""

    run: RunIdentity
    config: Options
    filter: FilterSettings
    counts: RunCounts
    sha256: Digests


def bound_of_images(run: RunManifest) -> int | None:
    """Return the --max-pixels of a run: its option, or that which its actor was trained with."""
    settings, option = run["run"].get("image_settings"), run["config"].get("max_pixels")
    return settings["max_pixels"] if settings else option


class CriticSummary(TypedDict):
    """The figures of one critic that a card shows; shares in [0, 1], intervals as (low, high)."""

    cases: int
    thresholds: list[float]
    auc: float | None
    auc_interval: list[float] | None
    false_wins: float | None
    false_wins_interval: list[float] | None
    false_loses: float | None
    false_loses_interval: list[float] | None
    unparsed: float | None
    warnings: list[str]


class CalibrationSummary(TypedDict):
    """The last calibration of a critic. questions: of that source and split. folder: where it is, only on this disk."""

    key: str
    critic: str
    source: str
    split: str
    questions: int
    box: CriticSummary | None
    response: CriticSummary | None
    folder: NotRequired[str]


class DatasetRun(RunManifest):
    """A run as the manifest of a dataset has it: without the paths of the machine that made it.

    calibration: the last one of its critic, where there was one; it is no part of what the id is a digest of.
    """

    id: str
    calibration: NotRequired[CalibrationSummary]


class ReleaseFields(TypedDict):
    """What a release writes into the manifest of a dataset.

    previous: the tag before this one. space: the Space that shows its report, where there is one.
    """

    data_version: str | None
    hub_id: str | None
    pretty_name: str | None
    languages: list[str]
    previous: str | None
    changes: list[str]
    space: NotRequired[str]


class SourceTerms(TypedDict):
    """One source under one license, as licenses.SourceLicense."""

    source: str
    license: str
    questions: Count
    images: Count
    withheld: Count
    overruled: Count


class DatasetLicense(TypedDict):
    """The license of a dataset by the Hub's name, and of its sources."""

    id: str
    name: str
    sources: list[SourceTerms]


class PairCounts(TypedDict):
    """Pairs in the runs, those of them that repeat another, and the rest, which is published."""

    in_runs: Count
    repeated: Count
    published: Count


class PartSummary(TypedDict):
    """What a run or an earlier dataset contributed. dataset, commit: null for a run."""

    dataset: str | None
    commit: str | None
    runs: list[str]
    questions: Count
    pairs: Count


class DatasetContents(ReleaseFields):
    """The manifest of a dataset as far as it is known before the files are written.

    pad_square: whether the pictures of rl1 and rl2 are padded to the square; absent in earlier versions.
    """

    kind: str
    schema_version: int
    generator_versions: list[str]
    builder_version: str
    runs: Annotated[list[DatasetRun], Len(1)]
    parts: list[PartSummary]
    pairs: PairCounts
    repeated_questions: Count
    images: Count
    unavailable: Count
    validation_share: float
    license: DatasetLicense
    ship_images: bool | None
    pad_square: NotRequired[bool]


class RebuiltImages(TypedDict):
    """Images that `visrl rebuild` put back, and those that it did not find."""

    found: Count
    missing: Count


class DatasetManifest(DatasetContents):
    """manifest.json of a dataset folder. counts: rows by config and split; sha256: of each other file, by path.

    rebuilt: images found and missing, only where `visrl rebuild` made the folder.
    """

    counts: dict[str, dict[str, Count]]
    example: str
    sha256: Digests
    rebuilt: NotRequired[RebuiltImages]
