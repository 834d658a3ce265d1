"""A stand-in for vLLM with the signatures of 0.32 that the engine uses: what does not fit them is an error.

For the shipped model only, whose prompts it reads. `install` puts it into sys.modules. A reply is what `script` makes
of (parts of the prompt, its images, seed, adapter's path or None).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from visrl_data.core.prompts import PromptPart


@dataclasses.dataclass(kw_only=True)
class StructuredOutputsParams:
    grammar: str | None = None


@dataclasses.dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


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
    logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputsParams | None = None

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


CACHED = 3  # tokens of each prompt
TOKEN_LOGPROB = -0.5  # of each token of a reply


@dataclasses.dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]
    num_cached_tokens: int | None = CACHED


class VLLMClientError(Exception):
    """No ValueError, as in recent releases."""


class VLLMServerError(Exception):
    """What a dead part of vLLM raises."""


@dataclasses.dataclass
class EngineArgs:
    """Names of vLLM's settings; others are a TypeError."""

    model: str = ""
    trust_remote_code: bool = False
    dtype: str = "auto"
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    enforce_eager: bool = False
    limit_mm_per_prompt: dict[str, int] = dataclasses.field(default_factory=dict)
    max_model_len: int | None = None
    block_size: int | None = None
    use_tqdm_on_load: bool = True
    model_impl: str = "auto"
    enable_lora: bool = False
    max_lora_rank: int = 16
    structured_outputs_config: dict[str, Any] | None = None
    tensor_parallel_size: int = 1
    quantization: str | None = None


_ROLE = re.compile(r"<\|sl_(user|assistant)\|>(.*?)(?:<\|sl_end\|>|$)", re.DOTALL)
IMAGE = "<|sl_image|>"
CONTEXT = 4096


def read_prompt(text: str) -> list[PromptPart]:
    """The parts of a prompt that Spotlight's chat template made."""
    parts: list[PromptPart] = []
    for role, content in _ROLE.findall(text):
        if role == "assistant":
            parts += [PromptPart("reply", content)] if content else []
            continue
        for number, piece in enumerate(content.split(IMAGE)):
            parts += [PromptPart("image")] * (number > 0) + ([PromptPart("text", piece)] if piece else [])
    return parts


class Renderer:
    """Makes of prompts what the model is fed, by the processor of its folder, as vLLM's does."""

    def __init__(self, model: str) -> None:
        self._processor = AutoProcessor.from_pretrained(model)
        self.default_cmpl_tok_params = types.SimpleNamespace(with_kwargs=lambda **options: options)

    def render_cmpl(
        self, prompts: Sequence[Any], tok_params: dict[str, Any], *, skip_mm_cache: bool = False
    ) -> list[dict[str, Any]]:
        assert skip_mm_cache, "pictures that are in the cache are left out"
        return [self._one(prompt, tok_params) for prompt in prompts]

    def _one(self, prompt: Any, options: dict[str, Any]) -> dict[str, Any]:
        images = prompt["multi_modal_data"]["image"]
        batch = self._processor(text=prompt["prompt"], images=images, return_tensors="pt", **options)
        pictures = types.SimpleNamespace(get_data=lambda: {"pixel_values": batch["pixel_values"]})
        return {"prompt_token_ids": batch["input_ids"][0].tolist(), "mm_kwargs": pictures}


Script = Callable[[Sequence[PromptPart], Sequence[Image.Image], int, str | None], str]


class LLM:
    """Only what the engine may use."""

    script: Script
    made: list[LLM]
    error: Exception | None = None  # raised by the next call

    def __init__(self, **options: Any) -> None:
        self.options = EngineArgs(**options)
        assert self.options.max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        os.write(1, b"vLLM is here\n")  # it is a chatty library
        config = types.SimpleNamespace(max_model_len=CONTEXT)
        self.llm_engine = types.SimpleNamespace(model_config=config, add_lora=self._add_lora)
        self.calls: list[list[tuple[Any, SamplingParams, LoRARequest | None]]] = []
        self._tokenizer = AutoTokenizer.from_pretrained(self.options.model)
        self.renderer = Renderer(self.options.model)
        type(self).made.append(self)

    def _add_lora(self, lora_request: LoRARequest) -> bool:
        config = json.loads((Path(lora_request.lora_path) / "adapter_config.json").read_text())
        if config.get("use_dora"):
            raise ValueError("vLLM does not yet support DoRA.")
        return self.options.enable_lora

    def generate(
        self,
        prompts: Sequence[Any],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        assert len(prompts) == len(sampling_params)
        if lora_request and not self.options.enable_lora:
            raise ValueError("Got lora_request but LoRA is not enabled!")
        if self.error:
            raise self.error
        self.calls.append(
            [(prompt, params, lora_request) for prompt, params in zip(prompts, sampling_params, strict=True)]
        )
        return [self._one(i, *call) for i, call in enumerate(self.calls[-1])]

    def _one(self, i: int, prompt: Any, params: SamplingParams, lora: LoRARequest | None) -> RequestOutput:
        text, images = prompt["prompt"], prompt.get("multi_modal_data", {"image": []})["image"]
        limit = self.options.limit_mm_per_prompt.get("image", 1)
        if len(images) > limit:
            raise VLLMClientError(f"At most {limit} image(s) may be provided in one prompt.")
        assert text.count(IMAGE) == len(images)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if params.logprob_token_ids:
            assert params.max_tokens == 1
            even = Logprob(-math.log(len(params.logprob_token_ids)))
            first = dict.fromkeys(params.logprob_token_ids, even)
            return RequestOutput(str(i), ids, [CompletionOutput(0, "", [0], None, [first], "length")])
        assert params.seed is not None
        reply = type(self).script(read_prompt(text), images, params.seed, lora and lora.lora_path)
        new = [*self._tokenizer(reply, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id]
        is_cut = params.max_tokens is not None and len(new) > params.max_tokens
        new = new[: params.max_tokens]
        logprob = None if params.logprobs is None else TOKEN_LOGPROB * len(new)
        output = CompletionOutput(0, "not this text", new, logprob, None, "length" if is_cut else "stop")
        return RequestOutput(str(i), ids, [output])


def install(monkeypatch: Any, script: Script, is_cpu: bool = False) -> type[LLM]:
    """The stand-in as the module vllm; returns its LLM, whose `made` lists the engines."""
    fresh = type("LLM", (LLM,), {"script": staticmethod(script), "made": []})
    names = ("vllm", "vllm.exceptions", "vllm.platforms", "vllm.sampling_params", "vllm.lora", "vllm.lora.request",
             "vllm.lora.ops", "vllm.lora.ops.torch_ops", "vllm.lora.ops.torch_ops.lora_ops",
             "vllm.lora.punica_wrapper", "vllm.lora.punica_wrapper.punica_cpu", "vllm.model_executor",
             "vllm.model_executor.models", "vllm.model_executor.models.registry")  # fmt: skip
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    platform = types.SimpleNamespace(is_cpu=lambda: is_cpu, get_device_name=lambda: "Some GPU")
    content = {
        "vllm": {"LLM": fresh, "SamplingParams": SamplingParams, "EngineArgs": EngineArgs, "__version__": "0.32.0"},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.exceptions": {"VLLMClientError": VLLMClientError, "VLLMServerError": VLLMServerError},
        "vllm.platforms": {"current_platform": platform},
        "vllm.sampling_params": {"StructuredOutputsParams": StructuredOutputsParams},
    }
    for name, values in content.items():
        for key, value in values.items():
            setattr(modules[name], key, value)
    return fresh
