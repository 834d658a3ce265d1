"""Load the processor of a served model from its folder here, as a server loads it. Used by openai.py.

It tells how large a picture is shown, which tokens a text may not hold, and how long a prompt is. No weights are read.
"""

from __future__ import annotations

from typing import Any

from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import ImageSettings
from visrl_data.engines.image_processing import limit_pixels, read_settings
from visrl_data.models.families import check_loadable, family_at
from visrl_data.models.model_folder import ModelFolder
from visrl_data.models.served import ServedModel


def load_served_processor(model: ServedModel, trust_remote_code: bool) -> tuple[Any, ImageSettings | None, str]:
    """Return the processor and its settings; else None, None, and why there is none.

    It bounds pictures as the model was trained, and is otherwise as servers load it.
    """
    if model.folder is None:
        return None, None, "its folder is not on this machine"
    try:
        return *_load(model.folder, trust_remote_code), ""
    except VisRLError as error:
        return None, None, str(error).strip().partition("\n")[0].rstrip(".")


def _load(folder: ModelFolder, trust_remote_code: bool) -> tuple[Any, ImageSettings]:
    from transformers import AutoProcessor

    weights, family = folder.weights.path, family_at(folder.weights.path)
    check_loadable(folder.id, weights, trust_remote_code)
    try:
        processor = AutoProcessor.from_pretrained(weights, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises anything for files of another shape
        raise VisRLError(str(error) or type(error).__name__) from error
    for part in ("image processor", "chat template"):
        if not getattr(processor, part.replace(" ", "_"), None):
            raise VisRLError(f"it has no {part}")
    if folder.max_pixels is not None:
        limit_pixels(processor, family, folder.max_pixels, folder.id)
    return processor, read_settings(processor, family, folder.max_pixels)
