"""Merge an adapter into its base, for serving: an export, not a step of the training chain.

    visrl merge models/cars-rl2 -o models/cars-merged

The weights are added in float32 and written in the dtype of the base's. The original model stays on record: pairs
of a merged model are still judged by it.
"""

from __future__ import annotations

from pathlib import Path

from visrl_data.core import files
from visrl_data.core.errors import VisRLError
from visrl_data.models.model_folder import RECORD, ModelFolder, digest_folder, find_model, read_record


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
        _write(folder, work, trust_remote_code)
    return output


def _write(folder: ModelFolder, work: Path, trust_remote_code: bool) -> None:
    import torch
    from transformers import AutoProcessor

    from visrl_train.models import load_frozen, origin_record, portable_id, save_full

    save_full(load_frozen(folder, torch.float32, trust_remote_code), folder, work)
    AutoProcessor.from_pretrained(folder.weights.path, trust_remote_code=trust_remote_code).save_pretrained(work)
    record = {
        **read_record(folder.path),
        **({"box_space": folder.box_space} if folder.box_space else {}),
        **({"crop_rule": folder.crop_rule.as_dict()} if folder.crop_rule else {}),
        "origin_base": origin_record(folder),
        "base": None,
        "merged_from": {"id": portable_id(folder), "digest": folder.digest},
        "digest": digest_folder(work),
    }
    files.write_json(work / RECORD, record)
