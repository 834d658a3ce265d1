"""The drawn world: scenes of colored shapes, each with one digit that is too small to read from afar.

Questions for the pipeline, training and measuring all come from here. A question names one of 3 to 6 shapes
(expressions.py) and the answer is its digit. `make_example` is a pure function of (split, index, options): nothing
is stored on disk. The split "transfer" has another look (other strokes of digits, other shapes beside the known
ones, other backgrounds), which no training of Spotlight sees.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from visrl_data.spotlight.drawing import draw
from visrl_data.spotlight.expressions import LEVELS, SHARES, ask_about, choose_expression, referring_expressions
from visrl_data.spotlight.scenes import SceneObject, Xyxy, make_scene

MOST = 7
"""Most distractors: shapes beside the one that is asked for."""
RANGE = 10**9
"""Questions per split: the seeds of split number k are k * RANGE .. (k + 1) * RANGE - 1."""
SPLITS = ("pretrain", "sft", "train", "val", "test", "transfer")


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one picture. `gold_box` is unit xyxy of the image: the named shape's box."""

    id: str
    level: str
    question: str
    answer: str
    image: Image.Image
    gold_box: Xyxy
    objects: tuple[SceneObject, ...]


def make_example(
    split: str, index: int, level: str | None = None, distractors: int | None = None, clutter: int | None = None
) -> Example:
    """Return question `index` of a split; the same arguments always give the same question and pixels.

    level: of the question; None draws one. distractors: other shapes, 2 to 5 if None. clutter: strokes
    behind the shapes, 0 to 8 if None. Raises ValueError for what there is not.
    """
    _check("split", split, SPLITS)
    if level is not None:
        _check("level", level, LEVELS)
    if not 0 <= index < RANGE:
        raise ValueError(f"index {index} of split {split!r} is outside 0..{RANGE - 1}")
    if distractors is not None and not 1 <= distractors <= MOST:
        raise ValueError(f"{distractors} distractors: expected 1 to {MOST}")
    if clutter is not None and not 0 <= clutter <= 1000:
        raise ValueError(f"{clutter} strokes of clutter: expected 0 to 1000")
    seed = f"spotlight/{SPLITS.index(split) * RANGE + index}"
    rng = random.Random(seed)
    level = level or rng.choices(LEVELS, SHARES)[0]
    count = rng.randint(3, 6) if distractors is None else distractors + 1
    for attempt in itertools.count():  # not every scene has a clear relation
        scene = make_scene(random.Random(f"{seed}/{attempt}"), count, clutter, transfer=split == "transfer")
        if any(expression.level == level for expression in referring_expressions(scene)):
            break
    expression = choose_expression(rng, scene, level=level)
    return Example(
        id=f"spotlight-{split}-{index}",
        level=level,
        question=ask_about(rng, expression),
        answer=expression.target.digit,
        image=draw(scene),
        gold_box=expression.target.box,
        objects=scene.objects,
    )


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; expected one of {', '.join(known)}")
