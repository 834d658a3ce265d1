"""An adapter and its base -> plain weights, for serving. An export, never a link in the chain.

    visrl merge models/cars-rl2 -o models/cars-merged

The sum is made in float32 and written in the type of the base's weights. The original model stays on record:
a merged model that makes new pairs is still judged by it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from visrl_data.core import files
from visrl_data.core.errors import VisRLError
from visrl_data.models.model_folder import RECORD, find_model


def merge(adapter: str, output: Path, trust_remote_code: bool = False) -> Path:
    """Write the merged model folder. Raises VisRLError when there is nothing to merge, or no room for it."""
    folder = find_model(adapter, trust_remote_code)
    if folder.base is None:
        raise VisRLError(
            f"{adapter} is no adapter: it holds full weights, merged already or never split. "
            "It can be used as it is; expected a folder with adapter_config.json."
        )
    if output.exists() and any(output.iterdir()):
        raise VisRLError(f"{output} is not empty. Choose another --output.")
    import torch
    from transformers import AutoProcessor

    from visrl_train.models import load_frozen, origin_record, portable_id, save_full

    temporary = output.with_name(output.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_full(load_frozen(folder, torch.float32, trust_remote_code), folder, temporary)
    AutoProcessor.from_pretrained(folder.weights.path, trust_remote_code=trust_remote_code).save_pretrained(temporary)
    inherited = (
        json.loads((folder.path / RECORD).read_text(encoding="utf-8")) if (folder.path / RECORD).is_file() else {}
    )
    record = {
        **inherited,
        **({"box_space": folder.box_space} if folder.box_space else {}),
        **({"crop_rule": folder.crop_rule.as_dict()} if folder.crop_rule else {}),
        "origin_base": origin_record(folder),
        "base": None,
        "merged_from": {"id": portable_id(folder), "digest": folder.digest},
    }
    files.write_json(temporary / RECORD, record)
    if output.exists():
        output.rmdir()
    temporary.rename(output)
    return output
