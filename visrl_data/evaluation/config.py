"""Declare every option of `visrl eval` and `visrl ask` once, as config.py does for `visrl gen`.

Models, sources and scores may be named several times and are arguments of their own (evaluate.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from visrl_data.core.config import GOLD_RULES, GOLD_SPACES, GenConfig, as_in_gen, check_option, option
from visrl_data.core.metrics import METRICS

SCORES = (*METRICS, "critic")
PROTOCOLS = ("visrl", "visual-cot")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """How models are prompted and their replies scored. Raises UsageError when a value is out of its range."""

    split: str = option("test", "Split of the sources.", panel="Questions")
    limit: int | None = option(None, "First N rows of each source; default: all, and 200 of spotlight.", low=1)
    images_root: str | dict[str, str] | None = as_in_gen("images_root")
    allow_urls: str | None = as_in_gen("allow_urls")
    columns: dict[str, str] = option({}, "Column names of the sources: question=q,answers=a,image=img,id=key,boxes=b.")
    gold_space: str = option("unit", "Space of the sources' gold boxes.", choices=GOLD_SPACES)
    gold_format: str | None = as_in_gen("gold_format")

    protocol: str = option(
        "visrl",
        "How the two steps are prompted: as in training, or as in the Visual-CoT benchmark (a second turn, its crop).",
        choices=PROTOCOLS,
        panel="Prompting",
    )
    baseline: bool = option(True, "Also evaluate the original model in one step, without a box.")
    box_space: str | None = option(
        None, "Space in which the models write boxes; default: as their folders record, else unit."
    )
    crop_min_side: float | None = as_in_gen("crop_min_side")
    crop_max_aspect: float | None = as_in_gen("crop_max_aspect")
    max_new_tokens: int = as_in_gen("max_new_tokens")
    prompts: str | None = as_in_gen("prompts")

    critic: str | None = option(
        None, "Judge for --score critic; default: the ORIGINAL model of the first --model.", panel="Scoring"
    )
    gold_rule: str = option(
        "any",
        "Several gold boxes: IoU with the nearest, with the union of all, or with the bounding box of all.",
        choices=GOLD_RULES,
    )
    resamples: int = option(10_000, "Resamples of the bootstrap, for scores between 0 and 1.", low=1)
    seed: int = option(0, "Seed of the bootstrap and of the page's sample.")

    engine: str = as_in_gen("engine", panel="Running")
    base_url: str | None = as_in_gen("base_url")
    critic_engine: str | None = as_in_gen("critic_engine")
    critic_base_url: str | None = as_in_gen("critic_base_url")
    in_flight: int = as_in_gen("in_flight")
    vllm_options: dict[str, Any] | None = as_in_gen("vllm_options")
    device: str = as_in_gen("device")
    dtype: str = as_in_gen("dtype")
    quantize: bool | None = as_in_gen("quantize")
    batch_size: int = as_in_gen("batch_size")
    max_pixels: int | None = as_in_gen("max_pixels")
    chunk_size: int = option(32, "Questions in a chunk, the unit of work and of resuming.", low=1)
    trust_remote_code: bool = as_in_gen("trust_remote_code")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))

    def gen_config(self, source: str) -> GenConfig:
        """Return the same options for generation from one source: greedy, one box a question."""
        shared = {spec.name for spec in dataclasses.fields(GenConfig)} & {s.name for s in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in shared}
        return GenConfig(**values, source=source, attempts=1, temperature=0.0, diversity="off")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConfig:
    """How `visrl ask` runs its models: options of `visrl eval`. Raises UsageError when a value is out of its range."""

    engine: str = as_in_gen("engine", panel="Running")
    base_url: str | None = as_in_gen("base_url")
    vllm_options: dict[str, Any] | None = as_in_gen("vllm_options")
    device: str = as_in_gen("device")
    dtype: str = as_in_gen("dtype")
    quantize: bool | None = as_in_gen("quantize")
    max_pixels: int | None = as_in_gen("max_pixels")
    max_new_tokens: int = as_in_gen("max_new_tokens")
    box_space: str | None = option(
        None, "Space in which the models write boxes; default: as their folders record, else their family's."
    )
    trust_remote_code: bool = as_in_gen("trust_remote_code")

    def eval_config(self) -> EvalConfig:
        """Return the same options for an evaluation without the original model. Raises UsageError."""
        return EvalConfig(**{spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}, baseline=False)
