"""Declare every option of `visrl calibrate` once: those of `visrl gen` that its critic depends on, and its own.

The same options as for the run that is planned give the critic of that run, on the questions of that run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from visrl_data.core.config import GOLD_SPACES, GenConfig, as_in_gen, check_option, option
from visrl_data.core.errors import UsageError
from visrl_data.engines.vllm_options import options_of_replies

THRESHOLDS = ("box_win", "box_lose", "response_win", "response_lose")
ELSEWHERE = ("base_url", "critic_base_url", "in_flight")  # where the critic is served: no verdict depends on it


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """Which critic is asked about which questions. Raises UsageError when a value is out of its range."""

    model: str = as_in_gen("model", panel="Critic and questions")
    critic: str | None = as_in_gen("critic")
    source: str = as_in_gen("source")
    split: str = as_in_gen("split")
    limit: int | None = as_in_gen("limit")
    skip: int | None = as_in_gen("skip")
    questions: int = option(64, "Questions to draw at random from these rows.", low=2)
    images_root: str | dict[str, str] | None = as_in_gen("images_root")
    allow_urls: str | None = as_in_gen("allow_urls")
    columns: dict[str, str] = option({}, "Column names of the source: question=q,answers=a,image=img,id=key,boxes=b.")
    gold_space: str = option("unit", "Coordinate space of the source's gold boxes.", choices=GOLD_SPACES)
    gold_format: str | None = as_in_gen("gold_format")
    gold_rule: str = as_in_gen("gold_rule")

    box_critic: bool = option(True, "Calibrate the box critic.", panel="Scoring")
    response_critic: str = as_in_gen("response_critic")
    score_mode: str = as_in_gen("score_mode")
    score_step: float = as_in_gen("score_step")
    prompts: str | None = as_in_gen("prompts")
    constrain: bool = as_in_gen("constrain")
    max_new_tokens: int = as_in_gen("max_new_tokens")
    crop_min_side: float | None = as_in_gen("crop_min_side")
    crop_max_aspect: float | None = as_in_gen("crop_max_aspect")
    box_win: float = as_in_gen("box_win")
    box_lose: float = as_in_gen("box_lose")
    response_win: float = as_in_gen("response_win")
    response_lose: float = as_in_gen("response_lose")

    seed: int = option(0, "Seed of the drawn questions and of their cases.", panel="Running")
    engine: str = as_in_gen("engine")
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
    chunk_size: int = as_in_gen("chunk_size")
    trust_remote_code: bool = as_in_gen("trust_remote_code")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))
        self.gen_config()  # checks the thresholds and the step
        if not self.critics:
            raise UsageError(
                f"--no-box-critic with --response-critic {self.response_critic}: then no model scores anything, and "
                "there is no critic to calibrate. Leave one of them out."
            )

    @property
    def critics(self) -> tuple[str, ...]:
        """The critics that a model plays; an answer metric needs no calibration."""
        return ("box",) * self.box_critic + ("response",) * (self.response_critic == "model")

    def gen_config(self) -> GenConfig:
        """Return the same options for generation."""
        names = {spec.name for spec in dataclasses.fields(GenConfig)}
        return GenConfig(**{s.name: getattr(self, s.name) for s in dataclasses.fields(self) if s.name in names})

    def verdict_options(self) -> dict[str, Any]:
        """Return the options on which verdicts depend.

        Thresholds, addresses and vLLM's use of the machine may change without a new call.
        """
        values = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        values["vllm_options"] = options_of_replies(self.vllm_options or {}) or None
        return {name: value for name, value in values.items() if name not in (*THRESHOLDS, *ELSEWHERE)}
