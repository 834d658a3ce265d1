"""Referring expressions: words that name exactly one object of a scene, and questions made of them.

attribute    the red circle
relation     the shape left of the blue cross: the nearest of those more to the left than up or down
superlative  the largest shape, the leftmost shape, ...
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from visrl_data.spotlight.scenes import Scene, SceneObject

LEVELS = ("attribute", "relation", "superlative")
SHARES = (0.5, 0.25, 0.25)
"""Shares of the levels in every split."""
TEMPLATES = (
    "what number is on the {thing}?",
    "which digit is on the {thing}?",
    "what is the number on the {thing}?",
    "read the number on the {thing}.",
)
RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
NEARER = 1.25
"""In a relation, the second nearest shape is at least this many times as far as the nearest."""
SUPERLATIVES = ("largest", "smallest", "leftmost", "rightmost", "highest", "lowest")
CLEARLY = 0.04
"""A superlative leads by this share of the image's side; a largest or smallest one by 12 % of its own."""


@dataclass(frozen=True, slots=True)
class ReferringExpression:
    """Words that name exactly one object of a scene.

    eye_catching: the object that a hasty look takes instead: the largest, or the one that a relation mentions. It may
    be the right one.
    """

    level: str
    words: str
    target: SceneObject
    eye_catching: SceneObject


def referring_expressions(scene: Scene) -> list[ReferringExpression]:
    """Return every way to name an object of a scene without doubt."""
    expressions = []
    largest = max(scene.objects, key=_area)
    for item in scene.objects:
        expressions.append(ReferringExpression("attribute", f"{item.color} {item.shape}", item, largest))
        for words, nearest in neighbors(scene, item).items():
            expressions.append(
                ReferringExpression("relation", f"shape {words} the {item.color} {item.shape}", nearest, item)
            )
    for words in SUPERLATIVES:
        foremost = _foremost(words, scene)
        if foremost is not None:
            expressions.append(ReferringExpression("superlative", f"{words} shape", foremost, largest))
    return expressions


def neighbors(scene: Scene, item: SceneObject) -> dict[str, SceneObject]:
    """Return the object that is nearest to `item` on each of its sides where that is clear, by the relation's words."""
    nearest = {words: _neighbor(item, direction, scene) for words, direction in RELATIONS.items()}
    return {words: other for words, other in nearest.items() if other is not None}


def choose_expression(
    rng: random.Random, scene: Scene, target: SceneObject | None = None, level: str | None = None
) -> ReferringExpression:
    """Choose a random expression of a scene: for this object or for any, of this level if there is one, or of any."""
    expressions = [
        expression for expression in referring_expressions(scene) if target is None or expression.target is target
    ]
    level = level or rng.choices(LEVELS, SHARES)[0]
    return rng.choice([expression for expression in expressions if expression.level == level] or expressions)


def ask_about(rng: random.Random, expression: ReferringExpression) -> str:
    """Ask about an object, in one of the wordings."""
    return rng.choice(TEMPLATES).format(thing=expression.words)


def _area(item: SceneObject) -> float:
    return (item.box[2] - item.box[0]) * (item.box[3] - item.box[1])


def _center(item: SceneObject, size: tuple[int, int]) -> tuple[float, float]:
    """Return the center in pixels."""
    return (item.box[0] + item.box[2]) / 2 * size[0], (item.box[1] + item.box[3]) / 2 * size[1]


def _neighbor(anchor: SceneObject, direction: tuple[int, int], scene: Scene) -> SceneObject | None:
    """Return the nearest object more in this direction than aside, None if there is none or it is not clear."""
    x, y = _center(anchor, scene.size)
    candidates = []
    for item in scene.objects:
        across, down = (a - b for a, b in zip(_center(item, scene.size), (x, y), strict=True))
        along, aside = (across * direction[0], abs(down)) if direction[0] else (down * direction[1], abs(across))
        if item is not anchor and along > aside:
            candidates.append((math.hypot(across, down), item))
    candidates.sort(key=lambda pair: pair[0])
    if not candidates or (len(candidates) > 1 and candidates[1][0] < NEARER * candidates[0][0]):
        return None
    return candidates[0][1]


def _foremost(words: str, scene: Scene) -> SceneObject | None:
    """Return the object that a superlative names, or None if it does not lead clearly."""
    sign = 1 if words in ("largest", "rightmost", "lowest") else -1

    def value(item: SceneObject) -> float:
        if words in ("largest", "smallest"):
            return math.log(_area(item)) / 2 / math.log(1.12) * CLEARLY
        axis = 0 if words in ("leftmost", "rightmost") else 1
        return (item.box[axis] + item.box[axis + 2]) / 2

    if len(scene.objects) == 1:
        return None
    first, second = sorted(scene.objects, key=lambda item: sign * value(item), reverse=True)[:2]
    return first if abs(value(first) - value(second)) >= CLEARLY else None
