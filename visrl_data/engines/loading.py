"""Loading a model and its processor for the transformers engine; the trainer loads the same way."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from visrl_data.errors import VisRLError
from visrl_data.models import ModelFolder

logger = logging.getLogger(__name__)


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """ "auto" is float32 on a CPU, where it makes runs repeatable, and bfloat16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    except KeyError:
        raise VisRLError(f"--dtype {dtype}: expected auto, float32, bfloat16 or float16.") from None


def load_processor(folder: ModelFolder, max_pixels: int | None, trust_remote_code: bool) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(folder.weights.path, trust_remote_code=trust_remote_code)
    except (ImportError, OSError, ValueError) as error:
        hint = " Install torchvision, which this model's processor needs." if "orchvision" in str(error) else ""
        raise VisRLError(f"The processor of {folder.id} could not be loaded: {_first_line(error)}.{hint}") from error
    if not hasattr(processor, "image_processor") or not getattr(processor, "chat_template", None):
        raise VisRLError(
            f"{folder.id} has no {'chat template' if hasattr(processor, 'image_processor') else 'image processor'}: "
            "expected an instruction-tuned image-text-to-text model."
        )
    images = processor.image_processor
    if getattr(images, "do_center_crop", False):
        # A centre crop hides the ends of the picture, where a box may lie: show the whole picture instead.
        crop = images.crop_size
        images.do_center_crop = False
        images.size = {"height": crop["height"], "width": crop["width"]}
    if max_pixels is not None:
        _limit_pixels(images, max_pixels, folder.id)
    return processor


def _limit_pixels(images: Any, max_pixels: int, model: str) -> None:
    if hasattr(images, "max_pixels"):
        images.max_pixels = max_pixels
        if isinstance(images.size, dict) and "longest_edge" in images.size:
            images.size = {**images.size, "longest_edge": max_pixels}
    else:
        logger.warning("%s sees pictures of a fixed size: --max-pixels changes nothing.", model)


def load_model(folder: ModelFolder, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder.weights.path, dtype=dtype, trust_remote_code=trust_remote_code
        )
    except (ImportError, OSError, ValueError) as error:
        raise VisRLError(f"{folder.weights.id} could not be loaded: {_first_line(error)}.") from error
    if folder.base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder.path, torch_dtype=dtype)
    return model.eval()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
