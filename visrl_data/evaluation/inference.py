"""How a model is asked in an evaluation: greedily, in two steps, or in one step without a box.

Called by evaluate.py for each chunk of questions.

    visrl        image, question + focus request -> box;  fresh turn: the same and the crop -> answer (as training)
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
from visrl_data.pipeline.actor import FocusBox, QuestionView, actor_sampling, answer_pass, bind_frame

_Asked = tuple[tuple[PromptPart, ...], tuple[Image.Image, ...]]
"""What a model is shown, and its pictures in the order of their places."""
DIRECT_PROMPT = Prompt("direct", DIRECT)
VISUAL_COT_REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the question better."
)
VISUAL_COT_FOCUS = Prompt("focus", "<image>\n{question} " + VISUAL_COT_REQUEST)
VISUAL_COT_ANSWER = "Please answer the question based on the original image and local detail image."
VISUAL_COT_HALF = 112  # pixels: half the smallest side of its crop


@dataclass(frozen=True, slots=True)
class Way:
    """How one model is asked. steps: 1 or 2; rule: the crop rule, None for the one of the Visual-CoT benchmark."""

    steps: int
    box_space: str
    rule: CropRule | None
    prompts: PromptSet

    @property
    def templates(self) -> dict[str, str]:
        """Prompt id -> template, of all that the model is asked."""
        if self.steps == 1:
            return {DIRECT_PROMPT.id: DIRECT}
        if self.rule is None:
            return {VISUAL_COT_FOCUS.id: VISUAL_COT_FOCUS.template, "second turn": VISUAL_COT_ANSWER}
        return {prompt.id: prompt.template for prompt in (self.prompts.focus, self.prompts.answer)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model made of a question.

    state: "ok"; or why there is no box and so no answer: the parser's reason, image_too_thin, model_refused.
    reply: what it wrote when asked for the box. box: unit xyxy, text: its canonical text, crop: pixels (left, top,
    right, bottom); None and "" without a box. response: None when it was not asked for.
    """

    state: str = "ok"
    reply: str = ""
    box: Box | None = None
    text: str = ""
    crop: tuple[int, int, int, int] | None = None
    response: str | None = None
    finish: str = ""


def ask(questions: list[Question], actor: Role, way: Way, config: GenConfig) -> list[Outcome]:
    """One outcome for each question, in order."""
    found: list[Outcome | None] = [None] * len(questions)
    views, places = [], []
    for place, question in enumerate(questions):
        image = images.decode(question.image)
        try:
            views.append(QuestionView(question, image, bind_frame(image, way.box_space, actor)))
            places.append(place)
        except ImageTooThin:
            found[place] = Outcome("image_too_thin")
        except RequestRefused as refusal:
            found[place] = _refused(refusal)
    step = _one_step if way.steps == 1 else _two_steps
    outcomes = isolate_refused(views, lambda some: step(some, actor, way, config))
    for place, outcome in zip(places, outcomes, strict=True):
        found[place] = _refused(outcome) if isinstance(outcome, RequestRefused) else outcome
    return [outcome for outcome in found if outcome is not None]


def _refused(refusal: RequestRefused) -> Outcome:
    return Outcome("model_refused", str(refusal))


def _one_step(views: Sequence[QuestionView], actor: Role, way: Way, config: GenConfig) -> list[Outcome]:
    parts = [DIRECT_PROMPT.parts(question=view.question.question) for view in views]
    replies = _generate([(p, (view.image,)) for p, view in zip(parts, views, strict=True)], actor, config)
    return [Outcome(response=reply.text, finish=reply.finish) for reply in replies]


def _two_steps(views: Sequence[QuestionView], actor: Role, way: Way, config: GenConfig) -> list[Outcome]:
    prompt = VISUAL_COT_FOCUS if way.rule is None else way.prompts.focus
    asked: list[_Asked] = [(prompt.parts(question=view.question.question), (view.image,)) for view in views]
    outcomes, boxes, places = [], [], []
    for place, (view, reply) in enumerate(zip(views, _generate(asked, actor, config), strict=True)):
        focus, state = _settle(view, reply.text, way.rule)
        outcomes.append(Outcome(state, reply.text))
        if focus is not None:
            boxes.append(focus)
            places.append(place)
    answer = _second_turn if way.rule is None else _fresh_turn
    for place, focus, reply in zip(places, boxes, answer(boxes, actor, way, config), strict=True):
        outcomes[place] = Outcome("ok", focus.reply, focus.box, focus.text, focus.crop, reply.text, reply.finish)
    return outcomes


def _settle(view: QuestionView, reply: str, rule: CropRule | None) -> tuple[FocusBox | None, str]:
    cells, state = view.frame.parse(reply)
    if cells is None:
        return None, state
    box = view.frame.to_unit(cells)
    crop = square_crop(box, view.image.size) if rule is None else crop_pixels(box, view.image.size, rule)
    return FocusBox(view, 0, 0, box, cells, view.frame.text(cells), "actor", "", reply, state, 0, crop), state


def stand_in(question: Question) -> FocusBox:
    """A box around the whole image, for the judge of responses, which reads the question and the image alone."""
    image = images.decode(question.image)
    view = QuestionView(question, image, make_frame("unit", image.size))
    return FocusBox(view, 0, 0, Box(0, 0, 1, 1), view.frame.bounds, "", "actor", "", "", "ok", 0, (0, 0, *image.size))


def _fresh_turn(boxes: list[FocusBox], actor: Role, way: Way, config: GenConfig) -> list[Reply]:
    return [reply for reply, _ in answer_pass(boxes, actor, config, way.prompts)]


def _second_turn(boxes: list[FocusBox], actor: Role, way: Way, config: GenConfig) -> list[Reply]:
    """The box is the reply of the first turn; the focus request is left out of it, as the benchmark does."""
    asked: list[_Asked] = []
    for focus in boxes:
        question = focus.view.question.question
        parts = (
            PromptPart("image"),
            PromptPart("text", question),
            PromptPart("reply", focus.reply),
            PromptPart("crop"),
            PromptPart("text", VISUAL_COT_ANSWER + question),
        )
        asked.append((parts, (focus.view.image, focus.crop_image())))
    return _generate(asked, actor, config)


def _generate(asked: list[_Asked], actor: Role, config: GenConfig) -> list[Reply]:
    sampling = actor_sampling(config)
    requests = [Request(parts, pictures, (0,), sampling, actor.adapter) for parts, pictures in asked]
    return [reply for (reply,) in actor.engine.generate(requests)]


def square_crop(box: Box, size: Size) -> tuple[int, int, int, int]:
    """The crop of the Visual-CoT benchmark, in pixels of the image of `size` (width, height).

    A square around the box's centre, half its side the larger half side of the box but at least 112 pixels,
    shifted into the image and cut to it. A box of 40 x 60 around (50, 100) in 1000 x 800: 0, 0, 224, 224.
    """
    pixels = [round(value * side, 6) for value, side in zip(box.xyxy, (*size, *size), strict=True)]
    spans = list(zip(pixels[:2], pixels[2:], strict=True))
    half = int(max(VISUAL_COT_HALF, *((end - start) // 2 for start, end in spans)))
    (left, right), (top, bottom) = (_placed(span, half, side) for span, side in zip(spans, size, strict=True))
    return (left, top, right, bottom)


def _placed(span: tuple[float, float], half: int, side: int) -> tuple[int, int]:
    centre = int(sum(span) // 2)
    centre = max(centre, half)
    centre = min(centre, side - half)
    return max(0, centre - half), min(side, centre + half)
