"""The data factory: questions in, preference pairs out. Start reading here.

    read       source rows -> questions, or drops with a reason                                    sources/
    focus      the actor samples two boxes an attempt; the diversity controller keeps or replaces
               the second (Eq. 3)                                                                 actor.py, diversity.py
    judge      the original model scores the boxes                                                critics.py
    answer     image, question and crop -> a response for each box                                actor.py
    judge      the original model scores the responses                                            critics.py
    filter     thresholds, then one win / lose pair a question (Eq. 4)                             pairing.py
    report     yields, drops, the audit                                                           finalize.py, report/

This file has `build`, which opens the source and loads the models, and `process_chunk`, which takes a chunk of
questions through all stages up to the filter. The rows of a chunk are a pure function of the options, the models and
its questions. It is also the unit of storage and of resuming, so where it runs (executors/) changes no row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL.Image import Image

from visrl_data.core import images, records
from visrl_data.core.attempts import plan_from
from visrl_data.core.boxes import ImageTooThin
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.pair_rule import rule_from
from visrl_data.core.prompts import PromptSet, load_prompts
from visrl_data.core.records import Candidate, Drop, Question, Score
from visrl_data.core.versions import library_versions
from visrl_data.engines import reply_cache
from visrl_data.engines.protocol import Engine, Reply, Role, Usage
from visrl_data.engines.refusals import RequestRefused, isolate_refused
from visrl_data.pipeline import critics, pairing
from visrl_data.pipeline.actor import FocusBox, QuestionView, answer_pass, bind_frame, focus_pass, image_groups
from visrl_data.pipeline.critics import ScoreInput
from visrl_data.pipeline.model_pair import ModelPair, load_model_pair, resolve_box_settings
from visrl_data.runs import run_folder
from visrl_data.runs.manifest import RunIdentity
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.protocol import Source
from visrl_data.sources.skipped import SkippedSource

STAGES = ("focus", "answer", "judge")  # whose seconds are in times.jsonl
_NO_ANSWER = (Reply("", "skipped", 0, 0), 0), critics.SKIPPED


@dataclass(frozen=True, slots=True)
class Factory:
    """Everything that a chunk needs besides its questions."""

    config: GenConfig
    source: Source
    prompts: PromptSet
    actor: Role
    critic: Role
    box_space: str
    crop_rule: CropRule
    identity: RunIdentity


def build(config: GenConfig, roles: tuple[Role, Role] | None = None) -> Factory:
    """Open the source and load the models; the cheap checks come first.

    roles: actor and critic on engines of your own, in place of loading the models that the options name.
    Raises VisRLError for anything that the user can fix.
    """
    prompts = load_prompts(Path(config.prompts) if config.prompts else None)  # before anything slow is loaded
    source = open_questions(config)
    if not len(source):
        raise VisRLError(f"Source {config.source} has no rows in split {config.split!r}.")
    if roles is None:
        pair = load_model_pair(config)
    else:
        pair = ModelPair(*roles, *resolve_box_settings(config, None), prompts=prompts)
    actor, critic = pair.actor, pair.critic
    if config.lose == "hardest" and not getattr(actor.engine, "gives_logprobs", False):
        raise UsageError(
            f"--lose hardest needs the log-probabilities of the actor's replies, which this {actor.engine.name} engine "
            "does not give. Use --lose actor-first, or a server that returns logprobs, as vLLM does."
        )
    if config.constrain and not all(getattr(role.engine, "constrains", False) for role in (actor, critic)):
        raise UsageError("--constrain: an engine of these does not support grammars; transformers, vllm and openai do.")
    identity = _identity(source, pair)
    return Factory(config, source, pair.prompts, actor, critic, pair.box_space, pair.crop_rule, identity)


def _identity(source: Source, pair: ModelPair) -> RunIdentity:
    """Return what the rows depend on besides the options: run.json, compared when a run is resumed or joined."""
    actor, critic = pair.actor, pair.critic
    identity: RunIdentity = {
        "schema_version": records.SCHEMA_VERSION,
        "source": {"name": source.name, "rows": len(source), "fingerprint": source.fingerprint()},
        "actor": actor.engine.identity() | {"adapter": actor.adapter},
        "critic": critic.engine.identity() | {"adapter": critic.adapter},
        "box_space": pair.box_space,
        "crop_rule": pair.crop_rule.as_dict(),
        "prompts": {prompt.id: prompt.template for prompt in pair.prompts.all()},
        "deterministic": actor.engine.deterministic and critic.engine.deterministic,
        "versions": library_versions(),
    }
    if pair.origin:
        identity["origin_base"] = pair.origin
    if pair.image_settings:
        identity["image_settings"] = pair.image_settings
    if pair.zero_shot:
        identity["zero_shot"] = pair.zero_shot
    return identity


def open_questions(config: GenConfig) -> Source:
    """Open the source that the options name."""
    options = SourceOptions(
        images_root=config.images_root or None,
        columns=config.columns,
        gold_space=config.gold_space,
        gold_format=config.gold_format or "xyxy",
        license=config.license or "",
        ship_images=config.ship_images,
        allow_urls=config.allow_urls,
    )
    if not config.skip:
        return open_source(config.source, config.split, config.limit, options)
    limit = None if config.limit is None else config.skip + config.limit
    return SkippedSource(open_source(config.source, config.split, limit, options), config.skip)


@dataclass(frozen=True, slots=True)
class ChunkInput:
    """A chunk's questions, and the drops of its other rows.

    pictures: the decoded images of the questions' first group (`image_groups`). run_stages decodes the others, and
    empties this list.
    """

    questions: list[Question]
    pictures: list[Image]
    drops: list[Drop]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """A finished chunk: its tables by name, and its line for times.jsonl, where "events" tells what happened."""

    index: int
    tables: dict[str, pa.Table]
    record: dict[str, Any]


def process_chunk(
    factory: Factory, index: int, replies: Path | None, chunk_input: ChunkInput | None = None
) -> ChunkResult:
    """Process a chunk.

    replies: the file that keeps servers' replies until the chunk is written. chunk_input: what `read_chunk` returned
    for it, if it was read ahead.
    """
    started = time.perf_counter()
    reply_cache.attach(engines(factory), replies)
    tables, seconds = run_stages(factory, chunk_input or read_chunk(factory, index))
    usages = take_usage(factory)
    cached = [usage.cached_prompt_tokens for usage in usages if usage.cached_prompt_tokens is not None]
    record = {
        "chunk": index,
        "questions": tables["questions"].num_rows,
        "candidates": tables["candidates"].num_rows,
        "seconds": round(time.perf_counter() - started, 3),
        **{f"{stage}_seconds": round(value, 3) for stage, value in seconds.items()},
        "calls": sum(usage.calls for usage in usages),
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        **({"cached_prompt_tokens": sum(cached)} if cached else {}),
        "completion_tokens": sum(usage.completion_tokens for usage in usages),
        "events": [event for usage in usages for event in usage.events],
    }
    return ChunkResult(index, tables, record)


def read_chunk(factory: Factory, index: int) -> ChunkInput:
    """Read and decode a chunk's questions: the part of its work that needs no model."""
    size = factory.config.chunk_size
    rows = [factory.source.read(i) for i in range(index * size, min((index + 1) * size, len(factory.source)))]
    questions = [row for row in rows if isinstance(row, Question)]
    return ChunkInput(
        questions, _decode(next(image_groups(questions), [])), [row for row in rows if isinstance(row, Drop)]
    )


def run_stages(factory: Factory, chunk: ChunkInput) -> tuple[dict[str, pa.Table], dict[str, float]]:
    """Take the questions of a chunk through all stages but the filter: its tables, and the seconds of each stage."""
    seconds = dict.fromkeys(STAGES, 0.0)
    candidates: list[Candidate] = []
    drops = [Drop(q.id, q.source, "label", p.reason, p.detail) for q in chunk.questions for p in q.label_problems]
    for group in image_groups(chunk.questions):
        views, new_drops = _views(factory, group, chunk.pictures or _decode(group))
        chunk.pictures.clear()
        drops += new_drops
        results = isolate_refused(views, lambda some: _run_blocks(factory, some, seconds))
        for view, result in zip(views, results, strict=True):
            if isinstance(result, RequestRefused):
                drops.append(_refused(view.question, result))
            else:
                candidates += result.candidates
                drops += result.drops
    pictures = {question.image_sha256: question for question in chunk.questions}
    rows = {
        "questions": [records.question_row(question) for question in chunk.questions],
        "candidates": [records.candidate_row(candidate) for candidate in candidates],
        "drops": [records.drop_row(drop) for drop in [*chunk.drops, *drops]],
        "images": [records.image_row(question) for question in pictures.values()],
    }
    return {name: pa.Table.from_pylist(rows[name], schema) for name, schema in run_folder.TABLES.items()}, seconds


def _decode(questions: Sequence[Question]) -> list[Image]:
    return [images.decode(question.image) for question in questions]


def _views(
    factory: Factory, questions: Sequence[Question], pictures: Sequence[Image]
) -> tuple[list[QuestionView], list[Drop]]:
    """Bind the actor's box space to each image; an image in which no box can be written is a drop."""
    views, drops = [], []
    for question, image in zip(questions, pictures, strict=True):
        try:
            views.append(QuestionView(question, image, bind_frame(image, factory.box_space, factory.actor)))
        except ImageTooThin as error:
            drops.append(Drop(question.id, question.source, "focus", "image_too_thin", str(error)))
        except RequestRefused as refusal:
            drops.append(_refused(question, refusal))
    return views, drops


def _refused(question: Question, refusal: RequestRefused) -> Drop:
    return Drop(question.id, question.source, "focus", refusal.reason, str(refusal))


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """What the attempts at a question gave so far; drops: of attempts."""

    view: QuestionView
    boxes: list[FocusBox] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)


def _run_blocks(factory: Factory, views: Sequence[QuestionView], seconds: dict[str, float]) -> list[QuestionResult]:
    """Run the passes on one block of attempts after another; a question leaves with its first pair."""
    results = [QuestionResult(view) for view in views]
    unpaired = results
    for attempts in plan_from(dataclasses.asdict(factory.config)).blocks():
        if attempts.start:
            unpaired = _without_pair(factory.config, unpaired)
        if unpaired:
            _run_passes(factory, unpaired, attempts, seconds)
    return results


def _without_pair(config: GenConfig, results: Sequence[QuestionResult]) -> list[QuestionResult]:
    """Return the questions whose candidates so far make no pair under the run's own filter (Eq. 4)."""
    questions = [records.question_row(result.view.question) for result in results]
    candidates = [records.candidate_row(candidate) for result in results for candidate in result.candidates]
    selection = pairing.select_pairs(
        pa.Table.from_pylist(candidates, run_folder.TABLES["candidates"]),
        pa.Table.from_pylist(questions, run_folder.TABLES["questions"]),
        rule_from(dataclasses.asdict(config)),
        config.seed,
    )
    return [result for result, outcome in zip(results, selection.outcome, strict=True) if outcome]


def _run_passes(
    factory: Factory, results: Sequence[QuestionResult], attempts: range, seconds: dict[str, float]
) -> None:
    """Run the passes of actor and critic on these attempts, and add what they give to each question's result."""
    config, prompts = factory.config, factory.prompts
    views = [result.view for result in results]
    box_critic = critics.box_critic(config, factory.critic, prompts)
    response_critic = critics.response_critic(config, factory.critic, prompts)
    with _timed(seconds, "focus"):
        earlier = [result.boxes for result in results]
        focused = focus_pass(views, attempts, earlier, factory.actor, config, prompts, factory.crop_rule)
    boxes = [box for boxes, _ in focused for box in boxes]
    with _timed(seconds, "judge"):
        box_scores = box_critic.score([ScoreInput(box) for box in boxes])
    # With --lazy, a box that can be in neither W nor L is not worth a response.
    needed = [not config.lazy or critics.can_pair(score, config.thresholds) for score in box_scores]
    cropped = list(itertools.compress(boxes, needed))
    with _timed(seconds, "answer"):
        answers = answer_pass(cropped, factory.actor, config, prompts)
    with _timed(seconds, "judge"):
        responses = [ScoreInput(box, reply.text) for box, (reply, _) in zip(cropped, answers, strict=True)]
        response_scores = response_critic.score(responses)
    scored = zip(answers, response_scores, strict=True)
    candidates = (
        _candidate(box, box_score, *(next(scored) if has_answer else _NO_ANSWER))
        for box, box_score, has_answer in zip(boxes, box_scores, needed, strict=True)
    )
    for result, (new_boxes, new_drops) in zip(results, focused, strict=True):
        result.boxes.extend(new_boxes)
        result.candidates.extend(itertools.islice(candidates, len(new_boxes)))
        result.drops.extend(new_drops)


def _candidate(focus: FocusBox, box_score: Score, answer: tuple[Reply, int], response_score: Score) -> Candidate:
    reply, seed = answer
    return Candidate(
        question_id=focus.view.question.id,
        index=2 * focus.attempt + focus.slot,
        attempt=focus.attempt,
        slot=focus.slot,
        box=focus.box,
        cells=focus.cells,
        box_text=focus.text,
        box_origin=focus.origin,
        relaxed=focus.relaxed,
        focus_reply=focus.reply,
        focus_state=focus.state,
        focus_seed=focus.seed,
        box_logprob=focus.logprob,
        crop=focus.crop,
        response=reply.text,
        response_finish=reply.finish,
        response_seed=seed,
        box_score=box_score,
        response_score=response_score,
    )


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time spent inside to a stage's seconds."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - started


def engines(factory: Factory) -> list[Engine]:
    """Return the engines of actor and critic, which may be one."""
    return list({id(role.engine): role.engine for role in (factory.actor, factory.critic)}.values())


def take_usage(factory: Factory) -> list[Usage]:
    """Return what the engines did since the last chunk, and reset their counters."""
    usages = [engine.usage for engine in engines(factory)]
    for engine in engines(factory):
        engine.usage = Usage()
    return usages
