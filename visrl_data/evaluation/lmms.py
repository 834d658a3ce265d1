"""Register the two-pass model with lmms-eval, which owns MME, MMBench, POPE, RefCOCO, V* and their scoring.

lmms-eval finds it by name through the entry point in pyproject.toml (group `lmms_eval.models`); nothing else of
this project imports this module. docs/evaluation.md has the commands.

    a task's request -> its one picture, its question, its ending (the post-prompt: "Answer with the option's letter")
    two steps     image, question + focus request -> box;  the same, the crop, the ending -> answer
    one step      image, question, the ending -> answer: an answer-only model, or the baseline
    box tasks     (RefCOCO) image, expression + focus request -> box, and the box is the answer

The prompts, the box space and the crop rule are those of `visrl eval`, and everything is greedy, so that the same
rows give the same answers. What is left to a task: the ending, the longest answer, the texts that stop it. The
box pass keeps its own longest reply, since MME and V* allow 16 tokens, too few for a box. As in `visrl eval` a
box that can't be read gives no answer: the reply is empty, and the task counts it as wrong.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger
from PIL.Image import Image
from tqdm import tqdm

from visrl_data.core import images
from visrl_data.core.boxes import Box, ImageTooThin
from visrl_data.core.config import make_config
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import PromptPart, load_prompts
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.refusals import RequestRefused, isolate_refused
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_models import find_eval_models
from visrl_data.evaluation.inference import DIRECT_PROMPT
from visrl_data.pipeline import model_pair
from visrl_data.pipeline.actor import bind_frame

# Of the options of `visrl eval`, those that say how a model is prompted and run.
OPTIONS = (
    "box_space", "crop_min_side", "crop_max_aspect", "max_new_tokens", "prompts",
    "engine", "base_url", "in_flight", "vllm_options", "device", "dtype", "max_pixels",
    "trust_remote_code",
)  # fmt: skip
# RefCOCO's tasks: which numbers they read, and the sentence that says so, which the box pass leaves out.
_BOX_TASK = re.compile(r"refcoco.*_(bbox_rec|grounding)(_|$)")
_BOX_FORMS = {
    "bbox_rec": "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, "
    "bottom-right y). All values are floating point numbers bounded between 0 and 1.",
    "grounding": "Report bbox coordinates in JSON format.",
}

_ONE_PICTURE = "The model visrl answers one question about one picture;"


def manifest() -> ModelManifest:
    """Return what the entry point gives to lmms-eval: the name `visrl`, and where the class is."""
    return ModelManifest("visrl", chat_class_path=f"{__name__}.VisRL")


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One request of a task. form: "", or a key of _BOX_FORMS when the answer is the box itself.

    ending: what the task asks for at the end, "" for nothing. until: texts that end an answer, not part of it.
    """

    image: Image
    question: str
    ending: str
    form: str
    max_new_tokens: int
    until: tuple[str, ...]


class VisRL(lmms):
    """`--model visrl --model_args pretrained=MODEL[,steps=1][,OPTION=VALUE...]`.

    pretrained: as `visrl eval --model`. steps: 2 or 1; default: as the model was trained. The other options
    are those in OPTIONS, by the names and with the defaults of `visrl eval`; batch_size is lmms-eval's --batch_size,
    and device may be its --device. Raises VisRLError for anything that the user can fix.
    """

    is_simple = False

    def __init__(
        self, pretrained: str = "spotlight", steps: int | None = None, batch_size: int | str = 1, **options: Any
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal():
            raise UsageError(f"--batch_size {batch_size}: expected a number; a batch too large is halved by itself.")
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise UsageError(f"--model_args {unknown[0]}=: expected pretrained, steps, {', '.join(OPTIONS)}.")
        values = options | {"batch_size": int(batch_size), "baseline": False}
        self.config = make_config(EvalConfig, values, {}, where="--model_args", command="visrl eval")
        gen = self.config.gen_config("")
        model_pair.check_engines(gen)
        prompts = load_prompts(Path(self.config.prompts) if self.config.prompts else None)
        [eval_model] = find_eval_models([pretrained], self.config, prompts)
        if steps is not None and steps not in range(1, eval_model.mode.steps + 1):
            expected = "1 or 2" if eval_model.mode.steps == 2 else "1"
            raise UsageError(f"--model_args steps={steps}: expected {expected} for {pretrained}.")
        self.mode = replace(eval_model.mode, steps=steps or eval_model.mode.steps)
        self.actor = model_pair.load_role(replace(gen, max_pixels=eval_model.max_pixels), eval_model.model)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return one reply for each request, in order."""
        replies: list[str | None] = []
        with tqdm(total=len(requests), desc="visrl") as bar:
            for batch in _batches(requests, self.config.batch_size):
                replies += self._answer_all([self._task_request(*request.args) for request in batch])
                bar.update(len(batch))
        if None in replies:
            logger.warning(f"{replies.count(None)} of {len(replies)} boxes could not be read: their answers are empty.")
        return [reply or "" for reply in replies]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise VisRLError("The model visrl gives no likelihoods; leave out tasks that compare them.")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise VisRLError(f"{_ONE_PICTURE} leave out tasks of several rounds.")

    def _task_request(
        self, context: str, doc_to_messages: Any, options: dict[str, Any], row: int, task: str, split: str
    ) -> TaskRequest:
        """Parse the six arguments of lmms-eval's chat models. doc_to_messages is a method of the task."""
        messages = doc_to_messages(self.task_dict[task][split][row])
        parts = messages[0]["content"] if len(messages) == 1 and messages[0]["role"] == "user" else []
        kinds = sorted(part["type"] for part in parts)
        if kinds != ["image", "text"]:
            raise VisRLError(
                f"Task {task}, row {row}: {', '.join(kinds) or f'{len(messages)} messages'}. "
                f"{_ONE_PICTURE} leave out this task."
            )
        content = {part["type"]: part for part in parts}
        endings = getattr(doc_to_messages.__self__, "lmms_eval_specific_kwargs", None) or {}
        question, ending = _cut_ending(content["text"]["text"], endings.get("post_prompt") or "")
        box_task = _BOX_TASK.match(task)
        form = box_task[1] if box_task else ""
        until = options.get("until") or ()
        return TaskRequest(
            image=_picture(content["image"]["url"]),
            question=question.replace(_BOX_FORMS[form], "").strip() if form else question,
            ending=ending,
            form=form,
            max_new_tokens=options.get("max_new_tokens") or self.config.max_new_tokens,
            until=(until,) if isinstance(until, str) else tuple(until),
        )

    def _answer_all(self, batch: list[TaskRequest]) -> list[str | None]:
        """Return each reply: None where a box can't be read, "" where the model refuses the request."""
        replies = isolate_refused(batch, self._answer)
        for refusal in replies:
            if isinstance(refusal, RequestRefused):
                logger.warning(f"A request was refused, its answer is empty: {refusal}")
        return ["" if isinstance(reply, RequestRefused) else reply for reply in replies]

    def _answer(self, batch: Sequence[TaskRequest]) -> list[str | None]:
        """Return the answers of a batch of one task, so that all of it has a form, or none."""
        if self.mode.steps == 1 and not batch[0].form:
            turns = [DIRECT_PROMPT.parts(question=request.question) for request in batch]
            return [*self._final(batch, turns, [(request.image,) for request in batch])]
        boxes = self._find_boxes(batch)
        if batch[0].form:
            return [None if box is None else _box_text(box, a) for box, a in zip(boxes, batch, strict=True)]
        boxed = [(request, box) for request, box in zip(batch, boxes, strict=True) if box is not None]
        rule = self.mode.rule or CropRule()
        turns = [self.mode.prompts.answer.parts(question=request.question) for request, _ in boxed]
        pictures = [(r.image, r.image.crop(crop_pixels(box, r.image.size, rule))) for r, box in boxed]
        replies = iter(self._final([request for request, _ in boxed], turns, pictures))
        return [None if box is None else next(replies) for box in boxes]

    def _find_boxes(self, batch: Sequence[TaskRequest]) -> list[Box | None]:
        """Run the box pass: unit xyxy of each picture, None where the reply can't be read."""
        try:
            frames = [bind_frame(request.image, self.mode.box_space, self.actor) for request in batch]
        except ImageTooThin as error:
            raise RequestRefused(str(error)) from error
        turns = [self.mode.prompts.focus.parts(question=request.question) for request in batch]
        replies = self._generate(turns, [(a.image,) for a in batch], [self.config.max_new_tokens] * len(batch))
        parsed = [frame.parse(reply)[0] for frame, reply in zip(frames, replies, strict=True)]
        return [cells and frame.to_unit(cells) for frame, cells in zip(frames, parsed, strict=True)]

    def _final(
        self,
        batch: Sequence[TaskRequest],
        turns: Sequence[tuple[PromptPart, ...]],
        pictures: Sequence[tuple[Image, ...]],
    ) -> list[str]:
        """Run the turn that gives the answer, with the task's ending last."""
        closed = [_with_ending(parts, request.ending) for parts, request in zip(turns, batch, strict=True)]
        replies = self._generate(closed, pictures, [request.max_new_tokens for request in batch])
        return [_cut(reply, request.until) for reply, request in zip(replies, batch, strict=True)]

    def _generate(
        self, turns: Sequence[tuple[PromptPart, ...]], pictures: Sequence[tuple[Image, ...]], longest: list[int]
    ) -> list[str]:
        requests = [
            Request(parts, shown, (0,), Sampling(max_new_tokens=tokens), self.actor.adapter)
            for parts, shown, tokens in zip(turns, pictures, longest, strict=True)
        ]
        return [reply.text for (reply,) in self.actor.engine.generate(requests)]


def _batches(requests: Sequence[Instance], size: int) -> Iterator[list[Instance]]:
    """Yield at most `size` requests of one task at a time, in order."""
    for _, group in itertools.groupby(requests, key=lambda request: request.args[4]):
        rest = list(group)
        yield from (rest[start : start + size] for start in range(0, len(rest), size))


def _picture(image: Image | str) -> Image:
    """Return a task's image, decoded or a path, as RGB."""
    return image.convert("RGB") if isinstance(image, Image) else images.decode(Path(image).read_bytes())


def _cut_ending(text: str, ending: str) -> tuple[str, str]:
    """Split the task's post-prompt from the end of its question; it is "" where the text does not end so."""
    text, ending = text.strip(), ending.strip()
    return (text.removesuffix(ending).rstrip(), ending) if ending and text.endswith(ending) else (text, "")


def _with_ending(parts: tuple[PromptPart, ...], ending: str) -> tuple[PromptPart, ...]:
    if not ending:
        return parts
    last = parts[-1]
    if last.kind != "text":
        return (*parts, PromptPart("text", ending))
    return (*parts[:-1], PromptPart("text", f"{last.text}\n{ending}"))


def _cut(reply: str, until: tuple[str, ...]) -> str:
    for stop in filter(None, until):
        reply = reply.partition(stop)[0]
    return reply.strip()


def _box_text(box: Box, request: TaskRequest) -> str:
    """Return the box in the numbers that the task reads: fractions of the picture, or its pixels (as JSON)."""
    sides = (1, 1, 1, 1) if request.form == "bbox_rec" else (*request.image.size, *request.image.size)
    return "[" + ", ".join(f"{value * side:.6f}" for value, side in zip(box.xyxy, sides, strict=True)) + "]"
