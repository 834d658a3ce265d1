"""Render the README.md of a trained model: what it is, how it was trained, how to use and reproduce it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visrl_data.core.config import to_toml
from visrl_data.core.crops import CropRule
from visrl_data.models.model_folder import ModelRecord
from visrl_data.runs.hub_fetch import is_hub_name
from visrl_train.config import TrainConfig
from visrl_train.metrics_log import read_metrics
from visrl_train.stages import STAGES


def render(record: ModelRecord, config: TrainConfig, output: Path, metrics: Path) -> str:
    """Write the card of the model folder `output`. record: the content of its visrl.json."""
    kind, stage = "full weights" if config.full else "LoRA adapter", record["stage"]
    origin, start = record["origin_base"], record["trained_from"]
    front = {
        **({"base_model": origin["id"].partition("@")[0]} if is_hub_name(origin["id"]) else {}),
        "library_name": "transformers" if config.full else "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["visrl", stage],
    }
    header = "\n".join(f"{name}: {json.dumps(value)}" for name, value in front.items())
    facts = {
        "Started from": f"{start['id']} (digest {start['digest'][:12]})",
        "Original model, the critic": f"{origin['id']} (digest {origin['digest'][:12]})",
        "Data": ", ".join(f"{name} {value}" for name, value in record["data"].items() if value),
        "Boxes": record["box_space"],
        "Crop rule": CropRule(**record["crop_rule"]).name,
        "Versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    trust = " --trust-remote-code" if config.trust_remote_code else ""
    merge = "" if config.full else f"\nvisrl merge {output} -o DIR                            # plain weights"
    return f"""---
{header}
---

# {output.name}

{STAGES[stage].card}{_departure(config)} A {kind}.

| | |
|---|---|
{table}

{_results(metrics)}
![Loss, reward margin and accuracy over the steps](curves.svg)

## Use it

```bash
visrl gen --model {output} --source questions.jsonl    # the next round of candidates{merge}
```

## Reproduce it

```bash
visrl train {stage} --config {output}/config.toml -o DIR{trust}
```

```toml
{to_toml(config).rstrip()}
```
"""


def _departure(config: TrainConfig) -> str:
    """Return the sentence that the loss has a term which the paper's does not have."""
    weight = getattr(config, "win_nll", 0.0)
    return f" The loss is DPO + {weight:g} x the NLL of the win (RPO), not the paper's DPO alone." if weight else ""


def _results(metrics: Path) -> str:
    """Return a table of the last value of each metric, for training and validation."""
    last: dict[str, Any] = {}
    for record in read_metrics(metrics):
        last |= record
    names = [name for name in ("loss", "mean_token_accuracy", "rewards/margins", "reward", *_steps()) if name in last]
    rows = [f"| {name} | {last[name]:.4f} | {_number(last.get(f'eval_{name}'))} |" for name in names]
    return "\n".join(["| last value | training | validation |", "|---|---|---|", *rows, ""]) if rows else ""


def _steps() -> list[str]:
    names = ("dpo", "nll", "margin", "accuracy", "ties")
    return [f"{step}/{name}" for step in ("focus", "response") for name in names]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
