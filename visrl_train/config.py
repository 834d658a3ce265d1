"""The options of the training stages and of the baselines, each declared once.

As visrl_data/core/config.py does: a field's metadata is its help text, flags and TOML names are made from the
fields, and the resolved options are saved beside the output (launch.py reads them from a file or a preset).

Defaults marked "reference code" are those of the paper's public code, which trains Qwen2-VL-7B; the paper
itself leaves them unsaid.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from visrl_data.core.config import GOLD_SPACES, as_in_gen, check_option, option
from visrl_data.core.errors import UsageError
from visrl_data.core.metrics import METRICS


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options that all stages share; each stage's class sets its own defaults."""

    model: str | None = option(None, "Model to train: a Hub id[@rev], a model or adapter folder.", panel="Model")
    full: bool = option(False, "Train all weights of the language model instead of a LoRA adapter.")
    lora_rank: int = option(
        16, "LoRA rank of a new adapter; one that is continued keeps its own (reference code: 8).", low=1
    )
    lora_alpha: int = option(
        32, "LoRA alpha of a new adapter, which is scaled by alpha / rank (reference code: 16).", low=1
    )
    quantize: bool = option(
        False, "Load the frozen weights in 4 bits (QLoRA). Needs a GPU and: pip install '.[quant]'."
    )
    max_pixels: int | None = as_in_gen("max_pixels")
    trust_remote_code: bool = as_in_gen("trust_remote_code")

    learning_rate: float = option(1e-4, "Peak learning rate.", low=0.0, panel="Training")
    epochs: float = option(3.0, "Epochs.", above=0.0)
    batch_size: int = option(2, "Examples per device.", low=1)
    accumulation: int = option(8, "Gradient accumulation steps (reference code: 8).", low=1)
    warmup: float = option(0.1, "Warmup ratio; cosine schedule after it (reference code: 0.1).", low=0.0, high=1.0)
    weight_decay: float = option(0.0, "Weight decay of AdamW.", low=0.0)
    max_grad_norm: float = option(1.0, "Maximum gradient norm, for clipping.", low=0.0)
    validation: float = option(
        0.1, "Share of the IMAGES held out for validation (reference code: a tenth of the rows).", low=0.0, high=0.9
    )

    seed: int = option(0, "Random seed.", low=0, panel="Running")
    device: str = option("auto", "Device; auto: a GPU if there is one.", choices=("auto", "cpu"))
    dtype: str = option(
        "auto",
        "Compute dtype; auto: float32 on a CPU, else bfloat16.",
        choices=("auto", "float32", "bfloat16"),
    )
    gradient_checkpointing: bool | None = option(
        None, "Trade compute for memory; default: on for large models on a GPU."
    )
    workers: int = option(0, "Data loader worker processes.", low=0)
    save_steps: int = option(100, "Steps between checkpoints, from which an interrupted stage resumes.", low=1)
    log_steps: int = option(1, "Steps between logged metrics.", low=1)
    report_to: str = option("none", "Trackers besides metrics.jsonl: none, all, or names such as wandb,tensorboard.")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))
        if self.full and self.quantize:
            raise UsageError("--full with --quantize: expected one of them. Weights in 4 bits can't be trained.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig(TrainConfig):
    """Options of `visrl train sft`."""

    model: str | None = option(
        "spotlight-base", "Model to train: a Hub id[@rev], a model or adapter folder.", panel="Model"
    )
    learning_rate: float = option(1e-4, "Peak learning rate (reference code: 1e-4).", low=0.0, panel="Training")
    epochs: float = option(3.0, "Epochs (reference code: 3).", above=0.0)
    batch_size: int = option(2, "Examples per device (reference code: 2).", low=1)

    source: str = option(
        "spotlight",
        "Questions with gold boxes: spotlight; a .jsonl, .json, .csv or .parquet file; a dataset folder; a Hub id.",
        panel="Questions",
    )
    split: str = option("train", "Split of the source.")
    limit: int | None = option(None, "First N rows only; default: all, and 200 of spotlight, which is endless.", low=1)
    images_root: str | dict[str, str] | None = as_in_gen("images_root")
    columns: dict[str, str] = option({}, "Column names of the source: question=q,answers=a,image=img,id=key,boxes=b.")
    gold_space: str = option("unit", "Space of the source's gold boxes.", choices=GOLD_SPACES)
    gold_format: str | None = as_in_gen("gold_format")
    gold_target: str = option(
        "union",
        "Target box of a question that has several: the one around all (as in Visual-CoT), or the first.",
        choices=("union", "first"),
    )
    turns: str = option(
        "both",
        "Training examples: the focus turn, the answer turn with the gold crop, or both.",
        choices=("both", "focus", "answer"),
    )
    box_space: str | None = option(
        None, "Coordinate space of the model's boxes; default: as its folder records, else unit."
    )
    crop_min_side: float | None = as_in_gen("crop_min_side")
    crop_max_aspect: float | None = as_in_gen("crop_max_aspect")
    prompts: str | None = as_in_gen("prompts")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig(TrainConfig):
    """Options of all stages that learn from preference pairs."""

    max_pixels: int | None = option(
        None,
        "Maximum pixels of an image; default: as the pairs were made. Boxes in pixels are rewritten for another size.",
        low=1,
    )

    learning_rate: float = option(5e-6, "Peak learning rate (reference code: 5e-6).", low=0.0, panel="Training")
    epochs: float = option(5.0, "Epochs (reference code: 5).", above=0.0)
    batch_size: int = option(3, "Pairs per device (reference code: 3).", low=1)

    data: str | list[str] | None = option(
        None,
        "Pairs: a run folder, a dataset folder, or user/name[@tag]. Repeatable. Default: the latest run in runs/.",
        panel="Pairs",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rl1Config(PairsConfig):
    """Options of `visrl train rl1`."""

    model: str | None = option(None, "Model to train; default: the actor that made the pairs.", panel="Model")

    beta_b: float = option(0.1, "beta of the box term: strength of the KL constraint (reference code: 0.1).", low=0.0)
    win_nll: float = option(
        0.0, "Weight of the NLL of the win (chosen) side, added to the DPO loss (RPO); the paper has none.", low=0.0
    )
    cache_reference: bool = option(False, "Precompute the reference log-probabilities and cache them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rl2Config(Rl1Config):
    """Options of `visrl train rl2`."""

    model: str | None = option(
        None, "Model to train; default: the latest `train rl1` on the same pairs.", panel="Model"
    )
    beta_r: float = option(
        0.1, "beta of the response term: strength of the KL constraint (reference code: 0.1).", low=0.0
    )
    lambda_b: float = option(0.5, "Weight of the box term (reference code: 0.5).", low=0.0)
    lambda_r: float = option(0.5, "Weight of the response term (reference code: 0.5).", low=0.0)
    response_crop: str = option(
        "win",
        "Crop in the prompt of both responses: that of the win box (the paper), or each its own.",
        choices=("win", "own"),
    )
    without_rl1: bool = option(
        False, "Start from the actor that made the pairs, not from its rl1 model (the paper's Table 5)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersConfig(PairsConfig):
    """Options of all answer-only baselines."""

    model: str | None = option(
        None, "Model to train; default: the original model of the actor that made the pairs.", panel="Model"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SftAnswersConfig(AnswersConfig):
    """Options of `visrl train sft-answers`."""

    learning_rate: float = option(1e-4, "Peak learning rate (as sft).", low=0.0, panel="Training")
    epochs: float = option(3.0, "Epochs (as sft).", above=0.0)
    batch_size: int = option(2, "Examples per device (as sft).", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoAnswersConfig(AnswersConfig):
    """Options of `visrl train dpo-answers`."""

    beta: float = option(0.1, "Strength of the KL constraint.", low=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KtoAnswersConfig(DpoAnswersConfig):
    """Options of `visrl train kto-answers`."""

    batch_size: int = option(6, "Responses per device; a pair has two.", low=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RlooAnswersConfig(AnswersConfig):
    """Options of `visrl train rloo-answers`."""

    epochs: float = option(1.0, "Epochs over the questions of the second half.", above=0.0)
    batch_size: int = option(3, "Questions per device.", low=1)

    beta: float = option(0.05, "Strength of the KL constraint, in the reward (TRL: 0.05).", low=0.0)
    reward: str = option(
        "model",
        "A reward model trained on the first half of the pairs, or an answer metric.",
        choices=("model", *METRICS),
    )
    reward_epochs: float = option(3.0, "Epochs of the reward model over the first half.", above=0.0)
    reward_learning_rate: float = option(1e-4, "Peak learning rate of the reward model.", low=0.0)
    replies: int = option(4, "Replies sampled per question.", low=2)
    temperature: float = option(1.0, "Sampling temperature.", low=0.01)
    max_new_tokens: int = option(64, "Maximum length of a reply, in tokens.", low=1)
