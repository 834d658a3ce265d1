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
from visrl_data.core.image_settings import describe_images
from visrl_data.core.text import fenced, markdown, markdown_code
from visrl_data.models.model_folder import ModelRecord, ModelReference
from visrl_data.runs.hub_fetch import is_hub_name
from visrl_data.runs.parts import shareable
from visrl_train.config import TrainConfig
from visrl_train.metrics_log import read_metrics
from visrl_train.stages import STAGES

NEGLIGIBLE_BETA = 1e-4
"""A beta up to which a preference has no weight beside the NLL: its gradient is at most beta times that of log pi."""


def render(record: ModelRecord, config: TrainConfig, output: Path, metrics: Path) -> str:
    """Write the card of the model folder `output`. record: the content of its visrl.json."""
    kind, stage = "full weights" if config.full else "LoRA adapter", record["stage"]
    library = "transformers" if config.full else "peft"
    front = _front(record, library) | _evaluation(output.name, record["data"], metrics)
    folder = shlex.quote(str(output))
    trust = " --trust-remote-code" if config.trust_remote_code else ""
    use = _commands(record, folder)
    if not config.full:
        use.append(f"visrl merge {folder} -o DIR    # plain weights")
    again = f"visrl train {stage} --config {shlex.quote(f'{output}/config.toml')} -o DIR{trust}"
    return f"""---
{_yaml(front)}
---

# {markdown(output.name)}

{STAGES[stage].card}{_departure(config)} A {kind}.

{_facts(record)}

{_results(metrics)}
![The metrics over the steps](curves.svg)

## Use it

{fenced(chr(10).join(use), "bash")}

{describe_usage(record, str(output), None)}

## Reproduce it

{fenced(again, "bash")}

{fenced(to_toml(config).rstrip(), "toml")}
"""


def render_merged(record: ModelRecord, output: Path) -> str:
    """Write the card of `output`, a merged model. record: its visrl.json; of an adapter of others it says little."""
    usage = f"\n{describe_usage(record, str(output), None)}\n" if {"box_space", "crop_rule"} <= record.keys() else ""
    is_ours = record.get("stage") in STAGES
    stage = f" of `visrl train {record['stage']}`, whose card says with which loss," if is_ours else ","
    return f"""---
{_yaml(_front(record, "transformers"))}
---

# {markdown(output.name)}

The adapter {_reference(record["merged_from"])}{stage} merged into the weights under it.
The processor's settings are those of its training.

{_facts(record)}

## Use it

{fenced(chr(10).join(_commands(record, shlex.quote(str(output)))), "bash")}
{usage}"""


def _front(record: ModelRecord, library: str) -> dict[str, Any]:
    origin = record["origin_base"]["id"]
    return {
        **({"base_model": origin.partition("@")[0]} if is_hub_name(origin) else {}),
        "library_name": library,
        "pipeline_tag": "image-text-to-text",
        "tags": ["visrl", *([record["stage"]] if "stage" in record else [])],
    }


def _yaml(front: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in front.items())


def _facts(record: ModelRecord) -> str:
    """Return a table of what the record says."""
    data = (
        f"{name} {markdown(shareable(str(value)))}"
        for name, value in record.get("data", {}).items()
        if value and name != "parts"
    )
    rule, images = record.get("crop_rule"), record.get("image_settings")
    facts = {
        "Started from": _reference(record["trained_from"]) if "trained_from" in record else "",
        "Original model, the default critic": _reference(record["origin_base"]),
        "Data": ", ".join(data),
        "Boxes": markdown(record.get("box_space", "")),
        "Crop rule": markdown(CropRule(**rule).name) if rule else "",
        "Pictures": markdown(describe_images(images)) if images else "",
        "Versions": markdown(", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())),
    }
    lines = (f"| {name} | {value} |" for name, value in facts.items() if value)
    return "\n".join(["| | |", "|---|---|", *lines])


def _commands(record: ModelRecord, folder: str) -> list[str]:
    commands = [f"visrl eval --model {folder} --source questions.jsonl    # scores"]
    if record.get("steps", 2) == 2:
        commands.append(f"visrl gen --model {folder} --source questions.jsonl    # candidates and pairs")
    return commands


def _evaluation(name: str, data: dict[str, Any], metrics: Path) -> dict[str, Any]:
    """Return the sets of the Hub that it was trained on, and the share of held-out pairs that it puts in order."""
    names = [str(part["name"]) for part in (data, *data.get("parts", ()))]
    # runs/cars has the form of a Hub id; a folder of that name was what --data or --source meant.
    names = [name.partition("@")[0] for name in names if is_hub_name(name) and not Path(name).exists()]
    if not names:
        return {}
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
    """Return the sentence that says by what the loss is not the paper's; "" where it is."""
    weight = getattr(config, "win_nll", 0.0)
    if not weight:
        return ""
    betas = {term: getattr(config, name) for term, name in (("box", "beta_b"), ("response", "beta_r"))
             if hasattr(config, name)}  # fmt: skip
    alone = [term for term, beta in betas.items() if beta <= NEGLIGIBLE_BETA]
    if len(alone) == len(betas):
        return " Here the loss is the NLL of the win alone (beta leaves the DPO terms no weight), not the paper's DPO."
    rest = f"; that of the {alone[0]} has the NLL alone, since its beta leaves DPO no weight" if alone else ""
    return f" The loss is DPO + {weight:g} x the NLL of the win (RPO), not the paper's DPO alone{rest}."


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
