"""The original model judges both steps: the crop (box score) and the response (response score).

Paper, Sec. 3.2. A verdict that can't be read is a state of its own ("unparsed:<reason>"), never a number.
Equal inputs of one question are judged once: greedy replies to them would be equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from visrl_data.core.config import GenConfig, Thresholds
from visrl_data.core.metrics import anls, exact_match
from visrl_data.core.prompts import (
    SCORE_CHOICES,
    SCORE_GRAMMAR,
    SCORE_PREFIX,
    Part,
    PromptSet,
    parse_score,
    standard_answer,
)
from visrl_data.core.records import Score
from visrl_data.engines.protocol import Reply, Request, Role, Sampling
from visrl_data.pipeline.actor import FocusBox

if TYPE_CHECKING:
    from PIL.Image import Image

OFF = Score(None, "off")
SKIPPED = Score(None, "skipped")


def score_boxes(boxes: Sequence[FocusBox], critic: Role, config: GenConfig, prompts: PromptSet) -> list[Score]:
    """Does the crop hold what the standard answer needs? The critic sees the crop alone."""
    if not config.box_critic:
        return [OFF] * len(boxes)
    keys = [(focus.view.question.id, focus.crop) for focus in boxes]

    def request(i: int) -> Request:
        question = boxes[i].view.question
        parts = prompts.box_critic.parts(question=question.question, answer=standard_answer(question.answers))
        return _request(parts, (boxes[i].crop_image(),), critic, config)

    return _judge(keys, request, critic, config)


def can_pair(score: Score, thresholds: Thresholds) -> bool:
    """Whether a candidate with this box score can be in W or L, whatever its response (Eq. 4)."""
    return score.value is not None and not thresholds.box_lose < score.value < thresholds.box_win


def score_responses(
    boxes: Sequence[FocusBox], responses: Sequence[str], critic: Role, config: GenConfig, prompts: PromptSet
) -> list[Score]:
    """How close is the response to a standard answer? The model critic sees the whole image."""
    if config.response_critic != "model":
        compare = exact_match if config.response_critic == "exact" else anls
        values = [compare(r, focus.view.question.answers) for r, focus in zip(responses, boxes, strict=True)]
        return [Score(round_score(value, config.score_step), "ok", f"{value:.6f}") for value in values]
    keys = [(focus.view.question.id, response) for focus, response in zip(boxes, responses, strict=True)]

    def request(i: int) -> Request:
        view = boxes[i].view
        parts = prompts.response_critic.parts(
            question=view.question.question, answer=standard_answer(view.question.answers), response=responses[i]
        )
        return _request(parts, (view.image,), critic, config)

    return _judge(keys, request, critic, config)


def _request(parts: tuple[Part, ...], images: tuple[Image, ...], critic: Role, config: GenConfig) -> Request:
    expected = config.score_mode == "expected"
    return Request(
        parts=parts,
        images=images,
        seeds=(0,),
        sampling=Sampling(max_new_tokens=config.max_new_tokens),
        adapter=critic.adapter,
        prefix=SCORE_PREFIX if expected else "",
        choices=SCORE_CHOICES if expected else (),
        grammar=SCORE_GRAMMAR if config.constrain and not expected else "",
    )


def _judge(keys: Sequence[Hashable], request: Callable[[int], Request], critic: Role, config: GenConfig) -> list[Score]:
    """One verdict for each distinct key, in order of first appearance."""
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    wanted = sorted(first.values())
    replies = critic.engine.generate([request(i) for i in wanted])
    verdicts = {keys[i]: _score(reply, config) for i, (reply,) in zip(wanted, replies, strict=True)}
    return [verdicts[key] for key in keys]


def _score(reply: Reply, config: GenConfig) -> Score:
    if config.score_mode == "expected":
        expected = sum(p * float(c) for p, c in zip(reply.choice_probs, SCORE_CHOICES, strict=True))
        mass = round(reply.choice_mass or 0.0, 6)
        return Score(round_score(expected, config.score_step), "ok", f"{expected:.6f}", mass)
    value, state = parse_score(reply.text)
    if value is None:
        return Score(None, f"unparsed:{state}", reply.text)
    return Score(round_score(value, config.score_step), "ok", reply.text)


def round_score(value: float, step: float) -> float:
    """The nearest multiple of step in [0, 1]; halves go up. 6 decimals, so that 0.8 is 0.8."""
    return min(1.0, round(math.floor(value / step + 0.5 + 1e-9) * step, 6))
