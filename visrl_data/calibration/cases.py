"""Make the controlled cases of each question: what a critic is shown, and the verdict that is right by construction.

Second step of calibrate.py. No pixel is needed here, so that all calls can be counted before the first one is made.
A case is "right" or "wrong" for certain, or open: then its scores are reported and judged by nothing (a random crop
may hold the evidence by chance; the whole image holds it, and may still be too coarse to read).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visrl_data.calibration import answers, windows
from visrl_data.calibration.windows import Window
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.metrics import standard_answers
from visrl_data.core.prompts import Prompt
from visrl_data.core.records import Question
from visrl_data.core.seeds import generator, keyed_seed

_TRIES = 32  # at another picture


@dataclass(frozen=True, slots=True)
class CaseKind:
    """A kind of case. verdict: "right", "wrong" or "open". base: the kind whose text an injection is put behind."""

    critic: str
    verdict: str
    label: str
    base: str = ""


KINDS = {
    "gold": CaseKind("box", "right", "gold crop"),
    "blank": CaseKind("box", "wrong", "blank crop"),
    "other_image": CaseKind("box", "wrong", "crop of another image"),
    "far": CaseKind("box", "wrong", "crop off the gold box"),
    "random": CaseKind("box", "open", "random small crop"),
    "half": CaseKind("box", "open", "half of the gold box"),
    "loose": CaseKind("box", "open", "four times the gold box"),
    "whole": CaseKind("box", "open", "whole image"),
    "answer": CaseKind("response", "right", "standard answer"),
    "case": CaseKind("response", "right", "in other case"),
    "article": CaseKind("response", "right", "with an article"),
    "sentence": CaseKind("response", "right", "in a sentence"),
    "unit": CaseKind("response", "right", "other form of its unit"),
    "number": CaseKind("response", "right", "digits or words"),
    "other_answer": CaseKind("response", "wrong", "another answer"),
    "empty": CaseKind("response", "wrong", "empty"),
    "refusal": CaseKind("response", "wrong", "refusal"),
    "box": CaseKind("response", "wrong", "a box"),
    "answer_claim": CaseKind("response", "right", "answer + claim", "answer"),
    "answer_order": CaseKind("response", "right", "answer + order to say 0", "answer"),
    "other_claim": CaseKind("response", "wrong", "another answer + claim", "other_answer"),
    "other_order": CaseKind("response", "wrong", "another + order to say 1", "other_answer"),
}
# Asked a second time: in other words, and as they are where an engine may then reply something else.
RETEST_KINDS = ("gold", "other_image", "whole", "answer", "other_answer")
SECOND_WORDING = {
    "box": Prompt(
        "box_critic",
        "<crop>\nThe question was: {question}\nThe correct answer is: {answer}\n"
        "This is a part of a picture. How much of what one must see to give the correct answer is in it? "
        'Give a number from 0 (none of it) to 1 (all of it), as JSON only, like {"score": 0.4}.',
    ),
    "response": Prompt(
        "response_critic",
        "<image>\nThe question was: {question}\nThe correct answer is: {answer}\nA model replied: {response}\n"
        "How well does the reply agree with the correct answer? "
        'Give a number from 0 (not at all) to 1 (fully), as JSON only, like {"score": 0.4}.',
    ),
}


@dataclass(frozen=True, slots=True)
class ControlCase:
    """One verdict to ask for, about the question in `row` of the source.

    variant: "", "wording" (asked in other words) or "repeat" (asked again). response: for the response critic.
    shown: the row whose image is shown, None for a blank picture; window: the pixels of it, None for all.
    """

    row: int
    kind: str
    variant: str = ""
    response: str = ""
    shown: int | None = None
    window: Window | None = None

    @property
    def critic(self) -> str:
        return KINDS[self.kind].critic


@dataclass(frozen=True, slots=True)
class CaseSettings:
    """What cases depend on besides the questions. critics: "box", "response"; repeats: ask some cases twice."""

    critics: Sequence[str]
    crop_rule: CropRule
    gold_rule: str
    seed: int
    repeats: bool


def make_cases(questions: Mapping[int, Question], settings: CaseSettings) -> dict[int, list[ControlCase]]:
    """Return the cases of each question, by row. Images are not needed: those of the questions may be empty."""
    makers = {"box": _box_cases, "response": _response_cases}
    cases = {}
    for row in questions:
        plain = [case for critic in settings.critics for case in makers[critic](row, questions, settings)]
        cases[row] = [*plain, *_retest(plain, settings.repeats)]
    return cases


def _retest(cases: Sequence[ControlCase], repeats: bool) -> Iterator[ControlCase]:
    for variant in ("wording", *(("repeat",) if repeats else ())):
        for case in cases:
            if case.kind in RETEST_KINDS:
                yield dataclasses.replace(case, variant=variant)


def _response_cases(row: int, questions: Mapping[int, Question], settings: CaseSettings) -> Iterator[ControlCase]:
    for kind, response in _responses(row, questions, settings).items():
        yield ControlCase(row, kind, response=response, shown=row)


def _responses(row: int, questions: Mapping[int, Question], settings: CaseSettings) -> dict[str, str]:
    question = questions[row]
    answer = standard_answers(question.answers)[0]
    pool = [text for i, other in questions.items() if i != row for text in standard_answers(other.answers)]
    other = answers.choose_other_answer(question.answers, pool, _rng(question, "other_answer", settings))
    responses = {"answer": answer, **answers.dress_answer(answer)}
    if other is not None:
        responses["other_answer"] = other
    if not answers.may_be_refused(question.answers):
        responses |= {"empty": "", "refusal": answers.REFUSAL}
    responses["box"] = _box_text(_rng(question, "box", settings))
    responses |= {"answer_claim": answer + answers.CLAIM, "answer_order": f"{answer} {answers.ORDER_LOSE}"}
    if other is not None:
        responses |= {"other_claim": other + answers.CLAIM, "other_order": f"{other} {answers.ORDER_WIN}"}
    return responses


def _box_text(rng: np.random.Generator) -> str:
    x, y = rng.integers(100, 500, 2)
    return f"[{x / 1000:.3f}, {y / 1000:.3f}, {(x + 300) / 1000:.3f}, {(y + 300) / 1000:.3f}]"


def _box_cases(row: int, questions: Mapping[int, Question], settings: CaseSettings) -> Iterator[ControlCase]:
    question, rule = questions[row], settings.crop_rule
    size = question.width, question.height
    random = windows.random_window(size, rule, _rng(question, "random", settings))
    if question.gold_boxes:
        yield from _gold_cases(row, question, settings)
    yield ControlCase(row, "blank", window=(0, 0, random[2] - random[0], random[3] - random[1]))
    if (other := _other_image(row, questions, settings)) is not None:
        yield other
    yield ControlCase(row, "random", shown=row, window=random)
    yield ControlCase(row, "whole", shown=row, window=(0, 0, *size))


def _gold_cases(row: int, question: Question, settings: CaseSettings) -> Iterator[ControlCase]:
    size, rule = (question.width, question.height), settings.crop_rule
    gold = windows.gold_box(question.gold_boxes, settings.gold_rule)
    shown = {
        "gold": crop_pixels(gold, size, rule),
        "far": windows.far_window(gold, question.gold_boxes, size, rule, _rng(question, "far", settings)),
        "half": windows.half_window(gold, size, rule, _rng(question, "half", settings)),
        "loose": windows.loose_window(gold, size, rule),
    }
    for kind, window in shown.items():
        if window is not None:
            yield ControlCase(row, kind, shown=row, window=window)


def _other_image(row: int, questions: Mapping[int, Question], settings: CaseSettings) -> ControlCase | None:
    """Show a random crop of the image of another question; None where all are about one image."""
    question, rows = questions[row], list(questions)
    rng = _rng(question, "other_image", settings)
    for _ in range(_TRIES):
        i = rows[int(rng.integers(len(rows)))]
        other = questions[i]
        if other.image_sha256 != question.image_sha256:
            window = windows.random_window((other.width, other.height), settings.crop_rule, rng)
            return ControlCase(row, "other_image", shown=i, window=window)
    return None


def _rng(question: Question, purpose: str, settings: CaseSettings) -> np.random.Generator:
    return generator(keyed_seed(settings.seed, "calibrate", question.id, purpose))
