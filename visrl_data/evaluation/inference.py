"""Prompt a model in an evaluation: greedily, in two steps, or in one step without a box.

Called by evaluate.py for each chunk of questions.

    visrl        image, question + focus request -> box;  fresh turn: the same and the crop -> answer (as in training)
    visual-cot   image, question + its request -> box;  image, question, the box as the reply, then a SECOND TURN
                 with the crop and the question again -> answer; its square crop of at least 224 pixels
    one step     image, question -> answer

Where the Visual-CoT benchmark's code answers from the whole image when a box can't be read, there is no answer
here: unparsable counts as wrong in both protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from visrl_data.core import images
from visrl_data.core.boxes import Box, ImageTooThin, Size, make_frame
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.prompts import DIRECT, Prompt, PromptPart, PromptSet
from visrl_data.core.records import Question
from visrl_data.engines.protocol import Reply, Request, Role
from visrl_data.engines.refusals import RequestRefused, isolate_refused
from visrl_data.pipeline.actor import FocusBox, QuestionView, actor_sampling, answer_pass, bind_frame, image_groups

_PromptInput = tuple[tuple[PromptPart, ...], tuple[Image.Image, ...]]
"""The parts of a prompt, and its images in order."""
DIRECT_PROMPT = Prompt("direct", DIRECT)
VISUAL_COT_REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the question better."
)
VISUAL_COT_FOCUS = Prompt("focus", "<image>\n{question} " + VISUAL_COT_REQUEST)
VISUAL_COT_ANSWER = "Please answer the question based on the original image and local detail image."
VISUAL_COT_HALF = 112  # pixels: half the smallest side of its crop


@dataclass(frozen=True, slots=True)
class PromptingMode:
    """How one model is prompted. steps: 1 or 2; rule: the crop rule, None for the one of the Visual-CoT benchmark."""

    steps: int
    box_space: str
    rule: CropRule | None
    prompts: PromptSet

    @property
    def templates(self) -> dict[str, str]:
        """Return prompt id -> template of every prompt of this mode."""
        if self.steps == 1:
            return {DIRECT_PROMPT.id: DIRECT}
        if self.rule is None:
            return {VISUAL_COT_FOCUS.id: VISUAL_COT_FOCUS.template, "second turn": VISUAL_COT_ANSWER}
        return {prompt.id: prompt.template for prompt in (self.prompts.focus, self.prompts.answer)}


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """A model's box and response for one question.

    state: "ok"; or why there is no box and so no answer: the parser's reason, image_too_thin, model_refused, too_long.
    reply: the raw text of the box step. box: unit xyxy, text: its canonical text, crop: pixels (left, top,
    right, bottom); None and "" without a box. response: None when there is none.
    """

    state: str = "ok"
    reply: str = ""
    box: Box | None = None
    text: str = ""
    crop: tuple[int, int, int, int] | None = None
    response: str | None = None
    finish: str = ""


def generate_outputs(
    questions: list[Question], actor: Role, mode: PromptingMode, config: GenConfig
) -> list[ModelOutput]:
    """Return one output for each question, in order."""
    return [output for group in image_groups(questions) for output in _outputs_of_group(group, actor, mode, config)]


def _outputs_of_group(
    questions: list[Question], actor: Role, mode: PromptingMode, config: GenConfig
) -> list[ModelOutput]:
    outputs: list[ModelOutput | None] = [None] * len(questions)
    views, places = [], []
    for place, question in enumerate(questions):
        image = images.decode(question.image)
        try:
            views.append(QuestionView(question, image, bind_frame(image, mode.box_space, actor)))
            places.append(place)
        except ImageTooThin:
            outputs[place] = ModelOutput("image_too_thin")
        except RequestRefused as refusal:
            outputs[place] = _refused(refusal)

    def step(some: Sequence[QuestionView]) -> list[ModelOutput]:
        return _one_step(some, actor, config) if mode.steps == 1 else _two_steps(some, actor, mode, config)

    results = isolate_refused(views, step)
    for place, result in zip(places, results, strict=True):
        outputs[place] = _refused(result) if isinstance(result, RequestRefused) else result
    return [output for output in outputs if output is not None]


def _refused(refusal: RequestRefused) -> ModelOutput:
    return ModelOutput(refusal.reason, str(refusal))


def _one_step(views: Sequence[QuestionView], actor: Role, config: GenConfig) -> list[ModelOutput]:
    parts = [DIRECT_PROMPT.parts(question=view.question.question) for view in views]
    replies = _generate([(p, (view.image,)) for p, view in zip(parts, views, strict=True)], actor, config)
    return [ModelOutput(response=reply.text, finish=reply.finish) for reply in replies]


def _two_steps(views: Sequence[QuestionView], actor: Role, mode: PromptingMode, config: GenConfig) -> list[ModelOutput]:
    prompt = VISUAL_COT_FOCUS if mode.rule is None else mode.prompts.focus
    inputs: list[_PromptInput] = [(prompt.parts(question=view.question.question), (view.image,)) for view in views]
    outputs, boxes, places = [], [], []
    for place, (view, reply) in enumerate(zip(views, _generate(inputs, actor, config), strict=True)):
        focus, state = _parse_box(view, reply.text, mode.rule)
        outputs.append(ModelOutput(state, reply.text))
        if focus is not None:
            boxes.append(focus)
            places.append(place)
    if mode.rule is None:
        replies = _second_turn(boxes, actor, config)
    else:
        replies = [reply for reply, _ in answer_pass(boxes, actor, config, mode.prompts)]
    for place, focus, reply in zip(places, boxes, replies, strict=True):
        outputs[place] = ModelOutput("ok", focus.reply, focus.box, focus.text, focus.crop, reply.text, reply.finish)
    return outputs


def _parse_box(view: QuestionView, reply: str, rule: CropRule | None) -> tuple[FocusBox | None, str]:
    cells, state = view.frame.parse(reply)
    if cells is None:
        return None, state
    box = view.frame.to_unit(cells)
    crop = square_crop(box, view.image.size) if rule is None else crop_pixels(box, view.image.size, rule)
    return FocusBox(view, 0, 0, box, cells, view.frame.text(cells), "actor", "", reply, state, 0, crop), state


def whole_image_box(question: Question) -> FocusBox:
    """Return a box around the whole image, for the judge of responses, which reads only the question and the image."""
    image = images.decode(question.image)
    view = QuestionView(question, image, make_frame("unit", image.size))
    return FocusBox(view, 0, 0, Box(0, 0, 1, 1), view.frame.bounds, "", "actor", "", "", "ok", 0, (0, 0, *image.size))


def _second_turn(boxes: list[FocusBox], actor: Role, config: GenConfig) -> list[Reply]:
    """Ask in a second turn after the box; the first leaves the focus request out, as the benchmark does."""
    inputs: list[_PromptInput] = []
    for focus in boxes:
        question = focus.view.question.question
        parts = (
            PromptPart("image"),
            PromptPart("text", question),
            PromptPart("reply", focus.reply),
            PromptPart("crop"),
            PromptPart("text", VISUAL_COT_ANSWER + question),
        )
        inputs.append((parts, (focus.view.image, focus.crop_image())))
    return _generate(inputs, actor, config)


def _generate(inputs: list[_PromptInput], actor: Role, config: GenConfig) -> list[Reply]:
    sampling = actor_sampling(config)
    requests = [Request(parts, pictures, (0,), sampling, actor.adapter) for parts, pictures in inputs]
    return [reply for (reply,) in actor.engine.generate(requests)]


def square_crop(box: Box, size: Size) -> tuple[int, int, int, int]:
    """Return the crop of the Visual-CoT benchmark, in pixels of the image of `size` (width, height).

    A square around the box's center, half its side the larger half side of the box but at least 112 pixels,
    shifted into the image and cut to it. A box of 40 x 60 around (50, 100) in 1000 x 800: 0, 0, 224, 224.
    """
    pixels = [round(value * side, 6) for value, side in zip(box.xyxy, (*size, *size), strict=True)]
    spans = list(zip(pixels[:2], pixels[2:], strict=True))
    half = int(max(VISUAL_COT_HALF, *((end - start) // 2 for start, end in spans)))
    (left, right), (top, bottom) = (_placed(span, half, side) for span, side in zip(spans, size, strict=True))
    return (left, top, right, bottom)


def _placed(span: tuple[float, float], half: int, side: int) -> tuple[int, int]:
    center = int(sum(span) // 2)
    center = min(max(center, half), side - half)
    return max(0, center - half), min(side, center + half)
