"""Precompute the reference's log-probabilities and cache them (`--cache-reference`).

Every epoch computes the same numbers with the frozen reference and encodes its images again. With the table this is
done once, and a second training from the same model and pairs (another beta, another learning rate) reuses it. The
files are in $VISRL_CACHE, or ~/.cache/visrl, one for each key.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object, send_to_device

from visrl_data.core import files
from visrl_data.core.errors import VisRLError
from visrl_train.collator import PairCollator
from visrl_train.image_features import encoded_once
from visrl_train.trainers import completions_only

logger = logging.getLogger(__name__)

Table = dict[tuple[str, str], tuple[float, float]]


def load_table(trainer: Any, collator: PairCollator, rows: list[dict[str, Any]], key: tuple[str, ...]) -> Table:
    """Return (pair id, step) -> log-probabilities of chosen and rejected under the reference, for all rows.

    Call it before training, while policy and reference are the same. Raises VisRLError where the weights are
    sharded over devices, which this pass does not gather.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise VisRLError("--cache-reference works on one device or with DDP, not with FSDP or DeepSpeed. Leave it out.")
    path = files.cache_folder("reference") / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    table = _read(path)
    if table is None:
        table = _compute(trainer, collator, rows)
        if trainer.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            entries = [[*row, *values] for row, values in sorted(table.items())]
            files.write_shared_json(path, {"entries": entries, "sha256": _digest(entries)})
    return table


def _read(path: Path) -> Table | None:
    """Read a table; None where there is none, or none that is as it was written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["sha256"] == _digest(content["entries"]):
            return {(pair, step): (chosen, rejected) for pair, step, chosen, rejected in content["entries"]}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        pass
    logger.warning("%s is damaged or of an earlier version; its numbers are computed again.", path)
    return None


def _digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _compute(trainer: Any, collator: PairCollator, rows: list[dict[str, Any]]) -> Table:
    """Compute the table: each process takes its share of the rows and gets the whole table."""
    trainer.model.eval()
    shard = rows[trainer.accelerator.process_index :: trainer.accelerator.num_processes]
    size = trainer.args.per_device_train_batch_size
    entries: list[tuple[tuple[str, str], tuple[float, float]]] = []
    for start in range(0, len(shard), size):
        batch = shard[start : start + size]
        inputs = send_to_device(collator(batch), trainer.accelerator.device)
        has_response = inputs.pop("has_response").tolist()
        model = trainer.ref_model or trainer.model
        with encoded_once(model, inputs.pop("pictures", None)), completions_only():
            chosen, rejected = trainer.compute_ref_log_probs(model, inputs)
        keys = [(row["id"], "focus") for row in batch]
        keys += [(row["id"], "response") for row, has in zip(batch, has_response, strict=True) if has]
        entries += zip(keys, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True)
    return dict(gather_object(entries))
