"""Run vLLM inside this process: a whole pass at once, for machines with a GPU that vLLM supports.

`LLM.chat` does the batching and shares prefixes. One engine holds the base's weights; the actor is its adapter,
switched on per request. Written against vLLM's documented interface and tested on a stand-in of it; it has NOT been
run on a GPU yet (docs/engines.md).

Text stays text: special tokens that occur inside a question or a response are broken up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from PIL.Image import Image

from visrl_data.core.errors import VisRLError
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.loading import load_processor
from visrl_data.engines.messages import chat_messages, plain_text, reject_choices
from visrl_data.engines.protocol import ModelIdentity, Reply, Request, Usage
from visrl_data.engines.refusals import raise_refusals
from visrl_data.models.model_folder import ModelFolder

MAX_IMAGES = 2  # in one prompt: the image and a crop
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM accepts as max_lora_rank
_SEEDS = 2**63


class VLLMEngine:
    """A model, and its adapter if it has one, in vLLM. Raises VisRLError when vLLM is missing or can't load it."""

    name = "vllm"
    deterministic = False

    def __init__(
        self, folder: ModelFolder, dtype: str = "auto", max_pixels: int | None = None, trust_remote_code: bool = False
    ) -> None:
        vllm = _import()
        self.folder = folder
        self.dtype = "bfloat16" if dtype == "auto" else dtype
        self.usage = Usage()
        self._max_pixels, self._trust = max_pixels, trust_remote_code
        self._processor: Any = None
        self._params = vllm.SamplingParams
        self._lora: Any = None
        options: dict[str, Any] = {"mm_processor_kwargs": {"max_pixels": max_pixels}} if max_pixels else {}
        if folder.base is not None:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest("actor", 1, str(folder.path))
            options |= {"enable_lora": True, "max_lora_rank": _rank(folder)}
        try:
            self._llm = vllm.LLM(
                model=str(folder.weights.path),
                dtype=self.dtype,
                trust_remote_code=trust_remote_code,
                enable_prefix_caching=True,
                limit_mm_per_prompt={"image": MAX_IMAGES},
                **options,
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise VisRLError(f"vLLM could not load {folder.id}: {str(error).strip().partition(chr(10))[0]}") from error
        self._special = sorted(self._llm.get_tokenizer().get_added_vocab(), key=len, reverse=True)
        self._version = vllm.__version__
        self._refusals = _refusals()

    def identity(self) -> ModelIdentity:
        return {
            "engine": self.name,
            "model": self.folder.id,
            "revision": self.folder.revision,
            "digest": self.folder.digest,
            "weights_digest": self.folder.weights.digest,
            "dtype": self.dtype,
            "vllm": self._version,
        }

    def resized_size(self, image: Image) -> tuple[int, int]:
        """Return (width, height) in pixels after the resize of the model's own processor."""
        if self._processor is None:
            self._processor = load_processor(self.folder, self._max_pixels, self._trust)
        return picture_size(self._processor, image)

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Return one reply a seed for each request. Neighbors on the same weights go to vLLM together."""
        reject_choices(requests, self.name)
        replies: list[list[Reply]] = []
        for adapter, group in groupby(requests, key=lambda request: request.adapter):
            replies += self._chat(list(group), adapter)
        self.usage.count(replies)
        return replies

    def _chat(self, requests: list[Request], adapter: bool) -> list[list[Reply]]:
        turns = [chat_messages(request, _picture, lambda text: plain_text(text, self._special)) for request in requests]
        messages = [turn for request, turn in zip(requests, turns, strict=True) for _ in request.seeds]
        sampling = [self._sampling(request, seed) for request in requests for seed in request.seeds]
        with raise_refusals(*self._refusals):
            outputs = self._llm.chat(messages, sampling, use_tqdm=False, lora_request=self._lora if adapter else None)
        rest = iter(outputs)
        return [[_reply(next(rest)) for _ in request.seeds] for request in requests]

    def _sampling(self, request: Request, seed: int) -> Any:
        sampling = request.sampling
        return self._params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed % _SEEDS,
        )


def _import() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise VisRLError(
            "The vllm engine needs vLLM and a GPU that it supports: pip install '.[vllm]'. Without one, "
            "--engine transformers runs here, --engine openai on a server elsewhere."
        ) from error
    return vllm


def _refusals() -> tuple[type[Exception], ...]:
    """Return what vLLM raises for a prompt that it does not take: in recent releases errors of its own."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return (ValueError,)
    return (ValueError, VLLMClientError)


def _rank(folder: ModelFolder) -> int:
    """Return the smallest max_lora_rank that holds this adapter. Raises VisRLError when there is none."""
    rank = json.loads((folder.path / "adapter_config.json").read_text(encoding="utf-8")).get("r", 8)
    for max_rank in _RANKS:
        if rank <= max_rank:
            return max_rank
    raise VisRLError(f"{folder.id} is an adapter of rank {rank}; vLLM takes at most {_RANKS[-1]}. `visrl merge` it.")


def _picture(image: Image) -> dict[str, Any]:
    return {"type": "image_pil", "image_pil": image}


def _reply(output: Any) -> Reply:
    done = output.outputs[0]
    finish = "length" if done.finish_reason == "length" else "stop"
    return Reply(done.text.strip(), finish, len(output.prompt_token_ids), len(done.token_ids))
