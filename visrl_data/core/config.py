"""Every option of a generation run, declared once.

A field's metadata is its help text; the command line makes its flags from these fields, a TOML file uses the
same names, and the resolved options are saved beside the output. Defaults that come from the paper's
public reference code say so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from visrl_data.core.errors import UsageError
from visrl_data.core.metrics import METRICS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The four tau of Eq. 4, in [0, 1], win above lose. Defaults: the paper's public code."""

    box_win: float = 0.8
    box_lose: float = 0.2
    response_win: float = 0.8
    response_lose: float = 0.2

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if not 0 <= value <= 1:
                raise ValueError(f"threshold {spec.name} is {value}; expected a number from 0 to 1")
        for score in ("box", "response"):
            win, lose = getattr(self, f"{score}_win"), getattr(self, f"{score}_lose")
            if win <= lose:
                raise ValueError(f"threshold {score}_win is {win}; it must be above {score}_lose, which is {lose}")


GOLD_RULES = ("any", "union", "bounding_box")  # gold_regions.py says what they mean
GOLD_SPACES = ("unit", "pixels")
GOLD_FORMATS = ("xyxy", "xywh")
ENGINES = ("transformers", "vllm", "openai")
LOSES = ("uniform", "actor-first", "hardest")  # pair_rule.py says what they mean


def option(default: Any, text: str, **extra: Any) -> Any:
    """Declare a documented field.

    extra: low, above (a low that is excluded), high, choices; panel opens a group in --help, which the fields after it
    join.
    """
    metadata = {"help": text, **extra}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenConfig:
    """The options of `visrl gen`. Raises UsageError when a value is out of its range."""

    model: str = option(
        "spotlight",
        "Actor: a Hub id[@rev], a model or adapter folder, or the shipped spotlight.",
        panel="Models and questions",
    )
    critic: str | None = option(None, "Critic; default: the ORIGINAL model that the actor was trained from.")
    source: str = option(
        "spotlight", "Questions: spotlight; a .jsonl, .json, .csv or .parquet file; a dataset folder; a Hub id."
    )
    split: str = option("train", "Split of the source to read.")
    limit: int | None = option(
        None, "Use the first N rows; default: all, and 200 of spotlight, which is endless.", low=1
    )
    skip: int | None = option(None, "Skip the first N rows; --limit counts the rows after them.", low=0)
    images_root: str | dict[str, str] | None = option(
        None,
        "Folder, .zip or .tar that image paths are relative to; NAME=DIR for one set. Repeatable. Default: the file's.",
    )
    allow_urls: str | None = option(
        None, "Fetch images from URLs of these hosts: a.org,*.b.org, or any. Default: none are fetched."
    )
    columns: dict[str, str] = option({}, "Column names of the source: question=q,answers=a,image=img,id=key,boxes=b.")
    gold_space: str = option("unit", "Coordinate space of the source's gold boxes.", choices=GOLD_SPACES)
    gold_format: str | None = option(
        None, "Format of the source's gold boxes: xyxy, two corners (default), or COCO's xywh.", choices=GOLD_FORMATS
    )
    ship_images: bool | None = option(
        None, "Whether the source's images may be redistributed; default: as the source states."
    )
    license: str | None = option(None, "License of rows that state none (an SPDX id).")

    attempts: int = option(
        3, "Attempts per question (the paper's N); each gives two candidates.", low=1, panel="Sampling"
    )
    max_attempts: int | None = option(
        None, "Go on, N attempts at a time and to this number at most, while a question has no pair; default: N.", low=1
    )
    stop_early: bool | None = option(None, "Make attempts one by one and end a question's with its first pair.")
    temperature: float = option(2.0, "Temperature of the actor in both passes (reference code: 2.0).", low=0.0)
    top_p: float = option(0.7, "Top-p of the actor, above 0 (reference code: 0.7); 1 is off.", above=0.0, high=1.0)
    top_k: int = option(50, "Top-k of the actor (reference code: 50); 0 is off.", low=0)
    max_new_tokens: int = option(64, "Maximum length of a reply, in tokens.", low=1)
    constrain: bool = option(
        False, "Constrain boxes and scores to their format by a grammar. Needs: pip install '.[grammar]'."
    )
    diversity: str = option(
        "attempt",
        "Keep an attempt's second box apart from its first box (attempt, the paper) or every earlier box (question).",
        choices=("attempt", "question", "off"),
    )
    iou_max: float = option(0.05, "tau of Eq. 3: boxes with a larger IoU are replaced.", low=0.0, high=1.0)
    area_slack: float = option(0.3, "delta of Eq. 3: maximum relative difference in area of a replacement.", low=0.0)
    box_space: str | None = option(
        None, "Coordinate space of the actor's boxes; default: as its folder records, else unit."
    )
    crop_min_side: float | None = option(
        None, "Minimum crop side, as a fraction of the longer image side.", low=0.0, high=1.0
    )
    crop_max_aspect: float | None = option(None, "Maximum aspect ratio of a crop.", low=1.0)

    box_critic: bool = option(True, "Score the boxes; without it, the response score alone decides.", panel="Scoring")
    response_critic: str = option(
        "model", "What scores the responses: the critic, or an answer metric.", choices=("model", *METRICS)
    )
    score_mode: str = option(
        "text",
        "Read the score from the critic's text, or take the expected score over the score tokens.",
        choices=("text", "expected"),
    )
    score_step: float = option(
        0.0, "Round scores to multiples of this step before the thresholds; 0: no rounding.", low=0.0, high=0.5
    )
    prompts: str | None = option(None, "TOML file with your own prompt templates.")
    lazy: bool = option(
        False, "Skip the response of a box whose score is between the thresholds: the same pairs, but a pool with gaps."
    )

    gold_rule: str = option(
        "any",
        "Audit of several gold boxes: IoU with the nearest, with the union of all, or with the bounding box of all.",
        choices=GOLD_RULES,
    )
    box_win: float = option(0.8, "Minimum box score of a win.", low=0.0, high=1.0, panel="Filtering")
    box_lose: float = option(0.2, "Maximum box score of a lose.", low=0.0, high=1.0)
    response_win: float = option(0.8, "Minimum response score of a win.", low=0.0, high=1.0)
    response_lose: float = option(0.2, "Maximum response score of a lose.", low=0.0, high=1.0)
    lose: str | None = option(
        None,
        "The lose among equally bad ones: any (uniform, default), the actor's own before the controller's "
        "(actor-first), the one that the actor found likeliest (hardest).",
        choices=LOSES,
    )

    seed: int = option(0, "Random seed.", panel="Running")
    round: int = option(0, "Round of self-evolution; part of every seed.", low=0)
    engine: str = option(
        "transformers",
        "What runs the models: transformers or vllm here, or a server with OpenAI's API.",
        choices=ENGINES,
    )
    base_url: str | None = option(None, "URL of the server, such as http://host:8000/v1; default: OPENAI_BASE_URL.")
    critic_engine: str | None = option(None, "Engine of the critic; default: that of the actor.", choices=ENGINES)
    critic_base_url: str | None = option(None, "URL of the critic's server; default: the actor's.")
    in_flight: int = option(16, "Concurrent requests to a server.", low=1)
    vllm_options: dict[str, Any] | None = option(
        None, "Settings of --engine vllm, by vLLM's own names: max_model_len=8192,gpu_memory_utilization=0.5."
    )
    device: str = option("auto", "Device: cpu, cuda, cuda:1, mps; auto: a GPU if there is one.")
    dtype: str = option("auto", "Compute dtype: float32, bfloat16, float16; auto: float32 on a CPU, else bfloat16.")
    quantize: bool | None = option(
        None, "Load the weights in 4 bits (transformers engine). Needs a GPU and: pip install '.[quant]'."
    )
    batch_size: int = option(32, "Sequences per batch; halved when memory runs out.", low=1)
    max_pixels: int | None = option(
        None, "Maximum pixels of an image, for models that take any size; default: as the model was trained.", low=1
    )
    chunk_size: int = option(16, "Questions per chunk, the unit of work and of resuming.", low=1)
    trust_remote_code: bool = option(False, "Run code that comes with a model. Only for models that you trust.")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))
        self.thresholds  # noqa: B018  (checks win > lose)
        check_score_step(self.score_step)
        if self.max_attempts is not None and self.max_attempts < self.attempts:
            raise UsageError(f"--max-attempts {self.max_attempts}: expected at least --attempts, {self.attempts}.")
        if self.lazy and not self.box_critic:
            raise UsageError("--lazy goes by the box scores, which --no-box-critic leaves out. Drop one of them.")

    @property
    def thresholds(self) -> Thresholds:
        try:
            return Thresholds(self.box_win, self.box_lose, self.response_win, self.response_lose)
        except ValueError as error:
            raise UsageError(str(error)) from error


def as_in_gen(name: str, **extra: Any) -> Any:
    """Return the option of `visrl gen` of that name. extra: metadata of its own, such as the panel."""
    spec = GenConfig.__dataclass_fields__[name]
    return dataclasses.field(default=spec.default, metadata={**spec.metadata, **extra})


def check_option(spec: dataclasses.Field[Any], value: Any) -> None:
    """Raise UsageError when a value is outside what its field declares."""
    flag = "--" + spec.name.replace("_", "-")
    if value is None:
        return
    low, above, high, choices = (spec.metadata.get(key) for key in ("low", "above", "high", "choices"))
    if choices and value not in choices:
        raise UsageError(f"{flag} {value}: expected one of {', '.join(choices)}.")
    # `not (a <= b)` so that NaN is refused too
    is_low = (low is not None and not value >= low) or (above is not None and not value > above)
    if is_low or (high is not None and not value <= high):
        least = f"at least {low}" if above is None else f"above {above}"
        bounds = least if high is None else f"between {low} and {high}" if above is None else f"{least}, at most {high}"
        raise UsageError(f"{flag} {value}: expected {bounds}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{flag} {value}: expected a finite number.")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the name of a file in an old encoding, which no record could hold
        raise UsageError(f"{flag} {value}: expected text in UTF-8. Rename the file or folder.") from None


def check_score_step(step: float) -> None:
    """Raise UsageError for a step of which 1 is no multiple: a perfect score would be rounded below 1."""
    if step and (step < 0.001 or abs(1 / step - round(1 / step)) > 1e-6):
        raise UsageError(
            f"--score-step {step:g}: expected 0 (no rounding), or a step from 0.001 to 0.5 that divides 1, such as "
            "0.1, 0.25 or 0.05."
        )


Config = TypeVar("Config", bound="DataclassInstance")

_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "dict[str, str]": dict,
    "dict[str, Any]": dict,
    "str | dict[str, str]": (str, dict),
    "str | list[str]": (str, list),
}


def load_config(path: Path | None, overrides: dict[str, Any]) -> GenConfig:
    """Read options from a TOML file, overridden by those of the command line.

    Raises UsageError for an unknown name or a value of the wrong type, with the names that exist.
    """
    values, where = read_options(path), f"--config {path}"
    check_trust(values, overrides, where)
    return make_config(GenConfig, values, overrides, where, command="visrl gen")


def check_trust(values: dict[str, Any], flags: dict[str, Any], where: str) -> None:
    """Refuse a file of options that lets the code of a model run: files come from elsewhere, flags from the user."""
    if values.get("trust_remote_code") and "trust_remote_code" not in flags:
        raise UsageError(
            f"{where}: trust_remote_code = true, which a file can't grant: it runs code that comes with the model. "
            "If you trust that model, add --trust-remote-code; else add --no-trust-remote-code."
        )


def read_options(path: Path | None) -> dict[str, Any]:
    """Return the options of a TOML file; none without a file. Raises UsageError."""
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        is_record = any((path.parent / name).exists() for name in _BESIDE_A_RECORD)
        return parse_record(text) if is_record else tomllib.loads(text)
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file. Expected a TOML file of options.") from None
    except IsADirectoryError:
        raise UsageError(f"--config {path} is a folder. Expected a TOML file, such as {path}/config.toml.") from None
    except (OSError, ValueError, RecursionError) as error:  # no file, no UTF-8, no TOML; lists in lists without end
        raise UsageError(f"--config {path}: {error}") from error


CONFIG_VERSION = 2
# Version 2: these values mean something else than before. A record that holds one states its version, so that an
# older one still means what it meant.
_BEFORE_VERSION_2 = {
    "response_critic": {"exact": "normalized"},
    "reward": {"exact": "normalized"},
    "--reward": {"exact": "normalized"},
    "evolve.score": {"normalised": "normalized"},
    "gold_rule": {"union": "bounding_box"},
}
_REMOVED = {"dialect"}  # options of earlier releases
_BESIDE_A_RECORD = ("run.json", "begun.json", "report.json", "visrl.json", "work")  # a config.toml that visrl wrote


def with_version(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as they are recorded: with CONFIG_VERSION where a value depends on it."""
    depends = any(options.get(name) in values for name, values in _BEFORE_VERSION_2.items())
    return options | {"config_version": CONFIG_VERSION} if depends else options


def current_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return recorded options with the names and values of today."""
    options = {name: value for name, value in options.items() if name not in _REMOVED}
    if options.get("config_version", 1) >= 2:
        return options
    return {name: _BEFORE_VERSION_2.get(name, {}).get(value, value) if isinstance(value, str) else value
            for name, value in options.items()}  # fmt: skip


def parse_record(text: str) -> dict[str, Any]:
    """Return the options of a config.toml that visrl wrote, with the values of today."""
    return current_options(tomllib.loads(text))


def make_config(
    kind: type[Config], values: dict[str, Any], overrides: dict[str, Any], where: str, command: str
) -> Config:
    """Build a dataclass of options from checked file values, with overrides. Raises UsageError."""
    specs = {spec.name: spec for spec in dataclasses.fields(kind)}
    values = {name: value for name, value in values.items() if name != "config_version"}
    for name, value in values.items():
        if name not in specs:
            raise UsageError(f"{where}: unknown option {name!r}; `{command} --help` lists them all.")
        expected = str(specs[name].type).removesuffix(" | None")
        if not _is_of_type(value, expected):
            raise UsageError(f"{where}: {name} = {value!r}: expected {expected}.")
    return kind(**(values | overrides))


def _is_of_type(value: Any, expected: str) -> bool:
    """Return whether a value of TOML is what the type of a field, as written in its class, says."""
    if isinstance(value, bool):
        return expected == "bool"
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    has_texts = "Any" in expected or all(isinstance(item, str) for item in items)
    return has_texts and isinstance(value, _TYPES[expected])


def to_toml(config: Any) -> str:
    """Return the resolved options of such a dataclass as TOML that `make_config` reads back, without unset ones."""
    options = {spec.name: getattr(config, spec.name) for spec in dataclasses.fields(config)}
    return "".join(f"{name} = {_toml(value)}\n" for name, value in with_version(options).items() if value is not None)


def _toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in sorted(value.items()))
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):  # JSON would write a character beyond U+FFFF as two surrogates, which TOML refuses
        parts = (json.dumps(c)[1:-1] if c <= "\uffff" else f"\\U{ord(c):08x}" for c in value)
        return f'"{"".join(parts)}"'
    return json.dumps(value)
