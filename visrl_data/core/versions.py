"""Versions of the libraries that a run's rows depend on."""

from __future__ import annotations

import importlib.metadata
import platform

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "pillow", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("visrl", *LIBRARIES)}
    return {"python": platform.python_version(), **found}
