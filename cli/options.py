"""Command-line options: those of a dataclass of options are made from its fields, shared ones are declared here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from visrl_data.config import GenConfig, load_config

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="Options from a file; flags win over it.")
]

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "dict[str, str]": str}


def takes_options(kind: type, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Append an option for each field of a dataclass of options to a command that accepts **options.

    An option that is not given is None and left to the file or the default. without: fields that get no flag.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD]
        made, panel = [], ""
        for spec in dataclasses.fields(kind):
            panel = spec.metadata.get("panel", panel)
            if spec.name not in without:
                made.append(_parameter(spec, panel))
        command.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *made]}
        return command

    return decorate


takes_gen_options = takes_options(GenConfig)


def _parameter(spec: dataclasses.Field[Any], panel: str) -> inspect.Parameter:
    kind = _TYPES[str(spec.type).removesuffix(" | None")]
    flag = "--" + spec.name.replace("_", "-")
    choices = spec.metadata.get("choices")
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=spec.metadata["help"] + _default_text(spec),
        metavar="|".join(choices) if choices else ("COLUMN=NAME,..." if "dict" in str(spec.type) else None),
        rich_help_panel=panel,
        show_default=False,
    )
    return inspect.Parameter(
        spec.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _default_text(spec: dataclasses.Field[Any]) -> str:
    if spec.default is None or spec.default is dataclasses.MISSING:
        return ""
    shown = ("yes" if spec.default else "no") if isinstance(spec.default, bool) else spec.default
    return f" (default: {shown})"


def gen_config(file: Path | None, options: dict[str, Any]) -> GenConfig:
    """The resolved options from those given."""
    from visrl_data.sources import parse_columns

    given = {name: value for name, value in options.items() if value is not None}
    if "columns" in given:
        given["columns"] = parse_columns(given["columns"])
    return load_config(file, given)
