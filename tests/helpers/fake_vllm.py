"""A stand-in for vLLM with its documented signatures (0.33): what does not fit them is an error.

`install` puts it into sys.modules. A reply is what `script` makes of (messages, seed, adapter's path or None).
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = 16

    def __post_init__(self) -> None:
        assert self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= -1
        assert self.seed is None or -(2**63) <= self.seed < 2**63


@dataclasses.dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        assert self.lora_int_id >= 1 and self.lora_path


@dataclasses.dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: Any
    finish_reason: str | None = None


@dataclasses.dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]


class VLLMClientError(Exception):
    """No ValueError, as in recent releases."""


class Tokenizer:
    def get_added_vocab(self) -> dict[str, int]:
        return {"<image>": 1, "<|im_end|>": 2}


class LLM:
    """Only what the engine may use; other names are a TypeError, as in EngineArgs."""

    script: Callable[[list[dict], int, str | None], str]
    calls: list[list[tuple[list[dict], SamplingParams, LoRARequest | None]]]

    def __init__(
        self,
        model: str,
        *,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        mm_processor_kwargs: dict[str, Any] | None = None,
        enable_prefix_caching: bool | None = None,
        limit_mm_per_prompt: dict[str, int] | None = None,
        max_model_len: int | None = None,
        enable_lora: bool = False,
        max_loras: int = 1,
        max_lora_rank: int = 16,
    ) -> None:
        assert max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        self.options = {name: value for name, value in locals().items() if name != "self"}
        self.limit = (limit_mm_per_prompt or {}).get("image", 1)
        type(self).made.append(self)
        self.calls = []

    made: list[LLM] = []

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def chat(
        self,
        messages: Sequence[list[dict]],
        sampling_params: Sequence[SamplingParams],
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        if len(messages) != len(sampling_params):
            raise ValueError("The lengths of prompts and params must be the same.")
        if lora_request is not None and not self.options["enable_lora"]:
            raise ValueError("Got lora_request but LoRA is not enabled!")
        self.calls.append(
            [(turns, params, lora_request) for turns, params in zip(messages, sampling_params, strict=True)]
        )
        return [self._one(i, *call) for i, call in enumerate(self.calls[-1])]

    def _one(self, i: int, turns: list[dict], params: SamplingParams, lora: LoRARequest | None) -> RequestOutput:
        pictures = [piece for turn in turns if turn["role"] == "user" for piece in turn["content"] if _picture(piece)]
        if len(pictures) > self.limit:
            raise VLLMClientError(f"At most {self.limit} image(s) may be provided in one prompt.")
        words = type(self).script(turns, params.seed, lora and lora.lora_path).split(" ")
        cut = words[: params.max_tokens]
        output = CompletionOutput(0, " ".join(cut), list(range(len(cut))), None, None)
        output.finish_reason = "stop" if len(cut) == len(words) else "length"
        return RequestOutput(str(i), [0] * (10 + len(pictures)), [output])


def _picture(piece: dict) -> bool:
    if piece["type"] == "text":
        assert isinstance(piece["text"], str)
        return False
    assert piece["type"] == "image_pil" and isinstance(piece["image_pil"], Image.Image), piece
    return True


def install(monkeypatch: Any, script: Callable[[list[dict], int, str | None], str]) -> type[LLM]:
    """The stand-in as the module vllm; returns its LLM, whose `made` lists the engines."""
    fresh = type("LLM", (LLM,), {"script": staticmethod(script), "made": []})
    names = ("vllm", "vllm.lora", "vllm.lora.request", "vllm.exceptions")
    vllm, lora, request, exceptions = (types.ModuleType(name) for name in names)
    exceptions.VLLMClientError = VLLMClientError  # type: ignore[attr-defined]
    vllm.LLM, vllm.SamplingParams, vllm.__version__ = fresh, SamplingParams, "0.33.0"  # type: ignore[attr-defined]
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for module in (vllm, lora, request, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return fresh
