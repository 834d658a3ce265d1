"""Do what image processors of transformers take from torchvision, in torch alone, where torchvision is not installed.

Some families have no image processor on PIL. Theirs is the real one here; the functions under it are the few lines of
torch that torchvision's are for tensors. With torchvision 0.28 beside torch 2.13 they give the same bytes.
"""

import enum
import functools
import importlib.util
import sys
import types

import pytest
import torch
from PIL.Image import Resampling
from torch.nn import functional as torch_functional
from transformers import image_processing_backends, processing_utils


class InterpolationMode(enum.Enum):
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True):
    """Resize (..., channels, height, width)."""
    flat = image.reshape(-1, *image.shape[-3:])
    resized = torch_functional.interpolate(
        flat, size=list(size), mode=interpolation.value, align_corners=False, antialias=antialias
    )
    return resized.reshape(*image.shape[:-2], *size)


def pad(image, padding, fill=0, padding_mode="constant"):
    """Pad (..., channels, height, width) on the left, top, right and bottom. fill: one, or one for each channel."""
    left, top, right, bottom = padding
    fills = fill if isinstance(fill, list | tuple) else [fill or 0] * image.shape[-3]
    channels = zip(image.unbind(dim=-3), fills, strict=True)
    return torch.stack(
        [torch_functional.pad(c, (left, right, top, bottom), value=value) for c, value in channels], dim=-3
    )


def normalize(image, mean, std, inplace=False):
    mean, std = (torch.as_tensor(values, dtype=image.dtype).view(-1, 1, 1) for values in (mean, std))
    return (image - mean) / std


# Classes that transformers hides without torchvision, though torchvision is all that they need.
HIDDEN = {
    "Cohere2VisionImageProcessor": "cohere2_vision.image_processing_cohere2_vision",
    "Kimi_K25ImageProcessor": "kimi_k25.image_processing_kimi_k25",
    "Llama4ImageProcessor": "llama4.image_processing_llama4",
    "PixtralProcessor": "pixtral.processing_pixtral",
}


def stand_in_for_torchvision(monkeypatch):
    if importlib.util.find_spec("torchvision") is not None:
        return
    modes = {Resampling[mode.name]: mode for mode in InterpolationMode if mode.name in Resampling.__members__}
    monkeypatch.setattr(image_processing_backends, "tvF", sys.modules[__name__], raising=False)
    monkeypatch.setattr(image_processing_backends, "pil_torch_interpolation_mapping", modes)
    for name, real in _hidden_classes().items():
        folder = sys.modules[real.__module__.rpartition(".")[0]]
        for place in (processing_utils.transformers_module, folder):
            monkeypatch.setattr(place, name, real, raising=False)


@functools.cache
def _hidden_classes():
    """Import them with this module in torchvision's place."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[names[-1]].functional = sys.modules[__name__]
        modules = {name: importlib.import_module(f"transformers.models.{path}") for name, path in HIDDEN.items()}
    return {name: getattr(module, name) for name, module in modules.items()}
