"""The reference's log-probabilities, computed once and kept (`--cache-reference`).

Every epoch asks the frozen reference for the same numbers, each time with its pictures encoded anew. With the
table that is done once, and a second training from the same model and pairs (another beta, another
learning rate) finds the numbers there. They lie in $VISRL_CACHE, or ~/.cache/visrl, one file a key.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from visrl_data.core import files
from visrl_data.core.errors import VisRLError
from visrl_train.collator import PairCollator
from visrl_train.image_features import encoded_once

Table = dict[tuple[str, str], tuple[float, float]]


def table(trainer: Any, collator: PairCollator, rows: list[dict[str, Any]], key: tuple[str, ...]) -> Table:
    """(pair id, step) -> log-probabilities of win and lose under the reference, for all rows.

    Called before training, while policy and reference are the same. Raises VisRLError where the weights are
    spread over devices, which this pass does not gather.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise VisRLError("--cache-reference works on one device or with DDP, not with FSDP or DeepSpeed. Leave it out.")
    path = _folder() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    if not path.is_file():
        found = _compute(trainer, collator, rows)
        if trainer.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, [[*where, *values] for where, values in sorted(found.items())])
        trainer.accelerator.wait_for_everyone()
    kept = json.loads(path.read_text(encoding="utf-8"))
    return {(pair, step): (win, lose) for pair, step, win, lose in kept}


def _folder() -> Path:
    return Path(os.environ.get("VISRL_CACHE") or Path.home() / ".cache" / "visrl") / "reference"


def _compute(trainer: Any, collator: PairCollator, rows: list[dict[str, Any]]) -> Table:
    """Each process takes its share of the rows; all get the whole."""
    trainer.model.eval()
    mine = rows[trainer.accelerator.process_index :: trainer.accelerator.num_processes]
    size = trainer.args.per_device_train_batch_size
    found = []
    for start in range(0, len(mine), size):
        batch = mine[start : start + size]
        inputs = trainer._prepare_inputs(collator(batch))
        answered = inputs.pop("has_response").tolist()
        model = trainer.ref_model or trainer.model
        with encoded_once(model, inputs.pop("pictures", None)):
            win, lose = trainer.compute_ref_log_probs(model, inputs)
        keys = [(row["id"], "focus") for row in batch]
        keys += [(row["id"], "response") for row, has in zip(batch, answered, strict=True) if has]
        found += list(zip(keys, zip(win.tolist(), lose.tolist(), strict=True), strict=True))
    return dict(gather_object(found))
