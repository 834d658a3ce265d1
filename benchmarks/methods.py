"""Methods to generate the candidates of a list of questions with one model. generation.py compares their times.

    plain     as a script would: a processor call and a `model.generate` for each reply. 2N boxes, 2N responses, 2N box
              scores and 2N response scores a question: 24 calls for N = 3
    twice     as the paper's public code calls a model: every rollout runs twice, first to see whether it gives
              anything, then for its result: 48 calls
    factory   the whole of `visrl gen`, but for loading the model: passes in batches, and a run folder on disk

All three use the package's own prompts, keyed draws, grammars, parsers, diversity controller and crop rule, on the
same loaded model: what differs is how the model is called. The model is loaded once, in inference mode, and keeps its
key-value cache in each. `plain` and `twice` hold their results in memory and write nothing.

An untrained model needs two crutches, the same in all three methods. The four numbers of its boxes would be in order
in a quarter of its replies, so half the attempts would be lost; and it would never end a response. `crutches` holds
its boxes to a list of valid ones, and cuts its responses at the length of a short phrase.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import LogitsProcessorList

from visrl_data.core import images
from visrl_data.core.boxes import Cells, Frame
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import crop_pixels
from visrl_data.core.prompts import SCORE_GRAMMAR, parse_score, standard_answer
from visrl_data.core.records import Question
from visrl_data.core.seeds import generator, keyed_seed
from visrl_data.engines.decoding import GrammarCompiler, KeyedSampler
from visrl_data.engines.protocol import Reply, Request, Role, Sampling
from visrl_data.executors import generation, local
from visrl_data.pipeline.actor import bind_frame
from visrl_data.pipeline.diversity import choose_second_box
from visrl_data.pipeline.factory import Factory
from visrl_data.runs import run_folder

RESPONSE_TOKENS = 8  # of an untrained model's responses
LISTED = 200  # boxes that an untrained model may write about a picture


@dataclass(frozen=True, slots=True)
class MethodResult:
    """What a method generated. candidates: question id and index -> box text, response, box score, response score.

    seconds of each stage; without those that a method does not separate. chunks, events: of the factory,
    the seconds of each chunk, and what befell it (a batch halved for want of memory); pairs, cached_prompt_tokens: too.
    """

    questions: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    stages: dict[str, float]
    candidates: dict[str, tuple[Any, ...]]
    chunks: tuple[float, ...] = ()
    events: tuple[str, ...] = ()
    pairs: int = 0
    cached_prompt_tokens: int = 0


def plain(built: Factory, times: int = 1) -> MethodResult:
    """Generate with one call per reply. times: how often each call is made; the last one counts."""
    script = _Script(built, times)
    with torch.inference_mode():
        for i in range(len(built.source)):
            question = built.source.read(i)
            assert isinstance(question, Question)
            script.question(question)
    calls, read, written = script.counts
    return MethodResult(len(built.source), calls, read, written, script.stages, script.candidates)


def whole_factory(built: Factory, output: Path) -> MethodResult:
    """Run `visrl gen` into the folder `output`."""
    run = generation.generate(built.config, output, executor=local.LocalExecutor(built))
    times = run_folder.times(run)
    names = ("calls", "prompt_tokens", "completion_tokens")
    calls, read, written = (sum(record[name] for record in times) for name in names)
    stages = {name: sum(record[f"{name}_seconds"] for record in times) for name in ("focus", "answer", "judge")}
    columns = ("box_text", "response", "box_score", "response_score")
    rows = run.table("candidates", ["question_id", "index", *columns]).to_pylist()
    candidates = {f"{row['question_id']}/{row['index']}": tuple(row[name] for name in columns) for row in rows}
    chunks = tuple(record["seconds"] for record in times)
    events = tuple(event for record in times for event in record["events"])
    cached = sum(record.get("cached_prompt_tokens", 0) for record in times)
    pairs = run.report()["yields"]["all"]["pairs"]
    return MethodResult(len(built.source), calls, read, written, stages, candidates, chunks, events, pairs, cached)


class _Script:
    """The plain method, question by question, with its candidates so far."""

    def __init__(self, built: Factory, times: int) -> None:
        self.built, self.config, self.times = built, built.config, times
        self.counts = [0, 0, 0]  # calls, prompt tokens, completion tokens
        self.stages = dict.fromkeys(("focus", "answer", "judge"), 0.0)
        self.candidates: dict[str, tuple[Any, ...]] = {}
        self._grammars: dict[int, GrammarCompiler] = {}
        self._clock = 0.0

    def question(self, question: Question) -> None:
        config, prompts, text = self.config, self.built.prompts, question.question
        image = images.decode(question.image)
        frame = bind_frame(image, self.built.box_space, self.built.actor)
        drawn = Sampling(config.temperature, config.top_p, config.top_k, config.max_new_tokens)
        short = dataclasses.replace(drawn, max_new_tokens=response_tokens(config))
        greedy = Sampling(max_new_tokens=config.max_new_tokens)
        answer = standard_answer(question.answers)
        box_grammar, score_grammar = (frame.grammar, SCORE_GRAMMAR) if config.constrain else ("", "")
        actor, critic = self.built.actor, self.built.critic
        for attempt in range(config.attempts):
            self._clock = time.perf_counter()
            seeds = [reply_seed(config, question, attempt, slot, "focus") for slot in (0, 1)]
            prompt = (prompts.focus.parts(question=text), (image,))
            replies = [self.ask(actor, *prompt, drawn, seed, box_grammar).text for seed in seeds]
            self._lap("focus")
            for slot, cells in enumerate(final_boxes(config, question, attempt, frame, replies)):
                crop = image.crop(crop_pixels(frame.to_unit(cells), image.size, self.built.crop_rule))
                parts = prompts.answer.parts(question=text)
                seed = reply_seed(config, question, attempt, slot, "answer")
                response = self.ask(actor, parts, (image, crop), short, seed).text
                self._lap("answer")
                parts = prompts.box_critic.parts(question=text, answer=answer)
                box_score = self.ask(critic, parts, (crop,), greedy, 0, score_grammar).text
                parts = prompts.response_critic.parts(question=text, answer=answer, response=response)
                score = self.ask(critic, parts, (image,), greedy, 0, score_grammar).text
                scores = [parse_score(box_score)[0], parse_score(score)[0]]
                self._lap("judge")
                self.candidates[f"{question.id}/{2 * attempt + slot}"] = (frame.text(cells), response, *scores)

    def ask(
        self, role: Role, parts: Sequence[Any], pictures: tuple[Any, ...], drawn: Sampling, seed: int, grammar: str = ""
    ) -> Reply:
        """Return one reply, after as many calls as this method makes for one."""
        for _ in range(self.times):
            reply = self._call(role, parts, pictures, drawn, seed, grammar)
            self.counts[0] += 1
            self.counts[1] += reply.prompt_tokens
            self.counts[2] += reply.completion_tokens
        return reply

    def _call(
        self, role: Role, parts: Sequence[Any], pictures: tuple[Any, ...], drawn: Sampling, seed: int, grammar: str
    ) -> Reply:
        model, processor = role.engine.model, role.engine.processor  # type: ignore[attr-defined]
        tokenizer, sampled = processor.tokenizer, drawn.temperature > 0
        content = [{"type": "text", "text": part.text} if part.kind == "text" else {"type": "image"} for part in parts]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        begins = tokenizer.bos_token and text.startswith(tokenizer.bos_token)
        inputs = processor(
            text=[text], images=[list(pictures)], add_special_tokens=not begins, return_tensors="pt"
        ).to(model.device, dtype=model.dtype)  # fmt: skip
        processors = LogitsProcessorList([KeyedSampler(drawn, [seed])] if sampled else [])
        if grammar:
            grammars = self._grammars.setdefault(id(tokenizer), GrammarCompiler(tokenizer, [tokenizer.eos_token_id]))
            processors.insert(0, grammars.processor([grammar]))
        adapted = role.adapter or not hasattr(model, "disable_adapter")
        with contextlib.nullcontext() if adapted else model.disable_adapter():
            ids = model.generate(
                **inputs, logits_processor=processors, max_new_tokens=drawn.max_new_tokens, do_sample=sampled,
                top_k=0 if sampled else None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        written = tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()
        return Reply(written, "", length, ids.shape[1] - length)

    def _lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] += now - self._clock
        self._clock = now


def final_boxes(
    config: GenConfig, question: Question, attempt: int, frame: Frame, replies: Sequence[str]
) -> list[Cells]:
    """Return the two boxes of an attempt (Eq. 3); none when neither reply holds one."""
    boxes = [frame.parse(reply)[0] for reply in replies]
    valid = [cells for cells in boxes if cells is not None]
    if not valid:
        return []
    second = valid[1] if len(valid) == 2 else None
    slack = config.iou_max, config.area_slack
    seed = reply_seed(config, question, attempt, 1, "diversity")
    return [valid[0], choose_second_box(valid[0], second, [], frame, *slack, seed).cells]


def reply_seed(config: GenConfig, question: Question, attempt: int, slot: int, purpose: str) -> int:
    return keyed_seed(config.seed, config.round, question.id, attempt, slot, purpose)


def response_tokens(config: GenConfig) -> int:
    """Return the limit of a response; only an untrained model runs with --constrain here."""
    return RESPONSE_TOKENS if config.constrain else config.max_new_tokens


@contextlib.contextmanager
def crutches(built: Factory) -> Iterator[None]:
    """For an untrained model, see the head of this file; nothing for a model that runs without --constrain."""
    if not built.config.constrain:
        yield
        return
    engine: Any = built.actor.engine
    run = engine.generate

    def cut(request: Request) -> Request:
        if len(request.images) < 2:  # boxes and scores end by their grammars
            return request
        return dataclasses.replace(
            request, sampling=dataclasses.replace(request.sampling, max_new_tokens=RESPONSE_TOKENS)
        )

    with (
        mock.patch.object(Frame, "grammar", property(listed_grammar)),
        mock.patch.object(engine, "generate", lambda requests: run([cut(request) for request in requests])),
    ):
        yield


def listed_grammar(frame: Frame) -> str:
    """Return a grammar of some boxes in this image, between a tenth and six tenths of its sides."""
    low_x, low_y, high_x, high_y = frame.bounds
    rng = generator(keyed_seed(frame.space, *frame.bounds))
    low, span = np.array([low_x, low_y]), np.array([high_x - low_x, high_y - low_y])
    sides = rng.uniform(0.1, 0.6, (LISTED, 2))
    starts = rng.uniform(0, 1, (LISTED, 2)) * (1 - sides)
    corners = np.concatenate([low + starts * span, low + (starts + sides) * span], axis=1).astype(int)
    return "start: " + " | ".join(json.dumps(frame.text(tuple(cells))) for cells in corners.tolist())
