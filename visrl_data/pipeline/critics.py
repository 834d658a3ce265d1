"""The critics score both steps: the crop (box score) and the response (response score). Paper, Sec. 3.1.

A critic is anything with `score` (the protocol Critic); `box_critic` and `response_critic` choose it by the options.
ModelCritic asks the ORIGINAL model. A verdict that can't be read is a state of its own ("unparsed:<reason>"), never a
number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from visrl_data.core.config import GenConfig, Thresholds
from visrl_data.core.metrics import answer_metric
from visrl_data.core.prompts import (
    SCORE_CHOICES,
    SCORE_GRAMMAR,
    SCORE_PREFIX,
    Prompt,
    PromptSet,
    parse_score,
    standard_answer,
)
from visrl_data.core.records import Score
from visrl_data.engines.protocol import Reply, Request, Role, Sampling
from visrl_data.engines.refusals import RequestRefused
from visrl_data.pipeline.actor import FocusBox

if TYPE_CHECKING:
    from PIL.Image import Image

OFF = Score(None, "off")
SKIPPED = Score(None, "skipped")


@dataclass(frozen=True, slots=True)
class ScoreInput:
    """What a critic scores: a focus box, or the response that the actor gave with its crop."""

    focus: FocusBox
    response: str = ""


class Critic(Protocol):
    """Score focus boxes or responses."""

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        """Return one score an input, in order; they may be of several questions."""
        ...


def box_critic(config: GenConfig, role: Role, prompts: PromptSet) -> Critic:
    """Return the critic of boxes: does the crop hold what the standard answer needs? It sees the crop alone."""
    return ModelCritic(role, config, prompts.box_critic) if config.box_critic else NoCritic()


def response_critic(config: GenConfig, role: Role, prompts: PromptSet) -> Critic:
    """Return the critic of responses: how close to a standard answer? A model sees the whole image."""
    if config.response_critic == "model":
        return ModelCritic(role, config, prompts.response_critic)
    return MetricCritic(answer_metric(config.response_critic), config.score_step)


def can_pair(score: Score, thresholds: Thresholds) -> bool:
    """Return whether a candidate with this box score can be in W or L, whatever its response (Eq. 4)."""
    return score.value is not None and not thresholds.box_lose < score.value < thresholds.box_win


@dataclass(frozen=True, slots=True)
class NoCritic:
    """Leave everything without a score."""

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        return [OFF] * len(inputs)


@dataclass(frozen=True, slots=True)
class MetricCritic:
    """Compare responses with the standard answers. metric: (response, answers) -> [0, 1]."""

    metric: Callable[[str, Sequence[str]], float]
    score_step: float

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        values = [self.metric(one.response, one.focus.view.question.answers) for one in inputs]
        return [Score(round_score(value, self.score_step), "ok", f"{value:.6f}") for value in values]


@dataclass(frozen=True, slots=True)
class ModelCritic:
    """Ask a model, greedily, with one prompt for each input."""

    role: Role
    config: GenConfig
    prompt: Prompt

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        # Greedy replies to equal requests are equal: a crop or a response that occurs twice is judged once.
        distinct: dict[Hashable, Request] = {}
        keys = []
        for request in map(self._request, inputs):
            keys.append((request.parts, *map(id, request.images)))
            distinct.setdefault(keys[-1], request)
        replies = self.role.engine.generate([*distinct.values()])
        scores = {key: read_score(reply, self.config) for key, (reply,) in zip(distinct, replies, strict=True)}
        return [scores[key] for key in keys]

    def _request(self, one: ScoreInput) -> Request:
        view = one.focus.view
        picture = one.focus.crop_image() if self.prompt.shows_crop else view.image
        answer = standard_answer(view.question.answers)
        texts = {"question": view.question.question, "answer": answer, "response": one.response}
        return score_request(self.prompt, texts, picture, self.role, self.config)


def score_request(prompt: Prompt, texts: dict[str, str], picture: Image, role: Role, config: GenConfig) -> Request:
    """Return the request for one verdict. texts: the fields of the prompt; picture: the crop or the whole image."""
    expected = config.score_mode == "expected"
    return Request(
        parts=prompt.parts(**texts),
        images=(picture,),
        seeds=(0,),
        sampling=Sampling(max_new_tokens=config.max_new_tokens),
        adapter=role.adapter,
        prefix=SCORE_PREFIX if expected else "",
        choices=SCORE_CHOICES if expected else (),
        grammar=SCORE_GRAMMAR if config.constrain and not expected else "",
    )


def read_score(reply: Reply, config: GenConfig) -> Score:
    """Read the verdict of a reply; one that can't be read is a state of its own."""
    if config.score_mode == "expected":
        if not (reply.choice_mass or 0.0) > 0:  # all underflowed, or are NaN
            return Score(None, "unparsed:no_probability", "")
        total = sum(p * float(c) for p, c in zip(reply.choice_probs, SCORE_CHOICES, strict=True))
        expected = round(total, 6)  # what float32 probabilities are good for, and what the raw text holds
        mass = round(reply.choice_mass or 0.0, 6)
        return Score(round_score(expected, config.score_step), "ok", f"{expected:.6f}", mass)
    value, state = parse_score(reply.text)
    if value is None:
        return Score(None, f"unparsed:{state}", reply.text)
    return Score(round_score(value, config.score_step), "ok", reply.text)


def as_score(result: Score | RequestRefused) -> Score:
    """Return a score; where the critic refused the request, one that can't be read."""
    return Score(None, f"unparsed:{result.reason}", str(result)) if isinstance(result, RequestRefused) else result


def round_score(value: float, step: float) -> float:
    """Round to the nearest multiple of step in [0, 1]; halves go up. 6 decimals, so that 0.8 is 0.8.

    Step 0, the default, leaves the score as the critic gave it, as in Eq. 4; any other step is a departure from it.
    """
    return value if step == 0 else min(1.0, round(math.floor(value / step + 0.5 + 1e-9) * step, 6))
