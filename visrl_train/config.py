"""Every option of the training stages and of the baselines, declared once.

As visrl_data/core/config.py does: a field's metadata is its help text, flags and TOML names are made from the
fields, and the resolved options are saved beside the output. A TOML file may serve all stages: what stands at
its top counts for each, a table such as [rl1] or [dpo-answers] for one. The shipped presets/ are such files.

Defaults marked "reference code" are those of the paper's public code, which trains Qwen2-VL-7B; the paper
itself leaves them unsaid.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.config import check_option, make_config, option, read_options
from visrl_data.core.errors import UsageError

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The options that all stages share; each stage's class sets its own defaults."""

    model: str | None = option(None, "Model that learns: a Hub id[@rev], a model or adapter folder.", panel="Model")
    full: bool = option(False, "Train the language model's own weights, in place of a LoRA adapter.")
    lora_rank: int = option(16, "Rank of a fresh adapter; one that goes on keeps its own.", low=1)
    lora_alpha: int = option(32, "Scale of a fresh adapter, divided by its rank.", low=1)
    quantize: bool = option(False, "Keep the frozen weights in 4 bits (QLoRA). Needs a GPU and the extra visrl[quant].")
    max_pixels: int | None = option(None, "Most pixels of a picture, for models that take any size.", low=1)
    trust_remote_code: bool = option(False, "Run code that comes with a model. Only for models that you trust.")

    learning_rate: float = option(1e-4, "Highest learning rate.", low=0.0, panel="Training")
    epochs: float = option(3.0, "Passes over the data.", low=0.0)
    batch_size: int = option(2, "Rows on a device at a time.", low=1)
    accumulation: int = option(8, "Batches of each device in a step (reference code: 8).", low=1)
    warmup: float = option(
        0.1, "Share of the steps with a rising rate; cosine after it (reference code: 0.1).", low=0.0, high=1.0
    )
    weight_decay: float = option(0.0, "Weight decay of AdamW.", low=0.0)
    max_grad_norm: float = option(1.0, "Largest norm of a gradient.", low=0.0)
    validation: float = option(
        0.1, "Share of the IMAGES that is held out (reference code: a tenth of the rows).", low=0.0, high=0.9
    )

    seed: int = option(0, "Seed of everything drawn.", low=0, panel="Running")
    device: str = option("auto", "auto takes the best there is.", choices=("auto", "cpu"))
    dtype: str = option(
        "auto",
        "Type of the computation; auto: float32 on a CPU, else bfloat16.",
        choices=("auto", "float32", "bfloat16"),
    )
    gradient_checkpointing: bool | None = option(None, "Save memory for time; default: large models on a GPU.")
    workers: int = option(0, "Processes that prepare batches.", low=0)
    save_steps: int = option(100, "Steps between checkpoints, from which an interrupted stage goes on.", low=1)
    log_steps: int = option(1, "Steps between lines of metrics.", low=1)
    report_to: str = option("none", "Trackers besides metrics.jsonl: none, all, or names such as wandb,tensorboard.")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))
        if self.full and self.quantize:
            raise UsageError("--full with --quantize: expected one of them. Weights in 4 bits can't be trained.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig(TrainConfig):
    """The options of `visrl train sft`."""

    model: str | None = option(
        "spotlight-base", "Model that learns: a Hub id[@rev], a model or adapter folder.", panel="Model"
    )
    learning_rate: float = option(1e-4, "Highest learning rate (reference code: 1e-4).", low=0.0, panel="Training")
    epochs: float = option(3.0, "Passes over the data (reference code: 3).", low=0.0)
    batch_size: int = option(2, "Rows on a device at a time (reference code: 2).", low=1)

    source: str = option(
        "spotlight",
        "Questions with gold boxes: spotlight, a .jsonl or .parquet file, a dataset folder, a Hub id.",
        panel="Questions",
    )
    split: str = option("train", "Split of the source.")
    limit: int | None = option(None, "First N rows only; default: all, and 200 of the endless spotlight.", low=1)
    images_root: str | dict[str, str] | None = option(
        None,
        "Folder, .zip or .tar that image paths are relative to; NAME=DIR for one set. Repeatable. Default: the file's.",
    )
    columns: dict[str, str] = option({}, "Column names of the source: question=q,answers=a,image=img,id=key,boxes=b.")
    gold_space: str = option("unit", "Space of the source's gold boxes.", choices=("unit", "pixels"))
    gold_target: str = option(
        "union",
        "The box to learn where a question has several: the one around all (as Visual-CoT has it), or the first.",
        choices=("union", "first"),
    )
    turns: str = option(
        "both",
        "Kinds of row: the focus turn, the answer turn with the gold crop, or both.",
        choices=("both", "focus", "answer"),
    )
    box_space: str | None = option(
        None, "Space in which the model writes boxes; default: as its folder records, else unit."
    )
    crop_min_side: float | None = option(
        None, "Smallest crop side, a fraction of the longer image side.", low=0.0, high=1.0
    )
    crop_max_aspect: float | None = option(None, "Longest crop side over its shortest.", low=1.0)
    prompts: str | None = option(None, "TOML file with prompt templates of your own.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig(TrainConfig):
    """The options of all that learns from pairs."""

    learning_rate: float = option(5e-6, "Highest learning rate (reference code: 5e-6).", low=0.0, panel="Training")
    epochs: float = option(5.0, "Passes over the pairs (reference code: 5).", low=0.0)
    batch_size: int = option(3, "Pairs on a device at a time (reference code: 3).", low=1)

    data: str | None = option(
        None,
        "Pairs: a run folder, a dataset folder, or user/name[@tag]; default: the latest run in runs/.",
        panel="Pairs",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rl1Config(PairsConfig):
    """The options of `visrl train rl1`."""

    model: str | None = option(None, "Model that learns; default: the actor that made the pairs.", panel="Model")

    beta_b: float = option(
        0.1, "beta of the box term: how dear it is to leave the reference (reference code: 0.1).", low=0.0
    )
    win_nll: float = option(
        0.0, "Weight of the win's own likelihood beside the preference loss (RPO); the paper has none.", low=0.0
    )
    cache_reference: bool = option(False, "Compute the reference's log-probabilities once and keep them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rl2Config(Rl1Config):
    """The options of `visrl train rl2`."""

    model: str | None = option(
        None, "Model that learns; default: the latest `train rl1` on the same pairs.", panel="Model"
    )
    beta_r: float = option(0.1, "beta of the response term (reference code: 0.1).", low=0.0)
    lambda_b: float = option(0.5, "Weight of the box term (reference code: 0.5).", low=0.0)
    lambda_r: float = option(0.5, "Weight of the response term (reference code: 0.5).", low=0.0)
    response_crop: str = option(
        "win",
        "Crop that the responses are learnt under: the win's for both (the paper), or each its own.",
        choices=("win", "own"),
    )
    without_rl1: bool = option(
        False, "Start from the actor that made the pairs, not from its rl1 model (a row of the paper's Table 5)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersConfig(PairsConfig):
    """The options of all answer-only baselines."""

    model: str | None = option(
        None, "Model that learns; default: the original model of the actor that made the pairs.", panel="Model"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SftAnswersConfig(AnswersConfig):
    """The options of `visrl train sft-answers`."""

    learning_rate: float = option(1e-4, "Highest learning rate (as sft).", low=0.0, panel="Training")
    epochs: float = option(3.0, "Passes over the pairs (as sft).", low=0.0)
    batch_size: int = option(2, "Rows on a device at a time (as sft).", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoAnswersConfig(AnswersConfig):
    """The options of `visrl train dpo-answers`."""

    beta: float = option(0.1, "How dear it is to leave the reference.", low=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KtoAnswersConfig(DpoAnswersConfig):
    """The options of `visrl train kto-answers`."""

    batch_size: int = option(6, "Responses on a device at a time; a pair has two.", low=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RlooAnswersConfig(AnswersConfig):
    """The options of `visrl train rloo-answers`."""

    epochs: float = option(1.0, "Passes over the questions of the second half.", low=0.0)
    batch_size: int = option(3, "Questions on a device at a time.", low=1)

    beta: float = option(0.05, "Weight of the KL to the reference in the reward (TRL: 0.05).", low=0.0)
    reward: str = option(
        "model", "A reward model of the first half's pairs, or exact match with an answer.", choices=("model", "exact")
    )
    reward_epochs: float = option(3.0, "Passes of the reward model over the first half.", low=0.0)
    reward_learning_rate: float = option(1e-4, "Highest learning rate of the reward model.", low=0.0)
    replies: int = option(4, "Replies sampled for a question.", low=2)
    temperature: float = option(1.0, "Temperature of the replies.", low=0.01)
    max_new_tokens: int = option(64, "Longest reply, in tokens.", low=1)


STAGES: dict[str, type[TrainConfig]] = {
    "sft": SftConfig,
    "rl1": Rl1Config,
    "rl2": Rl2Config,
    "sft-answers": SftAnswersConfig,
    "dpo-answers": DpoAnswersConfig,
    "kto-answers": KtoAnswersConfig,
    "rloo-answers": RlooAnswersConfig,
}


def load_train_config(stage: str, file: str | None, given: dict[str, Any]) -> TrainConfig:
    """The resolved options of a stage: its defaults, then the file's, then those given.

    file: a TOML file, or the name of a shipped preset. Raises UsageError.
    """
    path = None if file is None else _find(file)
    values = read_options(path)
    tables = {name: values.pop(name) for name in STAGES if name in values}
    own = tables.get(stage, {})
    if not isinstance(own, dict):
        raise UsageError(f"--config {file}: {stage} = {own!r}: expected a table [{stage}].")
    return make_config(STAGES[stage], values | own, given, where=f"--config {file}", command=f"visrl train {stage}")


def preset_for(origin: str) -> str | None:
    """The shipped preset that names this original model as the start of its chain, if there is one."""
    name = origin.partition("@")[0]
    for path in sorted(PRESETS.glob("*.toml")):
        if read_options(path).get("sft", {}).get("model", "").partition("@")[0] == name:
            return path.stem
    return None


def _find(file: str) -> Path:
    preset = PRESETS / f"{file}.toml"
    if not Path(file).is_file() and preset.is_file():
        return preset
    if not Path(file).is_file():
        names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
        raise UsageError(f"--config {file}: no such file, and no preset of that name. Presets: {names}.")
    return Path(file)
