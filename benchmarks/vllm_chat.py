"""The script against which vllm.py measures: `LLM.chat`, all calls of a stage in one batch, 8N calls a question.

What somebody writes who knows vLLM: prefix caching on, the adapter as a LoRARequest, a seed for each reply, and where
a setting is not needed to make it run, vLLM's own default. Prompts, parsers, crops and seeds are the package's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
from PIL.Image import Image

from benchmarks import methods
from visrl_data.core import images
from visrl_data.core.boxes import Frame, make_frame, needs_resized_size
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import crop_pixels
from visrl_data.core.prompts import SCORE_GRAMMAR, PromptPart, load_prompts, parse_score, standard_answer
from visrl_data.core.records import Question
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.loading import load_processor
from visrl_data.engines.vllm import import_vllm
from visrl_data.engines.vllm_options import default_options
from visrl_data.models.families import known_prompts
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline import model_pair


@dataclass(frozen=True, slots=True)
class Call:
    """A request for one reply. grammar: "" for none."""

    parts: Sequence[PromptPart]
    pictures: Sequence[Image]
    seed: int = 0
    grammar: str = ""


@dataclass(slots=True)
class Counts:
    """What the calls of a run came to."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0


class ChatScript:
    """A model in vLLM, and what a question goes through."""

    def __init__(self, config: GenConfig) -> None:
        self.vllm, self.config, self.counts = import_vllm(), config, Counts()
        actor = find_model(config.model)
        self.space, self.rule = model_pair.resolve_box_settings(config, actor, model_pair.native_space(actor))
        self.prompts = load_prompts(None, known_prompts(actor, self.space))
        self.processor = load_processor(actor, None, False)
        cpu = self.vllm.platforms.current_platform.is_cpu()
        about = json.loads((actor.weights.path / "config.json").read_text(encoding="utf-8"))
        options = default_options(about, cpu, psutil.virtual_memory().available) | (config.vllm_options or {})
        options.pop("block_size", None)  # ours: vLLM's own default is another one on a CPU
        self.lora: Any = None
        if actor.base is not None:
            self.lora = self.vllm.lora.request.LoRARequest("actor", 1, str(actor.path))
            options |= {"enable_lora": True, "max_lora_rank": 16}
        self.llm = self.vllm.LLM(str(actor.weights.path), dtype="float32" if cpu else "bfloat16", **options)

    def pairs(self, questions: Sequence[Question]) -> int:
        """Return how many of these questions give a pair."""
        attempts, slots, config = range(self.config.attempts), (0, 1), self.config
        opened = [(q, images.decode(q.image)) for q in questions]
        frames = [self._frame(picture) for _, picture in opened]
        crutch = config.constrain  # of an untrained model, see methods.py
        grammars = [methods.listed_grammar(frame) if crutch else "" for frame in frames]
        hot = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
        focus = self._ask(
            [
                Call(self.prompts.focus.parts(question=q.question), [picture], self._seed(q, n, slot, "focus"), grammar)
                for (q, picture), grammar in zip(opened, grammars, strict=True)
                for n in attempts
                for slot in slots
            ],
            {**hot, "max_tokens": config.max_new_tokens},
            self.lora,
        )
        boxes = []
        replies = iter(focus)
        for (q, picture), frame in zip(opened, frames, strict=True):
            for n in attempts:
                texts = [next(replies), next(replies)]
                for slot, cells in enumerate(methods.final_boxes(config, q, n, frame, texts)):
                    pixels = crop_pixels(frame.to_unit(cells), picture.size, self.rule)
                    boxes.append((q, picture, picture.crop(pixels), n, slot))
        answers = self._ask(
            [
                Call(self.prompts.answer.parts(question=q.question), [picture, crop], self._seed(q, n, slot, "answer"))
                for q, picture, crop, n, slot in boxes
            ],
            {**hot, "max_tokens": methods.response_tokens(config)},
            self.lora,
        )
        cold = {"temperature": 0.0, "max_tokens": config.max_new_tokens}
        grammar = SCORE_GRAMMAR if crutch else ""
        box_calls, response_calls = [], []
        for (q, picture, crop, *_), response in zip(boxes, answers, strict=True):
            texts = {"question": q.question, "answer": standard_answer(q.answers)}
            box_calls.append(Call(self.prompts.box_critic.parts(**texts), [crop], grammar=grammar))
            parts = self.prompts.response_critic.parts(**texts, response=response)
            response_calls.append(Call(parts, [picture], grammar=grammar))
        scores = zip(self._ask(box_calls, cold, None), self._ask(response_calls, cold, None), strict=True)
        return _count_pairs(config, [box[0].id for box in boxes], [tuple(map(parse_score, pair)) for pair in scores])

    def _frame(self, picture: Image) -> Frame:
        seen = picture_size(self.processor, picture) if needs_resized_size(self.space) else None
        return make_frame(self.space, picture.size, seen)

    def _seed(self, question: Question, attempt: int, slot: int, purpose: str) -> int:
        return methods.reply_seed(self.config, question, attempt, slot, purpose) % 2**63

    def _ask(self, calls: Sequence[Call], sampling: dict[str, Any], lora: Any) -> list[str]:
        """Return a reply to each call, all in one batch."""
        params = self.vllm.sampling_params
        outputs = self.llm.chat(
            [[{"role": "user", "content": _content(call)}] for call in calls],
            [
                self.vllm.SamplingParams(
                    **sampling,
                    seed=call.seed,
                    structured_outputs=params.StructuredOutputsParams(grammar=call.grammar) if call.grammar else None,
                )
                for call in calls
            ],
            use_tqdm=False,
            lora_request=lora,
        )
        self.counts.calls += len(outputs)
        self.counts.prompt_tokens += sum(len(output.prompt_token_ids) for output in outputs)
        self.counts.cached_prompt_tokens += sum(output.num_cached_tokens for output in outputs)
        return [output.outputs[0].text.strip() for output in outputs]


def _content(call: Call) -> list[dict[str, Any]]:
    pictures = iter(call.pictures)
    return [
        {"type": "text", "text": part.text}
        if part.kind == "text"
        else {"type": "image_pil", "image_pil": next(pictures)}
        for part in call.parts
    ]


def _count_pairs(config: GenConfig, ids: Sequence[str], scores: Sequence[Sequence[Any]]) -> int:
    """Count the questions with a candidate whose two scores are high, and one whose two are low (Eq. 4)."""
    tau = config.thresholds
    whole = [
        (name, box, response)
        for name, ((box, _), (response, _)) in zip(ids, scores, strict=True)
        if box is not None and response is not None
    ]
    high = {name for name, box, response in whole if box >= tau.box_win and response >= tau.response_win}
    low = {name for name, box, response in whole if box <= tau.box_lose and response <= tau.response_lose}
    return len(high & low)
