"""Versions of the libraries that a run's rows depend on."""

from __future__ import annotations

import importlib.metadata
import platform

DISTRIBUTION = "visrl-toolkit"  # the name on a package registry; the import names and the command differ
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "pillow", "numpy", "pyarrow")


def library_versions() -> dict[str, str]:
    """Return the version of Python, of this package (key `visrl`) and of each library in LIBRARIES."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "visrl": visrl_version(), **libraries}


def visrl_version() -> str:
    """Return the version of this package."""
    return importlib.metadata.version(DISTRIBUTION)
