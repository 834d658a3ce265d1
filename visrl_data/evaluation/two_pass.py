"""Answer the questions of other programs' benchmarks with a model of this project, in its one or two passes.

lmms.py and vlmevalkit.py make their programs' requests into TaskRequests; the prompts, the box space, the crop rule and
the sizes of pictures are those of `visrl eval`, and everything is greedy, so that the same rows give the same answers.

    two steps     image, question + focus request -> box;  the same, the crop, the ending -> answer
    one step      image, question, the ending -> answer: an answer-only model, or the baseline
    box tasks     (RefCOCO) image, expression + focus request -> box, and the box is the answer

The box pass keeps its own longest reply, since MME and V* allow 16 tokens, too few for a box. As in `visrl eval` a
box that can't be read gives no answer: the reply is empty, and the task counts it as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from visrl_data.core import images
from visrl_data.core.boxes import Box, ImageTooThin
from visrl_data.core.config import make_config
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.errors import UsageError
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


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One request of a task. form: "", or bbox_rec or grounding (RefCOCO's tasks) when the answer is the box itself.

    ending: what the task asks for at the end, "" for nothing. until: texts that end an answer, not part of it.
    """

    image: Image
    question: str
    ending: str
    form: str
    max_new_tokens: int
    until: tuple[str, ...]


class TwoPassModel:
    """A model as `visrl eval` finds it, loaded.

    pretrained: as `visrl eval --model`. steps: 2 or 1; None: as the model was trained. options: those in OPTIONS, with
    the defaults of `visrl eval`. where: what gives them, for messages. Raises VisRLError for what the user can fix.
    """

    def __init__(
        self, pretrained: str, steps: int | None, batch_size: int, options: dict[str, Any], where: str
    ) -> None:
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise UsageError(f"{where} {unknown[0]}=: expected pretrained, steps, {', '.join(OPTIONS)}.")
        values = options | {"batch_size": batch_size, "baseline": False}
        self.config = make_config(EvalConfig, values, {}, where=where, command="visrl eval")
        gen = self.config.gen_config("")
        model_pair.check_engines(gen)
        prompts = load_prompts(Path(self.config.prompts) if self.config.prompts else None)
        [eval_model] = find_eval_models([pretrained], self.config, prompts)
        if steps is not None and steps not in range(1, eval_model.mode.steps + 1):
            expected = "1 or 2" if eval_model.mode.steps == 2 else "1"
            raise UsageError(f"{where} steps={steps}: expected {expected} for {pretrained}.")
        self.mode = replace(eval_model.mode, steps=steps or eval_model.mode.steps)
        self.actor = model_pair.load_role(replace(gen, max_pixels=eval_model.max_pixels), eval_model.model)

    def answer_all(self, batch: Sequence[TaskRequest]) -> list[str | None | RequestRefused]:
        """Return each reply, of requests of one form: None where a box can't be read, or the model's refusal."""
        return isolate_refused(list(batch), self._answer)

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


def open_picture(image: Image | str) -> Image:
    """Return a task's image, decoded or a path, as RGB."""
    return image.convert("RGB") if isinstance(image, Image) else images.decode(Path(image).read_bytes())


def cut_ending(text: str, ending: str) -> tuple[str, str]:
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
