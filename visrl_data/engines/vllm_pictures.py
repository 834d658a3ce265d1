"""Make vLLM show a model the pictures that the transformers engine shows, and check that it does.

vLLM builds a processor of its own from the files of a model, and so without what loading.py sets: whole pictures
where the files say to crop the center, and --max-pixels. It gets a folder with links to the model's files and, in
place of its processor's settings, those of ours.

Whether that was enough is not looked up but tried, before anything is generated: what vLLM would feed the model for
a few pictures is compared with what the transformers engine would, token ids and pixels. A model for which they
differ is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import cache_folder
from visrl_data.core.prompts import PromptPart
from visrl_data.core.text import one_line
from visrl_data.engines.messages import adds_special, prompt_text
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.models.model_files import read_object
from visrl_data.models.model_folder import ModelFolder

_SETTINGS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_PROBES = (((640, 480), (50, 40)), ((300, 900),), ((900, 200),))  # an image and a crop; a tall and a wide image
TOLERANCE = 1e-3  # of normalized pixels; one level of 255 is over 0.01


def link_model(model: ModelFolder, processor: Any) -> Path:
    """Return a folder with links to a model's files, and with the settings of `processor` in place of its own.

    It is the same folder each time, because vLLM finds its compiled graphs by the path of a model. Raises VisRLError.
    """
    content = {**_settings(processor), **_config(model, processor)}
    code = sorted(file.name for file in model.path.glob("*.py"))  # in no digest, and fetched with trust alone
    key = json.dumps([str(model.path), model.digest, {name: content[name].decode() for name in sorted(content)}, *code])
    folder = cache_folder("vllm") / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not (folder.is_dir() and all(file.exists() for file in folder.iterdir())):
        try:
            _write_links(model.path, content, folder)
        except OSError as error:
            raise VisRLError(
                f"Links to {model.id} for vLLM could not be written: {error}. Set VISRL_CACHE to a folder of yours."
            ) from error
    return folder


def _settings(processor: Any) -> dict[str, bytes]:
    """Return the files in which a processor keeps its settings, those of its tokenizer apart."""
    with tempfile.TemporaryDirectory(prefix="visrl-processor-") as name:
        processor.save_pretrained(name)
        processor.image_processor.save_pretrained(name)
        files = [Path(name) / file for file in _SETTINGS]
        return {file.name: file.read_bytes() for file in files if file.is_file()}


def _config(model: ModelFolder, processor: Any) -> dict[str, bytes]:
    """Return the config.json of a model that lays out tiles by pinpoints, with those of its processor."""
    pinpoints = getattr(processor.image_processor, "image_grid_pinpoints", None)
    if pinpoints is None:
        return {}
    config = {**read_object(model.path / "config.json"), "image_grid_pinpoints": pinpoints}
    return {"config.json": json.dumps(config, indent=2).encode()}


def _write_links(model: Path, content: Mapping[str, bytes], folder: Path) -> None:
    """Write the folder beside its place and move it there, so that it is never seen in part."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as name:
        links = Path(name) / "links"
        links.mkdir()
        for file in model.iterdir():
            if file.is_file() and file.name not in {*_SETTINGS, *content}:
                (links / file.name).symlink_to(file.resolve())
        for file_name, text in content.items():
            (links / file_name).write_bytes(text)
        shutil.rmtree(folder, ignore_errors=True)  # one whose links lead nowhere
        try:
            os.replace(links, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model is fed for one prompt: token ids, and the normalized pixels of its pictures, in order.

    pixels: (values,), without columns of zeros, which pad a picture of fewer or of smaller tiles than another.
    """

    ids: list[int]
    pixels: Any


def check_pictures(model: str, llm: Any, processor: Any, special: Sequence[str]) -> None:
    """Raise VisRLError when vLLM would show a model other pictures than the transformers engine."""
    for number, sizes in enumerate(_PROBES):
        images = tuple(_noise(number, size) for size in sizes)
        parts = (PromptPart("image"), PromptPart("text", "What is this?"), PromptPart("crop"))[: 2 * len(images) - 1]
        text = prompt_text(Request(parts, images, (0,), Sampling()), processor, special)
        own = own_input(processor, text, images)
        try:
            difference = compare(own, vllm_input(llm, processor, text, images))
        except Exception as error:  # so does vLLM's code for one family or another
            difference = f"nothing ({one_line(error)})"
        if difference:
            shapes = " and ".join(f"{width} x {height}" for width, height in sizes)
            raise VisRLError(
                f"{model}: for pictures of {shapes} pixels vLLM feeds this model {difference}, unlike the transformers "
                "engine. Boxes and scores would be about other pictures than those that VisRL trains on. "
                "Use --engine transformers."
            )


def compare(own: ModelInput, other: ModelInput) -> str:
    """Say in what the other input differs; "" where it is the same."""
    if own.ids != other.ids:
        return f"other tokens ({len(other.ids)}, not {len(own.ids)})"
    if len(own.pixels) != len(other.pixels):
        return f"pictures of other sizes ({len(other.pixels):,} values, not {len(own.pixels):,})"
    gap = pixel_gap(own, other)
    return f"other pixels (by up to {gap:.3g})" if gap > TOLERANCE else ""


def pixel_gap(own: ModelInput, other: ModelInput) -> float:
    """Return the largest difference of a pixel, in the dtype of the other: a model gets its own as that, too."""
    return float((own.pixels.to(other.pixels.dtype).float() - other.pixels.float()).abs().max())


def own_input(processor: Any, text: str, images: Sequence[Image.Image]) -> ModelInput:
    """Return the input that the transformers engine makes of a prompt's text and its pictures."""
    batch = processor(
        text=[text], images=[list(images)], add_special_tokens=adds_special(processor, text), return_tensors="pt"
    )
    return ModelInput(batch["input_ids"][0].tolist(), _pixels(batch, processor.image_processor))


def vllm_input(llm: Any, processor: Any, text: str, images: Sequence[Image.Image]) -> ModelInput:
    """Return the input that vLLM makes of them."""
    renderer = llm.renderer
    params = renderer.default_cmpl_tok_params.with_kwargs(add_special_tokens=adds_special(processor, text))
    prompt = {"prompt": text, "multi_modal_data": {"image": list(images)}}
    [rendered] = renderer.render_cmpl([prompt], params, skip_mm_cache=True)
    return ModelInput(
        list(rendered["prompt_token_ids"]), _pixels(rendered["mm_kwargs"].get_data(), processor.image_processor)
    )


def _pixels(inputs: Mapping[str, Any], images: Any) -> Any:
    """Return the pixels in a processor's output. Bytes, which vLLM normalizes on the device, are normalized here."""
    import torch

    [values] = [value for name, value in inputs.items() if name.startswith("pixel_values")]
    tensors = [_columns(value) for value in (values if isinstance(values, list) else [values])]
    tensors = [_normalized(rows, images) if rows.dtype == torch.uint8 else rows for rows in tensors]
    return torch.cat([rows[rows.abs().amax(dim=1) > 0].flatten() for rows in tensors])


def _columns(values: Any) -> Any:
    """Return pixels in rows: of one patch each, as Qwen's come, or of one column of a tile (channels, height, width).

    By columns because MiniCPM-V's slices are side by side in one tensor here, and apart with padding there.
    """
    return values if values.dim() == 2 else values.movedim(-1, -3).flatten(-2).flatten(0, -2)


def _normalized(patches: Any, images: Any) -> Any:
    """Return bytes of patches (rows, channels * values) as the image processor normalizes them."""
    import torch

    mean, std = (torch.tensor(values).view(1, -1, 1) for values in (images.image_mean, images.image_std))
    channels = patches.view(len(patches), mean.shape[1], -1)
    return ((channels * images.rescale_factor - mean) / std).flatten(1)


def _noise(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("RGB", (12, 9), random.Random(seed).randbytes(12 * 9 * 3)).resize(size)
