"""Training sequences for the four tasks, as token ids with the views that their image tokens stand for.

Used by train.py with either kind of image token: codes of the truth (codes.py) or real pixels. A
lesson is one conversation in the shipped template with one to four turns, of which the first is
worded exactly as the pipeline words it; only replies carry loss. Targets of the critics come from
what can be read in the view (views.readable), never from a box's overlap with the gold box.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from PIL import Image

from studies.spotlight import phrases, strange, views
from studies.spotlight.answers import NUMBER_WORDS, answer_pair
from studies.spotlight.remarks import remark
from studies.spotlight.tokenizer import ASSISTANT, END, IMAGE, USER
from studies.spotlight.views import GRID, Window
from visrl_data.core import prompts
from visrl_data.spotlight.expressions import (
    LEVELS,
    TEMPLATES,
    ReferringExpression,
    ask_about,
    choose_expression,
    referring_expressions,
)
from visrl_data.spotlight.scenes import COLORS, DIGITS, SHAPES, Scene, SceneObject, Xyxy, make_scene

COORDINATE_WEIGHTS = (1.5, 1.25, 1.0, 1.0)
"""Loss weights of x1, y1, x2, y2: only the first ones need the question."""
ANSWER_WEIGHT = 3.0
SCORE_WEIGHT = 4.0
PUNCTUATION_WEIGHT = 0.2
PROMPTS = prompts.PromptSet()
HASTY = dict.fromkeys(LEVELS, 0.4)
"""Shares of the boxes, by level, that a hasty look chose (ReferringExpression.eye_catching) in what the base learns
pointing from before the stage `firm`, which has right ones alone.
"""
HASTY_WARM_UP = {"attribute": 0.75, "relation": 0.4, "superlative": 0.6}
"""The same in what the actor is warmed up with: a flaw like that of labels made in a hurry, left for RL to fix. Chosen
so that about half of its greedy boxes are right at each level.
"""
HASTY_READINGS = {"3": "8", "5": "6", "9": "4"}
"""Digits that a hasty reader takes for others that look alike when small."""
HASTY_READING = 0.75
"""Share of the warm-up's labels of such digits that a hasty reader chose."""
REMARKS = 0.4
"""Share of the critics' turns, once they are to read past remarks, with one behind question, answer or response."""
LESSON_SHARES = (0.35, 0.4, 0.25)
"""Shares of the levels in lessons of pointing: relations, the hardest, are practised more than they are asked."""
_LOCATE = tuple(prompts.Prompt("focus", text) for text in phrases.LOCATE)
_COLORS = tuple(COLORS)
_COMPARED = (*DIGITS, *DIGITS, *(f" {name}" for name in (*COLORS, *SHAPES)))


@dataclass(frozen=True, slots=True)
class View:
    """A window (left, top, right, bottom in pixels) of a drawn scene, or of another picture. `clear`: all
    digits count as readable; only for lessons on codes, since no pixels can show it.
    """

    source: Scene | Image.Image
    window: Window
    clear: bool = False


@dataclass(slots=True)
class Lesson:
    """One conversation. `targets[i]` is the token to predict AFTER tokens[i], or -1; `weights` its loss
    weight. `views` are what is behind the runs of image tokens, in order.
    """

    task: str
    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    views: list[View] = field(default_factory=list)


class Writer:
    """Writes turns into lessons with one tokenizer, in the token sequence of its chat template."""

    def __init__(self, tokenizer: Any) -> None:
        def encode(text: str) -> list[int]:
            tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
            return tokens

        self.encode = lru_cache(maxsize=200_000)(encode)
        self.user, self.assistant, self.end, self.image = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END, IMAGE])

    def turn(self, lesson: Lesson, parts: list[View | str], reply: list[tuple[str, float]]) -> None:
        """Add a user turn (texts and views) and its reply as (text, weight) pieces."""
        self._add_context(lesson, [self.user])
        for part in parts:
            if isinstance(part, str):
                self._add_context(lesson, self.encode(part))
            else:
                lesson.views.append(part)
                self._add_context(lesson, [self.image] * (GRID * GRID))
        self._add_context(lesson, [self.end, self.assistant])
        for text, weight in reply:
            self._add_reply(lesson, self.encode(text), weight)
        self._add_reply(lesson, [self.end], PUNCTUATION_WEIGHT)

    def _add_context(self, lesson: Lesson, ids: list[int]) -> None:
        lesson.tokens += ids
        lesson.targets += [-1] * len(ids)
        lesson.weights += [0.0] * len(ids)

    def _add_reply(self, lesson: Lesson, ids: list[int], weight: float) -> None:
        for token in ids:
            lesson.targets[-1], lesson.weights[-1] = token, weight
            self._add_context(lesson, [token])


def make_lesson(
    rng: random.Random,
    writer: Writer,
    hasty: Mapping[str, float] = MappingProxyType({}),
    remarks: float = 0.0,
    shares: tuple[float, ...] = (0.3, 0.15, 0.3, 0.25),
) -> Lesson:
    """Build a random lesson on a random scene; `shares` are those of pointing, answer, box and response critic."""
    scene = make_scene(rng, rng.randint(1, 6))
    task = rng.choices(("focus", "answer", "box_critic", "response_critic"), shares)[0]
    if task == "focus":
        return focus_lesson(rng, writer, scene, rng.choice(_LOCATE), hasty=hasty)
    if task == "answer":
        return answer_lesson(rng, writer, scene)
    critic = box_critic_lesson if task == "box_critic" else response_critic_lesson
    return critic(rng, writer, scene, remarks)


def point_lesson(rng: random.Random, writer: Writer) -> Lesson:
    """Ask for boxes in the base's own words, on a scene like those of world.make_example."""
    return focus_lesson(rng, writer, make_scene(rng, rng.randint(3, 6)), rng.choice(_LOCATE))


def actor_lesson(rng: random.Random, writer: Writer) -> Lesson:
    """Build one focus or answer turn, as the pipeline asks it, on a scene like those of world.make_example."""
    scene = make_scene(rng, rng.randint(3, 6))
    return (
        focus_lesson(rng, writer, scene, PROMPTS.focus, most=1, hasty=HASTY_WARM_UP)
        if rng.random() < 0.6
        else answer_lesson(rng, writer, scene, hasty=HASTY_READING)
    )


def strange_lesson(rng: random.Random, writer: Writer, actor_only: bool = False) -> Lesson:
    """Build one of the four tasks on a picture and a question from outside the drawn world."""
    lesson = Lesson("strange")
    picture, question = strange.strange_picture(rng), strange.strange_question(rng)
    box = strange.plausible_box(rng)
    pictures = {
        "image": View(picture, (0, 0, *picture.size)),
        "crop": View(picture, views.crop_window(box, picture.size)),
    }
    standard, response, score = answer_pair(rng)
    task = rng.choice(
        ("focus", "answer") if actor_only else ("focus", "focus", "answer", "box_critic", "response_critic")
    )
    if task == "focus":
        prompt = PROMPTS.focus if actor_only else rng.choice(_LOCATE)
        parts, reply = fill_prompt(prompt, pictures, question=question), box_reply(box)
    elif task == "answer":
        parts, reply = fill_prompt(PROMPTS.answer, pictures, question=question), [(rng.choice(DIGITS), 0.5)]
    elif task == "box_critic":
        parts = fill_prompt(PROMPTS.box_critic, pictures, question=question, answer=standard)
        reply = score_reply(0.0)
    else:
        texts = {"question": question, "answer": standard, "response": response}
        parts, reply = fill_prompt(PROMPTS.response_critic, pictures, **texts), score_reply(score)
    writer.turn(lesson, parts, reply)
    return lesson


def caption_lesson(rng: random.Random, writer: Writer) -> Lesson:
    """Name the things of a picture in one reply: " red circle7 blue cross3", or with boxes for digits; in a part of
    the lessons not only objects but things of all levels: " largest shape3 shape left of the red circle5".

    What teaches choosing: each word is answered at the very next token, so that one attention step
    from " red" to the red token already pays, and the pair of words comes next. Asked in whole turns from
    the start, the model stayed at chance for hours.
    """
    lesson = Lesson("caption")
    scene = make_scene(rng, rng.randint(2, 6))
    things = referring_expressions(scene)
    if rng.random() < 0.6:
        things = [thing for thing in things if thing.level == "attribute"]
    else:
        things = [choose_expression(rng, scene) for _ in range(6)]
    rng.shuffle(things)
    boxes = rng.random() < 0.4
    _caption(lesson, writer, scene, [piece for thing in things for piece in _name(thing, boxes)])
    return lesson


def relations_lesson(rng: random.Random, writer: Writer, clear: bool = True) -> Lesson:
    """Name things of a picture by what they are next to: " shape left of the red circle5 shape above ...", with boxes
    for digits where those can't be read, and in 40 % of the lessons where they can.
    """
    lesson = Lesson("relations")
    scene = make_scene(rng, rng.randint(3, 6))
    boxes = not clear or rng.random() < 0.4
    things = [thing for thing in referring_expressions(scene) if thing.level == "relation"]
    chosen = rng.sample(things, min(5 if boxes else 10, len(things)))
    _caption(lesson, writer, scene, [piece for thing in chosen for piece in _name(thing, boxes)], clear)
    return lesson


def _caption(lesson: Lesson, writer: Writer, scene: Scene, reply: list[tuple[str, float]], clear: bool = True) -> None:
    writer.turn(lesson, [View(scene, views.whole(scene), clear)], reply)


def _name(thing: ReferringExpression, boxes: bool) -> list[tuple[str, float]]:
    if thing.level != "attribute":
        return [(f" {thing.words}", 0.05), *_point(thing.target, boxes)]
    return [(f" {thing.target.color}", 0.05), (f" {thing.target.shape}", 1.0), *_point(thing.target, boxes)]


def _point(item: SceneObject, boxes: bool) -> list[tuple[str, float]]:
    return box_reply(item.box) if boxes else [(item.digit, ANSWER_WEIGHT)]


def quiz_lesson(rng: random.Random, writer: Writer) -> Lesson:
    """Ask the question itself about several things of one picture, answered at once."""
    scene = make_scene(rng, rng.randint(2, 6))
    picture = View(scene, views.whole(scene), clear=True)
    level, things = sample_expressions(rng, scene, 5)
    lesson = Lesson(f"quiz {level}")
    for k, thing in enumerate(things):
        question = ask_about(rng, thing)
        writer.turn(lesson, [picture, question] if k == 0 else [question], [(thing.target.digit, ANSWER_WEIGHT)])
    return lesson


def pairs_lesson(rng: random.Random, writer: Writer, spelled: bool = False) -> Lesson:
    """Put two answers and their verdict side by side: to comparing what captions are to choosing. `spelled`: the
    second one is the word of a digit.
    """
    lesson = Lesson("pairs")
    reply = []
    for _ in range(16):
        standard, other = rng.sample(DIGITS if spelled else _COMPARED, 2)
        response, score = rng.choice(((standard, "1.0"), (other, "0.0")))
        if spelled:
            response = rng.choice(("", " ")) + rng.choice((str, str.capitalize))(NUMBER_WORDS[int(response)])
        before, between = rng.choice((("", ""), phrases.MARKS[0], rng.choice(phrases.MARKS)))
        reply += [(before, 0.0), (standard, 0.0), (between, 0.0), (response, 0.0), (score, SCORE_WEIGHT)]
    writer.turn(lesson, [], reply)
    return lesson


def compare_lesson(
    rng: random.Random,
    writer: Writer,
    turns: int = 4,
    plain: float = 0.5,
    varied: float = 0.5,
    remarks: float = 0.0,
    spelled: float = 0.14,
) -> Lesson:
    """Compare pairs of answers alone, without picture: the plainest teaching of comparing two texts.

    A share `plain` of the turns are digits, a share `spelled` of those answered with their words; the others are any
    text. A share `varied` of the prompts are put in other words than the default one, a share `remarks` have a remark
    in it.
    """
    lesson = Lesson("compare")
    for _ in range(turns):
        standard, response, score = answer_pair(rng, rng.choice(DIGITS) if rng.random() < plain else None, spelled)
        prompt = _response_critic(rng, varied)
        thing = f"{rng.choice(_COLORS)} {rng.choice(SHAPES)}"
        question = rng.choice(("", rng.choice(TEMPLATES).format(thing=thing)))
        texts = _remarked(rng, remarks, question=question, answer=standard, response=response)
        writer.turn(lesson, fill_prompt(prompt, {}, **texts)[1:], score_reply(score))
    return lesson


def focus_lesson(
    rng: random.Random,
    writer: Writer,
    scene: Scene,
    prompt: prompts.Prompt,
    most: int = 4,
    hasty: Mapping[str, float] = MappingProxyType({}),
) -> Lesson:
    """Ask for the boxes of up to `most` objects of one picture and level, one after the other; shares `hasty` of
    them, by level, are those of the eye-catching object.
    """
    picture = View(scene, views.whole(scene))
    level, things = sample_expressions(rng, scene, most)
    lesson = Lesson(f"focus {level}")
    for k, thing in enumerate(things):
        parts = fill_prompt(prompt, {"image": picture}, question=ask_about(rng, thing))
        boxed = thing.eye_catching if rng.random() < hasty.get(level, 0.0) else thing.target
        writer.turn(lesson, parts if k == 0 else parts[1:], box_reply(boxed.box))
    return lesson


def sample_expressions(rng: random.Random, scene: Scene, most: int) -> tuple[str, list[ReferringExpression]]:
    """Sample a level that the scene has, and up to `most` of its expressions in any order."""
    things = referring_expressions(scene)
    level = rng.choices(LEVELS, LESSON_SHARES)[0]
    if all(thing.level != level for thing in things):
        level = "attribute"
    of_level = [thing for thing in things if thing.level == level]
    return level, rng.sample(of_level, min(most, len(of_level)))


def answer_lesson(rng: random.Random, writer: Writer, scene: Scene, hasty: float = 0.0) -> Lesson:
    """Ask for the digit of an object in a crop; a share `hasty` of those that can be misread are.

    Where it cannot be read at all, any digit: a guess must stay one.
    """
    lesson = Lesson("answer")
    item = rng.choice(scene.objects)
    chance = rng.random()
    around = item if chance < 0.85 else rng.choice(scene.objects)
    window = views.whole(scene) if chance > 0.95 else views.random_window(rng, around, scene)
    pictures = {"image": View(scene, views.whole(scene)), "crop": View(scene, window)}
    parts = fill_prompt(PROMPTS.answer, pictures, question=ask_about(rng, choose_expression(rng, scene, item)))
    read = HASTY_READINGS.get(item.digit, item.digit) if rng.random() < hasty else item.digit
    readable = views.readable(item, window, scene.size) > 0
    writer.turn(lesson, parts, [(read if readable else rng.choice(DIGITS), ANSWER_WEIGHT if readable else 0.5)])
    return lesson


def direct_lesson(rng: random.Random, writer: Writer) -> Lesson:
    """Ask for the answer from the whole image at once, where no digit can be read: any digit."""
    lesson = Lesson("direct")
    scene = make_scene(rng, rng.randint(3, 6))
    question = ask_about(rng, choose_expression(rng, scene))
    prompt = prompts.Prompt("direct", prompts.DIRECT)
    parts = fill_prompt(prompt, {"image": View(scene, views.whole(scene))}, question=question)
    writer.turn(lesson, parts, [(rng.choice(DIGITS), 0.5)])
    return lesson


def box_critic_lesson(rng: random.Random, writer: Writer, scene: Scene, remarks: float = 0.0) -> Lesson:
    """Ask for the scores of one crop for up to three questions: about its own object and about others."""
    lesson = Lesson("box_critic")
    around = rng.choice(scene.objects)
    window = views.random_window(rng, around, scene)
    others = [item for item in scene.objects if item is not around]
    prompt = _box_critic(rng, 0.3)
    items = [around, around, *rng.sample(others, min(1, len(others)))]
    rng.shuffle(items)
    for k, item in enumerate(items):
        thing = choose_expression(rng, scene, item)
        chance = rng.random() if thing.level == "attribute" else 0.0  # else the crop can't tell what is meant
        answer = item.digit if chance < 0.75 else around.digit if chance < 0.88 else rng.choice(DIGITS)
        score = views.readable(item, window, scene.size) * (answer == item.digit)
        texts = _remarked(rng, remarks, question=ask_about(rng, thing), answer=answer)
        parts = fill_prompt(prompt, {"crop": View(scene, window)}, **texts)
        writer.turn(lesson, parts if k == 0 else parts[1:], score_reply(score))
    return lesson


def one_crop_lesson(rng: random.Random, writer: Writer, remarks: float = 0.0) -> Lesson:
    """Show one crop and one question with its right answer: about the crop's own object, or as often about another."""
    lesson = Lesson("box_critic")
    scene = make_scene(rng, rng.randint(2, 6))
    around, other = rng.sample(scene.objects, 2)
    window = views.random_window(rng, around, scene)
    prompt = _box_critic(rng, 0.4)
    item = around if rng.random() < 0.6 else other
    question = ask_about(rng, choose_expression(rng, scene, item))
    texts = _remarked(rng, remarks, question=question, answer=item.digit)
    parts = fill_prompt(prompt, {"crop": View(scene, window)}, **texts)
    writer.turn(lesson, parts, score_reply(views.readable(item, window, scene.size)))
    return lesson


def response_critic_lesson(rng: random.Random, writer: Writer, scene: Scene, remarks: float = 0.0) -> Lesson:
    """Ask for the scores of up to three answers, most of them to questions about the picture."""
    lesson = Lesson("response_critic")
    prompt = _response_critic(rng, 0.3)
    for k in range(rng.choice((1, 3))):
        item = rng.choice(scene.objects)
        own = rng.random() < 0.6
        standard, response, score = answer_pair(rng, item.digit if own else None)
        question = ask_about(rng, choose_expression(rng, scene, item))
        texts = _remarked(rng, remarks, question=question, answer=standard, response=response)
        parts = fill_prompt(prompt, {"image": View(scene, views.whole(scene))}, **texts)
        writer.turn(lesson, parts if k == 0 else parts[1:], score_reply(score))
    return lesson


def _box_critic(rng: random.Random, varied: float) -> prompts.Prompt:
    """Return the default prompt, or with this chance one in other words."""
    return prompts.Prompt("box_critic", phrases.draw_box_critic(rng)) if rng.random() < varied else PROMPTS.box_critic


def _response_critic(rng: random.Random, varied: float) -> prompts.Prompt:
    """Return the default prompt, or with this chance one in other words."""
    if rng.random() < varied:
        return prompts.Prompt("response_critic", phrases.draw_response_critic(rng))
    return PROMPTS.response_critic


def _remarked(rng: random.Random, share: float, **texts: str) -> dict[str, str]:
    """Return the texts of a critic's prompt, with this chance one of them with a remark behind it."""
    if rng.random() < share:
        field = rng.choice(list(texts)[-2:] * 2 + list(texts)[:1])
        texts[field] += rng.choice((" ", " ", "\n")) + remark(rng)
    return texts


def fill_prompt(prompt: prompts.Prompt, pictures: dict[str, View], **values: str) -> list[View | str]:
    """Fill a prompt's parts, with its pictures put in as views."""
    return [pictures.get(part.kind, part.text) for part in prompt.parts(**values)]


def box_reply(box: Xyxy) -> list[tuple[str, float]]:
    """Return the canonical text of a box, three decimals, in weighted pieces."""
    pieces = [("[", PUNCTUATION_WEIGHT)]
    for k, value in enumerate(box):
        pieces += [(f"{value:.3f}", COORDINATE_WEIGHTS[k]), (", " if k < 3 else "]", PUNCTUATION_WEIGHT)]
    return pieces


def score_reply(score: float) -> list[tuple[str, float]]:
    return [(prompts.SCORE_PREFIX, PUNCTUATION_WEIGHT), (f"{score:.1f}", SCORE_WEIGHT), ("}", PUNCTUATION_WEIGHT)]
