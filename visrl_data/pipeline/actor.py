"""The two passes of the actor: focus (image, question -> boxes) and answer (with the crop -> responses).

One focus request samples all boxes of a question's attempts, 2N of them; the diversity controller then keeps or
replaces each attempt's second box. A box is quantized on the actor's lattice before it is cropped, wherever it came
from, so that neither the crop nor the text reveals its origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from visrl_data.core.boxes import Box, Cells, Frame, make_frame, needs_resized_size
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.prompts import PromptSet
from visrl_data.core.records import Drop, Question
from visrl_data.core.seeds import keyed_seed
from visrl_data.engines.protocol import Reply, Request, Role, Sampling
from visrl_data.pipeline.diversity import choose_second_box

_LOGPROB_DECIMALS = 2  # nats; digits below them depend on the batch, and equal replies are to tie
GROUP_PIXELS = 200_000_000  # of the decoded images of a group: 600 MB, or one image


@dataclass(frozen=True, slots=True)
class QuestionView:
    """A question with its decoded original image and the actor's box space bound to that image."""

    question: Question
    image: Image
    frame: Frame
    _crops: dict[tuple[int, int, int, int], Image] = field(default_factory=dict)

    def crop(self, pixels: tuple[int, int, int, int]) -> Image:
        """Return the crop (left, top, right, bottom), the same object each time: engines cache images by identity."""
        if pixels not in self._crops:
            self._crops[pixels] = self.image.crop(pixels)
        return self._crops[pixels]


@dataclass(frozen=True, slots=True)
class FocusBox:
    """A focus box of an attempt, kept or replaced by the diversity controller; the fields are those of Candidate."""

    view: QuestionView
    attempt: int
    slot: int
    box: Box
    cells: Cells
    text: str
    origin: str
    relaxed: str
    reply: str
    state: str
    seed: int
    crop: tuple[int, int, int, int]
    logprob: float | None = None

    def crop_image(self) -> Image:
        return self.view.crop(self.crop)


def image_groups(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """Yield the questions of a chunk in order, in groups whose decoded images are in memory at the same time.

    Ordinary images are one group. A file of a few bytes may hold a picture of 80 million pixels, 240 MB, and
    each of its 2N crops may be as large.
    """
    group: list[Question] = []
    pixels = 0
    for question in questions:
        pixels += question.width * question.height
        if group and pixels > GROUP_PIXELS:
            yield group
            group, pixels = [], question.width * question.height
        group.append(question)
    if group:
        yield group


def bind_frame(image: Image, box_space: str, actor: Role) -> Frame:
    """Bind the box space to an image, at the size at which the actor sees it where that matters.

    Raises ImageTooThin when no box can be written about it, RequestRefused when the actor does not take it.
    """
    seen = actor.engine.resized_size(image) if needs_resized_size(box_space) else None
    return make_frame(box_space, image.size, seen)


def actor_sampling(config: GenConfig) -> Sampling:
    """Return how the actor samples in both passes."""
    return Sampling(config.temperature, config.top_p, config.top_k, config.max_new_tokens)


def focus_pass(
    views: Sequence[QuestionView],
    attempts: range,
    earlier: Sequence[Sequence[FocusBox]],
    actor: Role,
    config: GenConfig,
    prompts: PromptSet,
    rule: CropRule,
) -> list[tuple[list[FocusBox], list[Drop]]]:
    """Sample two boxes for each of these attempts at each question. earlier: the boxes of its attempts before them.

    Return the question's new boxes, and a drop for each attempt without a valid one.
    """
    requests = [
        Request(
            parts=prompts.focus.parts(question=view.question.question),
            images=(view.image,),
            seeds=tuple(_seed(config, view, attempt, slot, "focus") for attempt in attempts for slot in (0, 1)),
            sampling=actor_sampling(config),
            adapter=actor.adapter,
            grammar=view.frame.grammar if config.constrain else "",
            logprob=True,
        )
        for view in views
    ]
    return [
        _settle_question(view, attempts, known, replies, request.seeds, config, rule)
        for view, known, request, replies in zip(views, earlier, requests, actor.engine.generate(requests), strict=True)
    ]


def answer_pass(boxes: list[FocusBox], actor: Role, config: GenConfig, prompts: PromptSet) -> list[tuple[Reply, int]]:
    """Return a response and its seed for each box, from the image, the question and the box's crop."""
    requests = [
        Request(
            parts=prompts.answer.parts(question=focus.view.question.question),
            images=(focus.view.image, focus.crop_image()),
            seeds=(_seed(config, focus.view, focus.attempt, focus.slot, "answer"),),
            sampling=actor_sampling(config),
            adapter=actor.adapter,
        )
        for focus in boxes
    ]
    return [
        (reply, request.seeds[0]) for request, (reply,) in zip(requests, actor.engine.generate(requests), strict=True)
    ]


def _seed(config: GenConfig, view: QuestionView, attempt: int, slot: int, purpose: str) -> int:
    return keyed_seed(config.seed, config.round, view.question.id, attempt, slot, purpose)


def _settle_question(
    view: QuestionView,
    attempts: range,
    earlier: Sequence[FocusBox],
    replies: list[Reply],
    seeds: tuple[int, ...],
    config: GenConfig,
    rule: CropRule,
) -> tuple[list[FocusBox], list[Drop]]:
    boxes: list[FocusBox] = []
    drops: list[Drop] = []
    for place, attempt in enumerate(attempts):
        both = slice(2 * place, 2 * place + 2)
        known = [*earlier, *boxes]
        new_boxes, new_drops = _settle_attempt(view, attempt, replies[both], seeds[both], known, config, rule)
        boxes += new_boxes
        drops += new_drops
    return boxes, drops


def _settle_attempt(
    view: QuestionView,
    attempt: int,
    replies: list[Reply],
    seeds: tuple[int, ...],
    earlier: list[FocusBox],
    config: GenConfig,
    rule: CropRule,
) -> tuple[list[FocusBox], list[Drop]]:
    """Apply Eq. 3 to one attempt. The first valid box of the two is b1; the controller decides on the other."""
    sampled, states = zip(*(view.frame.parse(reply.text) for reply in replies), strict=True)
    # Slot 0 is the first valid box, so that an attempt is lost only when neither reply holds a box.
    order = sorted((0, 1), key=lambda i: sampled[i] is None)
    first, second = (sampled[i] for i in order)

    def focus(slot: int, cells: Cells, origin: str, relaxed: str) -> FocusBox:
        box, text = view.frame.to_unit(cells), view.frame.text(cells)
        crop = crop_pixels(box, view.image.size, rule)
        reply, state, seed = replies[order[slot]], states[order[slot]], seeds[order[slot]]
        logprob = None if origin == "controller" or reply.logprob is None else round(reply.logprob, _LOGPROB_DECIMALS)
        return FocusBox(view, attempt, slot, box, cells, text, origin, relaxed, reply.text, state, seed, crop, logprob)

    question = view.question
    if first is None:
        detail = "; ".join(dict.fromkeys(states))
        return [], [Drop(question.id, question.source, "focus", states[0], detail, attempt)]
    kept = focus(0, first, "actor", "")
    if config.diversity == "off":
        if second is None:
            return [kept], [Drop(question.id, question.source, "focus", states[order[1]], "second box", attempt)]
        return [kept, focus(1, second, "actor", "")], []
    others = [box.cells for box in earlier] if config.diversity == "question" else []
    seed = _seed(config, view, attempt, 1, "diversity")
    chosen = choose_second_box(first, second, others, view.frame, config.iou_max, config.area_slack, seed)
    return [kept, focus(1, chosen.cells, chosen.origin, chosen.relaxed)], []
