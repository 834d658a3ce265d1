"""Where the language model looks when words name an object by its neighbor, and a loss that teaches it where to.

Used by learn.py on codes. At the last word of "left of the red circle" one layer is to look at the red circle, a
later one at what is left of it. Left to the answers alone, the second look stayed near chance for hundreds of steps:
its gradient has to come through a first look that is right, and through a copy of what is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from studies.spotlight import views
from studies.spotlight.lessons import Lesson, Writer
from visrl_data.spotlight.expressions import neighbors
from visrl_data.spotlight.scenes import COLORS, SHAPES, Scene, SceneObject

LOOK_LAYERS = (1, 3)
"""Layers that look at the object that is mentioned, and at the one that is meant."""
_COLORS = tuple(COLORS)


@dataclass(frozen=True, slots=True)
class Looks:
    """N relations in a batch: row and position of the last word (N), and which positions hold the object that is
    mentioned and the one that is meant (N, T).
    """

    rows: torch.Tensor
    positions: torch.Tensor
    anchors: torch.Tensor
    targets: torch.Tensor


def find_looks(lessons: list[Lesson], writer: Writer) -> Looks:
    """Find the relations in a batch of lessons, of those that begin with the whole of a scene."""
    length = max(len(lesson.tokens) for lesson in lessons)
    rows, positions, masks = [], [], []
    for row, lesson in enumerate(lessons):
        for position, anchor, target in _relations(lesson, writer):
            rows.append(row)
            positions.append(position)
            masks.append([_mask(lesson, writer, item, length) for item in (anchor, target)])
    both = torch.from_numpy(np.array(masks, bool).reshape(-1, 2, length))
    return Looks(
        torch.tensor(rows, dtype=torch.long), torch.tensor(positions, dtype=torch.long), both[:, 0], both[:, 1]
    )


def look_shares(attentions: tuple[torch.Tensor, ...], looks: Looks, start: int) -> torch.Tensor:
    """Return how much of the looking is at the right object, (2, N): of the looks that are in these rows.

    attentions: (B, H, T, T) of each layer, for the rows from `start` on of the batch.
    """
    rows, _, _, width = attentions[0].shape
    here = (looks.rows >= start) & (looks.rows < start + rows)
    seen = [attentions[k][looks.rows[here] - start, :, looks.positions[here]].mean(1) for k in LOOK_LAYERS]
    masks = (looks.anchors[here, :width], looks.targets[here, :width])
    return torch.stack([(one * mask.to(one)).sum(-1) for one, mask in zip(seen, masks, strict=True)])


def look_loss(shares: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the nats that are missing, of both looks together, and the mean shares. shares: (2, N)."""
    if not shares.shape[1]:
        return shares.sum(), {}
    anchor, neighbor = shares.mean(1).tolist()
    return -(shares + 1e-4).log().mean(1).sum(), {"look_anchor": anchor, "look_neighbor": neighbor}


def _relations(lesson: Lesson, writer: Writer) -> Iterator[tuple[int, SceneObject, SceneObject]]:
    """Iterate over (position of the last word, object that is mentioned, object that is meant)."""
    source = lesson.views[0].source if lesson.views else None
    if not isinstance(source, Scene) or lesson.views[0].window != views.whole(source):
        return
    for item in source.objects:
        for words, target in neighbors(source, item).items():
            ids = writer.encode(f" {words} the {item.color} {item.shape}")
            for k in range(len(lesson.tokens) - len(ids) + 1):
                if lesson.tokens[k : k + len(ids)] == ids:
                    yield k + len(ids) - 1, item, target


def _mask(lesson: Lesson, writer: Writer, item: SceneObject, length: int) -> np.ndarray:
    view = lesson.views[0]
    cells = views.cells(view.source, view.window, view.clear)
    mask = np.zeros(length, bool)
    start = lesson.tokens.index(writer.image)
    here = (cells.color == _COLORS.index(item.color)) & (cells.shape == SHAPES.index(item.shape))
    mask[start : start + len(here)] = here
    return mask
