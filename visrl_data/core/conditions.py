"""Compare what two pieces of work depend on: a run and its resumption, shards, devices, a training, merged runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from visrl_data.core.errors import VisRLError

_LONGEST = 120  # characters of a value in a message; prompts are longer


def check_same(
    subject: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    advice: str = "Choose another --output.",
    ignore: Collection[str] = (),
) -> None:
    """Raise VisRLError listing what differs between `old`, what the subject started with, and `new`.

    advice: what the user can do. ignore: dotted names of what may differ.
    """
    if lines := [f"  {name}: {change}" for name, change in differences(old, new, ignore).items()]:
        raise VisRLError("\n".join([f"{subject} started with different options:", *lines, advice]))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = ()) -> dict[str, str]:
    """Return "old -> new" for each value that differs, by its dotted name ("actor.device"), None as "unset".

    ignore: dotted names that are left out, with all below them.
    """
    before, after = (flatten(json.loads(json.dumps(side))) for side in (old, new))
    return {
        name: f"{_shown(before, name)} -> {_shown(after, name)}"
        for name in sorted({*before, *after})
        if not any(name == other or name.startswith(f"{other}.") for other in ignore)
        and before.get(name) != after.get(name)
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted names; an empty mapping has none."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _shown(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    text = "unset" if value is None else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
