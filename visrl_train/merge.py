"""Merge an adapter into its base, for serving: an export, not a step of the training chain.

    visrl merge models/cars-rl2 -o models/cars-merged

The weights are added in float32 and written in the dtype of the base's. The processor is the adapter's, not the stock
one of the base: padding and bounds are those of the training, also for programs that do not read visrl.json. The
original model stays on record: pairs of a merged model are still judged by it.
"""

from __future__ import annotations

from pathlib import Path

from visrl_data.core import files
from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import check_images
from visrl_data.models.model_folder import RECORD, ModelFolder, ModelRecord, digest_folder, find_model, read_record


def merge(adapter: str, output: Path, trust_remote_code: bool = False) -> Path:
    """Write the merged model folder. Raises VisRLError for full weights, or when the output is not empty."""
    folder = find_model(adapter, trust_remote_code)
    if folder.base is None:
        raise VisRLError(
            f"{adapter} is no adapter: it holds full weights, which need no merge. "
            "Expected a folder with adapter_config.json."
        )
    files.check_new(output)
    with files.replace_folder(output, files.check_new) as work:
        _write(folder, work, output, trust_remote_code)
    return output


def _write(folder: ModelFolder, work: Path, output: Path, trust_remote_code: bool) -> None:
    import torch

    from visrl_data.engines.loading import image_settings, load_processor
    from visrl_train import card
    from visrl_train.models import load_frozen, origin_record, portable_id, save_full

    processor = load_processor(folder, folder.max_pixels, trust_remote_code)
    settings = image_settings(folder, processor, folder.max_pixels)
    if trained := folder.image_settings:
        advice = "Merge it with the versions of the libraries that its visrl.json names."
        check_images(f"In training, {folder.id}", trained, settings, folder.box_space or "", advice)
    save_full(load_frozen(folder, torch.float32, trust_remote_code), folder, work)
    processor.save_pretrained(work)
    record: ModelRecord = {
        **read_record(folder.path),
        **({"box_space": folder.box_space} if folder.box_space else {}),
        **({"crop_rule": folder.crop_rule.as_dict()} if folder.crop_rule else {}),
        "origin_base": origin_record(folder),
        "base": None,
        "max_pixels": folder.max_pixels,
        "image_settings": settings,
        "merged_from": {"id": portable_id(folder), "digest": folder.digest},
        "digest": digest_folder(work),
    }
    files.write_text(work / "README.md", card.render_merged(record, output))
    files.write_json(work / RECORD, record)
