"""Run vLLM inside this process: a whole pass at once, on a GPU that vLLM supports or, for tests, on a CPU.

- One engine holds the base's weights; the actor is its adapter, switched on per request.
- The engine core runs in this process and not in one of its own: it can't die alone, and it dies with the run.
- Prompts are the texts of the transformers engine, by the model's own chat template, and replies are decoded from
  token ids as there; vLLM's own text differs where a character is cut.
- Text stays text: special tokens that occur inside a question or a response are broken up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from PIL.Image import Image

from visrl_data.core.errors import VisRLError
from visrl_data.engines import vllm_cpu_lora
from visrl_data.engines.decoding import GrammarCompiler, branch_nodes, choice_reply, with_tokens
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.loading import image_settings, load_processor
from visrl_data.engines.messages import adds_special, prompt_text
from visrl_data.engines.protocol import EngineLost, ModelIdentity, Reply, Request, Usage
from visrl_data.engines.refusals import check_length, is_out_of_memory, raise_refusals
from visrl_data.engines.torch_extensions import unfit_extensions
from visrl_data.engines.vllm_options import (
    Options,
    check_vllm_options,
    default_options,
    merge_options,
    options_of_replies,
)
from visrl_data.engines.vllm_pictures import check_pictures, link_model
from visrl_data.models.model_files import read_object
from visrl_data.models.model_folder import ModelFolder

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM accepts as max_lora_rank
_SEEDS = 2**63


class VLLMEngine:
    """A model, and its adapter if it has one, in vLLM.

    options: settings of vLLM's own (--vllm-options). Raises VisRLError when vLLM is missing or can't load the model,
    UsageError for settings that it does not have.
    """

    name = "vllm"
    deterministic = False
    constrains = True
    gives_logprobs = True

    def __init__(
        self,
        folder: ModelFolder,
        dtype: str = "auto",
        max_pixels: int | None = None,
        trust_remote_code: bool = False,
        options: Options | None = None,
    ) -> None:
        vllm = import_vllm()
        platform = vllm.platforms.current_platform
        self.folder = folder
        self.usage = Usage()
        self.processor = load_processor(folder, max_pixels, trust_remote_code)
        self.image_settings = image_settings(folder, self.processor, max_pixels)
        self.dtype = dtype if dtype != "auto" else "float32" if platform.is_cpu() else "bfloat16"
        self._special = sorted(self.processor.tokenizer.get_added_vocab(), key=len, reverse=True)
        self._grammars = GrammarCompiler(self.processor.tokenizer, [self.processor.tokenizer.eos_token_id])
        self._device = "cpu" if platform.is_cpu() else platform.get_device_name()
        self._vllm = vllm
        self._refusals = (ValueError, vllm.exceptions.VLLMClientError)
        known = {spec.name for spec in dataclasses.fields(vllm.EngineArgs)}
        check_vllm_options(options or {}, known, vllm.__version__)
        self._options = merge_options(_defaults(folder, platform.is_cpu()), options or {})
        self._lora: Any = None
        if folder.base is not None:
            if platform.is_cpu():
                vllm_cpu_lora.install()
            self._lora = vllm.lora.request.LoRARequest("actor", 1, str(folder.path))
            self._options |= {"enable_lora": True, "max_lora_rank": _rank(folder)}
        links = link_model(folder.weights, self.processor)
        try:
            with _stdout_to_stderr():
                self._llm = vllm.LLM(
                    model=str(links),
                    dtype=self.dtype,
                    trust_remote_code=trust_remote_code,
                    **self._options,
                )
        except Exception as error:  # vLLM raises anything for a model that it does not know
            raise VisRLError(f"vLLM could not load {folder.id}: {_reason(error)}") from error
        if self._lora is not None:
            self._load_adapter()
        check_pictures(folder.id, self._llm, self.processor, self._special)
        self._context: int = self._llm.llm_engine.model_config.max_model_len

    def _load_adapter(self) -> None:
        """Load the adapter now: with the first requests, what vLLM has against it would be a refusal of each."""
        try:
            self._llm.llm_engine.add_lora(self._lora)
        except Exception as error:  # vLLM raises anything for an adapter that it does not know
            raise VisRLError(
                f"vLLM could not load the adapter {self.folder.id}: {_reason(error)}. "
                f"`visrl merge {shlex.quote(self.folder.id)} -o FOLDER` makes full weights of it."
            ) from error

    def identity(self) -> ModelIdentity:
        identity: ModelIdentity = {
            "engine": self.name,
            "model": self.folder.id,
            "revision": self.folder.revision,
            "digest": self.folder.digest,
            "weights_digest": self.folder.weights.digest,
            "device": self._device,
            "dtype": self.dtype,
            "vllm": self._vllm.__version__,
            "vllm_options": options_of_replies(self._options),
        }
        return identity

    def resized_size(self, image: Image) -> tuple[int, int]:
        """Return (width, height) in pixels after the resize of the model's own processor."""
        return picture_size(self.processor, image)

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Return one reply a seed for each request, in order. Raises RequestRefused, EngineLost."""
        if not requests:
            return []
        self._check_grammars(requests)
        replies = self._choose(requests) if requests[0].choices else self._sample(requests)
        self.usage.count(replies)
        return replies

    def _check_grammars(self, requests: Sequence[Request]) -> None:
        """Raise VisRLError for a grammar that vLLM's backend can't compile: vLLM calls it a fault of the request."""
        distinct = {request.grammar for request in requests} - {""}
        self._grammars.matchers([*distinct], len(self.processor.tokenizer))

    def _sample(self, requests: Sequence[Request]) -> list[list[Reply]]:
        rows = [  # greedy replies to a prompt are all the same
            (request, seed)
            for request in requests
            for seed in (request.seeds if request.sampling.temperature > 0 else request.seeds[:1])
        ]
        texts = [prompt_text(request, self.processor, self._special) for request, _ in rows]
        outputs = iter(self._run([r for r, _ in rows], texts, [self._sampling(*row) for row in rows]))
        return [
            [self._reply(next(outputs)) for _ in request.seeds]
            if request.sampling.temperature > 0
            else [self._reply(next(outputs))] * len(request.seeds)
            for request in requests
        ]

    def _sampling(self, request: Request, seed: int) -> Any:
        sampling = request.sampling
        grammar: Any = None
        if request.grammar:
            text = with_tokens(request.grammar, self.processor.tokenizer.get_added_vocab())
            grammar = self._vllm.sampling_params.StructuredOutputsParams(grammar=text)
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed % _SEEDS,
            structured_outputs=grammar,
            logprobs=0 if request.logprob else None,  # of the sampled tokens alone
        )

    def _run(self, requests: Sequence[Request], texts: Sequence[str], sampling: Sequence[Any]) -> list[Any]:
        """Return vLLM's outputs for prompts (the texts) with the images of the requests.

        Those with the adapter and those without run apart: vLLM's CPU build applies it to all that run together.
        """
        outputs: dict[int, Any] = {}
        for adapter in (False, True):
            places = [place for place, request in enumerate(requests) if request.adapter == adapter]
            prompts = [_prompt(texts[place], requests[place].images) for place in places]
            if prompts:
                lora = self._lora if adapter else None
                found = self._complete(prompts, [sampling[place] for place in places], lora)
                outputs.update(zip(places, found, strict=True))
        for place, params in enumerate(sampling):
            check_length(len(outputs[place].prompt_token_ids), params.max_tokens, self._context)
        return [outputs[place] for place in range(len(requests))]

    def _complete(self, prompts: list[dict[str, Any]], sampling: list[Any], lora: Any) -> list[Any]:
        with self._raise_lost(), raise_refusals(*self._refusals):
            outputs: list[Any] = self._llm.generate(
                prompts,
                sampling,
                use_tqdm=False,
                lora_request=lora,
                tokenization_kwargs={"add_special_tokens": adds_special(self.processor, prompts[0]["prompt"])},
            )
        return outputs

    @contextlib.contextmanager
    def _raise_lost(self) -> Iterator[None]:
        """Raise what vLLM says when a part of it died, or when memory ran out, as EngineLost."""
        try:
            yield
        except (AssertionError, MemoryError, RuntimeError, self._vllm.exceptions.VLLMServerError) as error:
            hint = ""
            if is_out_of_memory(error):
                hint = " Leave vLLM less of the memory: --vllm-options gpu_memory_utilization=0.8."
            elif self._options.get("tensor_parallel_size", 1) > 1:
                hint = " If a process of its own died (see above), memory may have run out there."
            raise EngineLost(f"vLLM stopped on {self._device}: {_reason(error)}.{hint}") from error

    def _reply(self, output: Any) -> Reply:
        done = output.outputs[0]
        is_cut = done.finish_reason == "length"
        ids = [*done.token_ids]
        text = self.processor.tokenizer.decode(ids if is_cut else ids[:-1], skip_special_tokens=True)
        finish, length = "length" if is_cut else "stop", len(output.prompt_token_ids)
        return Reply(
            text.strip(),
            finish,
            length,
            len(ids),
            cached_prompt_tokens=output.num_cached_tokens,
            logprob=done.cumulative_logprob,
        )

    def _choose(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Return the probabilities of the choices, from one short prompt for each place where they part."""
        tokenizer = self.processor.tokenizer
        choices = requests[0].choices
        branches = branch_nodes(tokenizer, requests[0].prefix, choices)
        rows = [(request, path) for request in requests for path in branches]
        texts = [
            prompt_text(request, self.processor, self._special) + tokenizer.decode(list(path)) for request, path in rows
        ]
        sampling = [
            self._vllm.SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=sorted(branches[path]))
            for _, path in rows
        ]
        outputs = iter(self._run([request for request, _ in rows], texts, sampling))
        replies = []
        for _ in requests:
            probs: dict[tuple[int, int], float] = {}
            for path, below in branches.items():
                output = next(outputs)
                _check_path(output.prompt_token_ids, path)
                first = output.outputs[0].logprobs[0]
                probs |= {(len(path), token): math.exp(first[token].logprob) for token in below}
            reply = choice_reply(probs, branches, choices, len(output.prompt_token_ids))
            replies.append([dataclasses.replace(reply, cached_prompt_tokens=output.num_cached_tokens)])
        return replies


def _prompt(text: str, images: Sequence[Image]) -> dict[str, Any]:
    return {"prompt": text, "multi_modal_data": {"image": list(images)}} if images else {"prompt": text}


def _check_path(prompt: Sequence[int], path: Sequence[int]) -> None:
    """Raise VisRLError where a prompt does not end with these tokens, as its text did by themselves."""
    if path and tuple(prompt[-len(path) :]) != tuple(path):
        raise VisRLError(
            "This model's tokenizer joins scores with what is before them, so vLLM can't give their probabilities. "
            "Use --score-mode text."
        )


def import_vllm() -> Any:
    """Import vLLM, set up for a library: silent, on stderr, its engine in this process. Raises VisRLError."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        with _stdout_to_stderr():
            import vllm
            import vllm.exceptions
            import vllm.lora.request
            import vllm.platforms
            import vllm.sampling_params
    except ImportError as error:
        raise VisRLError(
            f"The vllm engine could not be imported: {_reason(error)}. On a machine with a GPU: pip install '.[vllm]'; "
            "for a CPU see docs/engines.md. Without vLLM, --engine transformers runs here, --engine openai on a server."
        ) from error
    if os.environ["VLLM_LOGGING_LEVEL"] == "ERROR":  # else a failure is followed by all inputs, the pixels too
        logging.getLogger("vllm.logging_utils.dump_input").disabled = True
    if unfit_extensions():
        inspect_models_here()
    return vllm


def inspect_models_here() -> None:
    """Keep vLLM from looking at a model's class in a child process, where torch_extensions.py has repaired nothing."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda look: look()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what is written to stdout, also by libraries in C++ and by child processes, to stderr: --json is there."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _defaults(folder: ModelFolder, cpu: bool) -> dict[str, Any]:
    import psutil

    config = read_object(folder.weights.path / "config.json")
    return default_options(config, cpu, psutil.virtual_memory().available)


def _rank(folder: ModelFolder) -> int:
    """Return the smallest max_lora_rank that holds this adapter. Raises VisRLError when there is none."""
    rank = read_object(folder.path / "adapter_config.json").get("r", 8)
    for max_rank in _RANKS:
        if rank <= max_rank:
            return max_rank
    raise VisRLError(f"{folder.id} is an adapter of rank {rank}; vLLM takes at most {_RANKS[-1]}. `visrl merge` it.")


def _reason(error: BaseException) -> str:
    """Return the line of an error that says what is wrong: the second one of a failed validation."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[1] if "validation error" in lines[0] and len(lines) > 1 else lines[0]
    return line.removeprefix("Value error, ").partition(" [type=")[0].rstrip(".")
