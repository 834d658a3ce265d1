"""Render the README.md of a trained model: what it is, how it was trained, how to use and reproduce it."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

from visrl_cards.model_usage import describe_usage
from visrl_data.core.config import to_toml
from visrl_data.core.crops import CropRule
from visrl_data.core.text import fenced, markdown, markdown_code
from visrl_data.models.model_folder import ModelRecord, ModelReference
from visrl_data.runs.hub_fetch import is_hub_name
from visrl_data.runs.parts import shareable
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
        **_evaluation(output.name, record["data"], metrics),
    }
    header = "\n".join(f"{name}: {json.dumps(value)}" for name, value in front.items())
    facts = {
        "Started from": _reference(start),
        "Original model, the default critic": _reference(origin),
        "Data": ", ".join(
            f"{name} {markdown(shareable(str(value)))}"
            for name, value in record["data"].items()
            if value and name != "parts"
        ),
        "Boxes": markdown(record["box_space"]),
        "Crop rule": markdown(CropRule(**record["crop_rule"]).name),
        "Versions": markdown(", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    folder = shlex.quote(str(output))
    trust = " --trust-remote-code" if config.trust_remote_code else ""
    use = [f"visrl eval --model {folder} --source questions.jsonl    # scores"]
    if record["steps"] == 2:
        use.append(f"visrl gen --model {folder} --source questions.jsonl    # candidates and pairs")
    if not config.full:
        use.append(f"visrl merge {folder} -o DIR    # plain weights")
    again = f"visrl train {stage} --config {shlex.quote(f'{output}/config.toml')} -o DIR{trust}"
    return f"""---
{header}
---

# {markdown(output.name)}

{STAGES[stage].card}{_departure(config)} A {kind}.

| | |
|---|---|
{table}

{_results(metrics)}
![The metrics over the steps](curves.svg)

## Use it

{fenced(chr(10).join(use), "bash")}

{describe_usage(record, str(output), None)}

## Reproduce it

{fenced(again, "bash")}

{fenced(to_toml(config).rstrip(), "toml")}
"""


def _evaluation(name: str, data: dict[str, Any], metrics: Path) -> dict[str, Any]:
    """Return the sets of the Hub that it was trained on, and the share of held-out pairs that it puts in order."""
    sets = [part for part in (data, *data.get("parts", ())) if is_hub_name(str(part["name"]))]
    if not sets:
        return {}
    names = [str(part["name"]).partition("@")[0] for part in sets]
    last = _last_values(metrics)
    accuracies = {step: last.get(f"eval_{step}/accuracy") for step in ("focus", "response")}
    values = [
        {"type": "accuracy", "name": f"{step} pairs of the validation split in order", "value": round(value, 4)}
        for step, value in accuracies.items()
        if value is not None
    ]
    result = {
        "task": {"type": "image-text-to-text"},
        "dataset": {"type": names[0], "name": names[0], "split": "validation"},
        "metrics": values,
    }
    scores = {"metrics": ["accuracy"], "model-index": [{"name": name, "results": [result]}]} if values else {}
    return {"datasets": names, **scores}


def _reference(model: ModelReference) -> str:
    """Name a model; of a folder on this machine, its last part."""
    return f"{markdown_code(shareable(model['id']))} (digest {markdown_code(model['digest'][:12])})"


def _departure(config: TrainConfig) -> str:
    """Return the sentence that the loss has a term which the paper's does not have."""
    weight = getattr(config, "win_nll", 0.0)
    return f" The loss is DPO + {weight:g} x the NLL of the win (RPO), not the paper's DPO alone." if weight else ""


def _results(metrics: Path) -> str:
    """Return a table of the last value of each metric, for training and validation."""
    last = _last_values(metrics)
    steps = itertools.product(("focus", "response"), ("dpo", "nll", "margin", "accuracy", "ties"))
    names = ("loss", "mean_token_accuracy", "rewards/margins", "reward", *map("/".join, steps))
    rows = [f"| {name} | {last[name]:.4f} | {_number(last.get(f'eval_{name}'))} |" for name in names if name in last]
    return "\n".join(["| last value | training | validation |", "|---|---|---|", *rows, ""]) if rows else ""


def _last_values(metrics: Path) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for record in read_metrics(metrics):
        last |= record
    return last


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
