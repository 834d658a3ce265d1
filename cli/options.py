"""Command-line options: those of a config dataclass are made from its fields, those of several commands are here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_data.core.config import GenConfig, load_config
from visrl_data.core.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="Options from a file; flags win over it.")
]
Mix = Annotated[
    str | None,
    typer.Option(
        "--mix", metavar="FILE.toml", help="Several sources by counts or weights: the same as --source mix:FILE."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model. Only for models that you trust.")
]

PadSquare = Annotated[
    bool | None,
    typer.Option(
        "--pad-square/--no-pad-square",
        help="Pad the images of training rows to squares. Default: where the actor was shown padded squares.",
        show_default=False,
    ),
]

_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "dict[str, str]": str,
    "dict[str, Any]": str,
    "str | dict[str, str]": list[str],
    "str | list[str]": list[str],
}
_METAVARS = {
    "str": "TEXT",
    "int": "N",
    "float": "X",
    "dict[str, str]": "FIELD=COLUMN,...",
    "dict[str, Any]": "NAME=VALUE,...",
    "str | dict[str, str]": "[NAME=]DIR",
    "str | list[str]": "TEXT",
}


def with_options(kind: type, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an option for each field of a config dataclass to a command that accepts **options.

    An option that is not given is None and left to the file or the default. without: fields that get no flag.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = [
            p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD
        ]
        panel = ""
        for spec in dataclasses.fields(kind):
            panel = spec.metadata.get("panel", panel)
            if spec.name not in without:
                parameters.append(_make_parameter(spec, panel))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _make_parameter(spec: dataclasses.Field[Any], panel: str) -> inspect.Parameter:
    type_name = str(spec.type).removesuffix(" | None")
    kind = _TYPES[type_name]
    flag = "--" + spec.name.replace("_", "-")
    choices = spec.metadata.get("choices")
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=(spec.metadata["help"] + _default_text(spec)).replace("[", r"\["),  # else it is markup
        metavar="|".join(choices) if choices else _METAVARS.get(type_name),
        rich_help_panel=panel,
        show_default=False,
    )
    return inspect.Parameter(
        spec.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _default_text(spec: dataclasses.Field[Any]) -> str:
    if spec.default is None or spec.default is dataclasses.MISSING:
        return ""
    value = ("yes" if spec.default else "no") if isinstance(spec.default, bool) else spec.default
    return f" (default: {value})"


def parse_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, with their texts parsed to what the config's fields hold."""
    from visrl_data.engines.vllm_options import parse_vllm_options
    from visrl_data.sources.image_roots import parse_roots
    from visrl_data.sources.options import parse_columns

    values = {name: value for name, value in options.items() if value not in (None, [], ())}
    parsers = {"columns": parse_columns, "images_root": parse_roots, "vllm_options": parse_vllm_options}
    for name, parse in parsers.items():
        if name in values:
            values[name] = parse(values[name])
    if len(values.get("data", ())) == 1:
        (values["data"],) = values["data"]
    return values


def resolve_mix(options: dict[str, Any], mix: str | None, split: str | None = None) -> dict[str, Any]:
    """Turn --mix FILE into the source that it means; split: the default split of a mix. Raises UsageError."""
    if mix is None:
        return options
    if options["source"] is not None:
        raise UsageError(f"--mix {mix} with --source {options['source']}: expected one of them.")
    return {**options, "source": f"mix:{mix}", "split": options["split"] or split}


def make_gen_config(file: Path | None, options: dict[str, Any]) -> GenConfig:
    """Resolve the options of a run from a file and those given on the command line."""
    return load_config(file, parse_options(options))
