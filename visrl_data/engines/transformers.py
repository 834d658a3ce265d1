"""Run any image-text-to-text model of transformers on this machine.

How a batch runs:
- Sampling is keyed: each row draws one uniform number a step from its own counter-based stream and takes the
  inverse of its cumulative distribution, so a reply depends on its seed, not on the rest of the batch.
- Several replies to one prompt share its prefill: the prompt runs once, and its key-value cache is repeated. Families
  whose cache can't be repeated fall back to `num_return_sequences`.
- Where the family allows it (prefix_cache.py), prompts share common prefixes, and images are encoded once.
- A grammar, where a request has one, masks all tokens but those that it allows next.
- Out of memory halves the batch and records it.
- Text stays text: special tokens that occur inside a question or a response are broken up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from transformers import GenerationConfig, LogitsProcessorList, StaticCache

from visrl_data.core.errors import VisRLError
from visrl_data.engines.batching import batches
from visrl_data.engines.decoding import (
    ForcedTokens,
    GrammarCompiler,
    KeyedSampler,
    LogprobRecorder,
    branch_nodes,
    choice_reply,
)
from visrl_data.engines.image_encoder import accepts_image_features
from visrl_data.engines.image_processing import copy_pinpoints, picture_size
from visrl_data.engines.loaded_model import adapter, eos_ids, keep_token_ids, unwrapped
from visrl_data.engines.loading import image_settings, load_model, load_processor, pick_device, pick_dtype
from visrl_data.engines.messages import adds_special, prompt_text
from visrl_data.engines.prefix_cache import Prefiller, PrefixCache
from visrl_data.engines.protocol import ModelIdentity, Reply, Request, Sampling, Usage
from visrl_data.engines.quantization import NF4, four_bits
from visrl_data.engines.recurrent_cache import copy_layer
from visrl_data.engines.refusals import PROCESSOR_ERRORS, check_length, is_out_of_memory, raise_refusals
from visrl_data.engines.repeated_cache import decode_repeated
from visrl_data.models.families import family_at
from visrl_data.models.model_folder import ModelFolder

logger = logging.getLogger(__name__)


class TransformersEngine:
    """A model and its processor on one device.

    Raises VisRLError when the model can't be loaded, with what is missing.
    """

    name = "transformers"
    constrains = True
    gives_logprobs = True

    def __init__(
        self,
        folder: ModelFolder,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 32,
        max_pixels: int | None = None,
        trust_remote_code: bool = False,
        quantize: bool = False,
    ) -> None:
        self.folder = folder
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.batch_size = batch_size
        self.usage = Usage()
        self.processor = load_processor(folder, max_pixels, trust_remote_code)
        self.image_settings = image_settings(folder, self.processor, max_pixels)
        self.quantized = quantize
        try:
            self.model = self._load(trust_remote_code)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise VisRLError(
                f"Out of memory on {self.device} while {folder.id} was loaded. Use a smaller --dtype, --quantize (on a "
                "GPU), another --device, or a smaller model. `visrl doctor --model` estimates the memory."
            ) from error
        copy_pinpoints(self.model, self.processor)
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._special = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._eos = eos_ids(self.model, tokenizer)
        keep_token_ids(self.model)
        family = family_at(folder.weights.path)
        self._shares_prefill = family.shares_prefill
        self._sizes_vary = family.resize_mode in ("resized", "tiled")
        inner = getattr(unwrapped(self.model), "model", None)
        sharing = family.shares_prefix and accepts_image_features(inner)
        self._prefiller = Prefiller(inner, self.processor, self.device, self.dtype, batch_size) if sharing else None
        self._grammars = GrammarCompiler(tokenizer, self._eos)
        text: Any = self.model.config.get_text_config()
        self._context: int | None = getattr(text, "max_position_embeddings", None)

    def _load(self, trust_remote_code: bool) -> Any:
        if not self.quantized:
            return load_model(self.folder, self.dtype, trust_remote_code).to(self.device)
        settings = four_bits(self.folder, self.dtype, self.device.type == "cuda", trust_remote_code)
        return load_model(self.folder, self.dtype, trust_remote_code, settings, self.device)

    @property
    def deterministic(self) -> bool:
        return self.device.type == "cpu" and self.dtype == torch.float32

    def identity(self) -> ModelIdentity:
        identity: ModelIdentity = {
            "engine": self.name,
            "model": self.folder.id,
            "revision": self.folder.revision,
            "digest": self.folder.digest,
            "weights_digest": self.folder.weights.digest,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "image_processor": type(self.processor.image_processor).__name__,
        }
        if self.quantized:  # no key where it is off: runs of earlier versions resume
            identity["quantization"] = NF4
        return identity

    def resized_size(self, image: Image) -> tuple[int, int]:
        """Return (width, height) in pixels after the processor's resize, read off its output."""
        return picture_size(self.processor, image)

    def generate(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Return one reply a seed for each request, in order. Raises RequestRefused."""
        replies: list[list[Reply]] = [[] for _ in requests]
        for places in batches(requests, self.batch_size, self._sizes_vary):
            for place, group in zip(places, self._run([requests[i] for i in places]), strict=True):
                replies[place] = group
        self.usage.count(replies)
        return replies

    def _run(self, batch: Sequence[Request]) -> list[list[Reply]]:
        """Run one batch; in halves when the device's memory is not enough for it."""
        try:
            with torch.inference_mode(), adapter(self.model, batch[0].adapter):
                return self._choose(batch) if batch[0].choices else self._sample(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise VisRLError(
                    f"Out of memory on {self.device} with a single prompt of {len(batch[0].seeds)} replies. "
                    "Use fewer --attempts, smaller pictures (--max-pixels), a smaller --dtype or another --device."
                ) from error
        # Outside the handler, so that the failed forward's tensors are freed first.
        if self._prefiller:
            self._prefiller.images.clear()
        self.usage.events.append(f"out of memory: batch of {len(batch)} prompts halved")
        logger.warning("%s", self.usage.events[-1])
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self._run(batch[:half]) + self._run(batch[half:])

    def _encode(self, batch: Sequence[Request]) -> dict[str, torch.Tensor]:
        """Return left-padded inputs, input_ids (B, L), with all images of the batch in reading order."""
        texts = [self._text(request) for request in batch]
        with raise_refusals(*PROCESSOR_ERRORS):
            inputs = self.processor(
                text=texts,
                images=[list(request.images) for request in batch],
                padding=True,
                add_special_tokens=adds_special(self.processor, texts[0]),
                return_tensors="pt",
            )
        self._check_lengths(inputs["attention_mask"].sum(dim=1).tolist(), batch[0])
        inputs = inputs.to(self.device)
        return {k: v.to(self.dtype) if torch.is_floating_point(v) else v for k, v in inputs.items()}

    def _check_lengths(self, lengths: list[int], request: Request) -> None:
        """Raise RequestTooLong when a prompt does not fit the context, before any memory is taken for it."""
        check_length(max(lengths), request.sampling.max_new_tokens, self._context)

    def _text(self, request: Request) -> str:
        return prompt_text(request, self.processor, self._special)

    def _sample(self, batch: Sequence[Request]) -> list[list[Reply]]:
        repeats = len(batch[0].seeds)
        n = repeats if batch[0].sampling.temperature > 0 else 1  # greedy replies to a prompt are all the same
        seeds = [seed for request in batch for seed in request.seeds[:n]]
        options = self._options(batch[0].sampling, seeds)
        recorder = LogprobRecorder() if batch[0].logprob else None
        if recorder:
            options["logits_processor"].insert(0, recorder)
        if batch[0].grammar:
            grammars = [request.grammar for request in batch for _ in range(n)]
            options["logits_processor"].insert(0, self._grammars.processor(grammars))
        if self._prefiller:
            ids, mask = self._decode(self._prefill(batch), n, options)
        else:
            inputs = self._encode(batch)
            mask = inputs["attention_mask"].repeat_interleave(n, dim=0)
            if n == 1:
                ids = self.model.generate(**inputs, **options)
            elif self._shares_prefill:
                ids = decode_repeated(self.model, inputs, n, options)
            else:
                options["generation_config"].num_return_sequences = n
                ids = self.model.generate(**inputs, **options)
        prompt_tokens = mask.sum(dim=1).tolist()
        new = ids[:, mask.shape[1] :].tolist()
        logprobs = recorder.read(ids) if recorder else [None] * len(new)
        rows = zip(new, prompt_tokens, logprobs, strict=True)
        replies = [self._reply(row, tokens, of_tokens) for row, tokens, of_tokens in rows]
        return [replies[i : i + n] * (repeats // n) for i in range(0, len(replies), n)]

    def _prefill(self, batch: Sequence[Request]) -> PrefixCache:
        assert self._prefiller is not None
        texts = [self._text(request) for request in batch]
        special = adds_special(self.processor, texts[0])
        prompts = self._prefiller.tokenize(texts, [r.images for r in batch], batch[0].adapter, special)
        self._check_lengths([len(prompt.ids) for prompt in prompts.distinct], batch[0])
        return self._prefiller.prefill(prompts)

    def _decode(self, prefix: PrefixCache, n: int, options: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode n rows for each prompt of the cache: their tokens (B * n, L + new), and the mask (B * n, L)."""
        assert self._prefiller is not None
        rows = [row for row in prefix.rows for _ in range(n)]
        self._prefiller.set_rope_deltas(prefix, rows)
        ids, mask = prefix.ids[rows], prefix.mask[rows]
        config = options["generation_config"]
        config.disable_compile = True  # shapes change from batch to batch
        # Of its final size from the start: a cache that grows is copied at each token.
        cache = StaticCache(self.model.config, max_cache_len=ids.shape[1] + config.max_new_tokens)
        same = rows == list(range(len(prefix.ids)))  # one reply a prompt: nothing to repeat
        for number, layer in enumerate(prefix.cache.layers):
            copy_layer([layer], slice(None) if same else rows, cache, number)
            layer.reset()  # frees its memory before the next layer is copied
        return self.model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **options), mask

    def _options(self, sampling: Sampling, seeds: list[int]) -> dict[str, Any]:
        processors = LogitsProcessorList([KeyedSampler(sampling, seeds)] if sampling.temperature > 0 else [])
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampling.temperature > 0,
            top_k=0 if sampling.temperature > 0 else None,  # off: the keyed sampler has its own
            eos_token_id=self._eos,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            bos_token_id=self.processor.tokenizer.bos_token_id,
        )
        return {"generation_config": config, "logits_processor": processors}

    def _reply(self, row: list[int], prompt_tokens: int, logprobs: list[float] | None) -> Reply:
        end = next((i for i, token in enumerate(row) if token in self._eos), None)
        text = self.processor.tokenizer.decode(row[:end] if end is not None else row, skip_special_tokens=True)
        used = len(row) if end is None else end + 1
        logprob = None if logprobs is None else math.fsum(logprobs[:used])
        return Reply(text.strip(), "length" if end is None else "stop", prompt_tokens, used, logprob=logprob)

    def _choose(self, batch: Sequence[Request]) -> list[list[Reply]]:
        """Return the probabilities of the choices, along the longest path of their shared tokens."""
        branches = branch_nodes(self.processor.tokenizer, batch[0].prefix, batch[0].choices)
        path = max(branches, key=len)
        score = self._score_prefilled if self._prefiller else self._score
        logits, prompt_tokens = score(batch, torch.tensor([path], device=self.device, dtype=torch.long))
        probs = torch.softmax(logits[:, -len(path) - 1 :].float(), dim=-1).double().cpu().numpy()
        return [[choice_reply(probs[i], branches, batch[0].choices, tokens)] for i, tokens in enumerate(prompt_tokens)]

    def _score(self, batch: Sequence[Request], path: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Return logits after each prompt and along the path (1, P): (B, P + 1, vocabulary), and lengths with it."""
        inputs = self._encode(batch)
        config = GenerationConfig(
            max_new_tokens=path.shape[1] + 1, do_sample=False, output_logits=True, return_dict_in_generate=True,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )  # fmt: skip
        forced = LogitsProcessorList([ForcedTokens(path[0].tolist())])
        logits = self.model.generate(**inputs, generation_config=config, logits_processor=forced).logits
        return torch.stack(logits, dim=1), (inputs["attention_mask"].sum(dim=1) + path.shape[1]).tolist()

    def _score_prefilled(self, batch: Sequence[Request], path: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Do the same from a cache that holds the prompts but for their last tokens."""
        prefix = self._prefill(batch)
        forced = path.expand(len(prefix.ids), -1)
        last = prefix.positions[..., -1:]
        ahead = torch.arange(1, path.shape[1] + 1, device=self.device).expand(*last.shape[:-1], -1)
        mask = torch.cat([prefix.mask, torch.ones_like(forced)], dim=1)
        logits = self.model(
            input_ids=torch.cat([prefix.ids[:, -1:], forced], dim=1),
            attention_mask=mask,
            position_ids=torch.cat([last, last + ahead], dim=-1),
            past_key_values=prefix.cache,
        ).logits
        return logits[prefix.rows], mask.sum(dim=1)[prefix.rows].tolist()
