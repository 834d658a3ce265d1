"""Load a model and its processor, for the transformers engine and for training."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.image_settings import ImageSettings
from visrl_data.engines.image_processing import limit_pixels, read_settings, show_whole
from visrl_data.engines.refusals import is_out_of_memory
from visrl_data.models.families import check_loadable, family_at, install_hint
from visrl_data.models.model_folder import ModelFolder


def best_device() -> str:
    """Return what --device auto is on this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_device(device: str) -> torch.device:
    """Return the device of --device. Raises UsageError for one that this machine does not have."""
    with contextlib.suppress(RuntimeError):  # torch's, for a name that is none
        picked = torch.device(best_device() if device == "auto" else device)
        if _has_device(picked):
            return picked
    raise UsageError(
        f"--device {device}: torch finds no such device here. Expected auto, cpu, cuda, cuda:1 or mps; `visrl doctor` "
        "shows what this machine has."
    )


def _has_device(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype of --dtype: "auto" is float32 on a CPU, where runs are then repeatable, else bfloat16."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    except KeyError:
        raise VisRLError(f"--dtype {dtype}: expected auto, float32, bfloat16 or float16.") from None


def load_processor(folder: ModelFolder, max_pixels: int | None, trust_remote_code: bool) -> Any:
    """Load a processor that shows whole images of at most max_pixels. Raises VisRLError with what is missing."""
    check_loadable(folder.id, folder.weights.path, trust_remote_code)
    try:
        processor = AutoProcessor.from_pretrained(folder.weights.path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises anything for files of another shape
        reason = f"{_first_line(error)}.{install_hint(error)}"
        raise VisRLError(f"The processor of {folder.id} could not be loaded: {reason}") from error
    if not hasattr(processor, "image_processor") or not getattr(processor, "chat_template", None):
        raise VisRLError(
            f"{folder.id} has no {'chat template' if hasattr(processor, 'image_processor') else 'image processor'}: "
            "expected an instruction-tuned image-text-to-text model."
        )
    family = family_at(folder.weights.path)
    show_whole(processor, family)
    _write_first_token(processor)
    if max_pixels is not None:
        limit_pixels(processor, family, max_pixels, folder.id)
    return processor


def _write_first_token(processor: Any) -> None:
    """Put the token that Molmo 2's processor adds to each text into its chat template, so that prompts are whole."""
    first = processor.tokenizer.bos_token or processor.tokenizer.eos_token
    template = processor.chat_template
    if type(processor).__name__ == "Molmo2Processor" and not template.startswith(first):
        processor.chat_template = first + template


def image_settings(folder: ModelFolder, processor: Any, max_pixels: int | None) -> ImageSettings:
    """Return how a model is shown pictures by its processor, which was loaded with this bound."""
    return read_settings(processor, family_at(folder.weights.path), max_pixels)


def load_image_settings(folder: ModelFolder, max_pixels: int | None, trust_remote_code: bool) -> ImageSettings:
    """Return how a model is shown pictures of at most max_pixels. Raises VisRLError."""
    return image_settings(folder, load_processor(folder, max_pixels, trust_remote_code), max_pixels)


def trained_images(folder: ModelFolder, bound: int | None, trust_remote_code: bool) -> ImageSettings | None:
    """Return how a model was shown pictures in training; None where its record tells neither that nor another bound."""
    if folder.image_settings is not None or folder.box_space is None or bound == folder.max_pixels:
        return folder.image_settings
    return load_image_settings(folder, folder.max_pixels, trust_remote_code)  # it records only the bound


def load_model(
    folder: ModelFolder,
    dtype: torch.dtype,
    trust_remote_code: bool,
    quantization: Any = None,
    device: torch.device | None = None,
) -> Any:
    """Load the weights, with the adapter on them if the folder is one. Raises VisRLError.

    quantization: what four_bits (quantization.py) returns. device: None leaves the place to transformers, which puts
    quantized weights on the current GPU and others in main memory.
    """
    check_loadable(folder.id, folder.weights.path, trust_remote_code)
    options = {
        **({} if quantization is None else {"quantization_config": quantization}),
        **({} if device is None else {"device_map": {"": device}}),
    }
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder.weights.path, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, **options
        )
        if folder.base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, folder.path, torch_dtype=dtype)
    except Exception as error:  # transformers, peft and safetensors raise anything for files of another shape
        if is_out_of_memory(error):
            raise
        raise VisRLError(f"{folder.id} could not be loaded: {_first_line(error)}.{install_hint(error)}") from error
    scale_logits(model)
    return model.eval()


def scale_logits(model: Any) -> None:
    """Scale the logits of Cohere's vision models as their language model, vLLM and TRL's loss do.

    Their classes in transformers 5.23 leave it out: sampling at a temperature of 1 would be at that of the scale.
    """
    scale = getattr(model.config.get_text_config(), "logit_scale", None)
    if scale is not None and "logit_scale" not in inspect.getsource(type(model).forward):
        model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits * scale)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text; with its name where the text alone says little, as a KeyError's."""
    line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return line if isinstance(error, ImportError | OSError | ValueError) and line else f"{type(error).__name__} {line}"
