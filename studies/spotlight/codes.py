"""Fixed codes for what is under an image token: the common language of both halves of the model.

The language model learns on these codes before it sees a pixel, and the vision tower learns to emit
them; since they are fixed beforehand, both can be trained at the same time, apart. Each attribute
has directions of its own, all orthogonal, turned by one random rotation:

    token = color + shape + readable * digit + (1 - readable) * illegible + x1 + y1 + x2 + y2 + side
    token = background

where side is the square root of the box's area, which no linear map could take from its corners.

Words for colors, shapes and digits start from the same directions in the embedding table, and the
1001 coordinate tokens from the waves of an x1, so that neighbors share evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from studies.spotlight.views import Cells
from visrl_data.spotlight.scenes import COLORS, DIGITS, SHAPES

WIDTH = 128
"""Width of the language model."""
CYCLES = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Waves that encode a coordinate, in cycles over the unit interval."""
WAVES = 2 * len(CYCLES)
COLOR = slice(0, len(COLORS))
SHAPE = slice(COLOR.stop, COLOR.stop + len(SHAPES))
DIGIT = slice(SHAPE.stop, SHAPE.stop + len(DIGITS))
ILLEGIBLE = DIGIT.stop
BACKGROUND = ILLEGIBLE + 1
BOX = slice(BACKGROUND + 1, BACKGROUND + 1 + 5 * WAVES)
USED = BOX.stop


@dataclass(frozen=True, slots=True)
class Batch:
    """Cells of several views as tensors: (views, cells) and, for box, (views, cells, 4)."""

    color: torch.Tensor
    shape: torch.Tensor
    digit: torch.Tensor
    box: torch.Tensor
    readable: torch.Tensor
    glyph: torch.Tensor


def stack(views: list[Cells]) -> Batch:
    return Batch(
        *(
            torch.from_numpy(np.stack([getattr(view, name) for view in views]))
            for name in ("color", "shape", "digit", "box", "readable", "glyph")
        )
    )


def rotation() -> torch.Tensor:
    """Return (WIDTH, WIDTH) orthogonal; row k is the direction of coefficient k."""
    random = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(20), dtype=torch.float64)
    rotated: torch.Tensor = torch.linalg.qr(random)[0].float()
    return rotated


def waves(values: torch.Tensor) -> torch.Tensor:
    """Encode (...) values in 0..1 as (..., WAVES) waves of norm 1."""
    angles = 2 * torch.pi * values[..., None] * torch.tensor(CYCLES)
    encoded: torch.Tensor = torch.cat([angles.cos(), angles.sin()], dim=-1) / len(CYCLES) ** 0.5
    return encoded


def coefficients(batch: Batch) -> torch.Tensor:
    """Return (views, cells, WIDTH) coefficients of the codes; the unused last ones are zero."""
    known = batch.color >= 0
    out = torch.zeros(*batch.color.shape, WIDTH)
    for slot, number in ((COLOR, batch.color), (SHAPE, batch.shape), (DIGIT, batch.digit)):
        classes = slot.stop - slot.start
        out[..., slot] = torch.nn.functional.one_hot(number.clamp(min=0), classes).float()
    out[..., DIGIT] *= batch.readable[..., None]
    out[..., ILLEGIBLE] = 1 - batch.readable
    side = ((batch.box[..., 2] - batch.box[..., 0]) * (batch.box[..., 3] - batch.box[..., 1])).sqrt()
    out[..., BOX] = waves(torch.cat([batch.box, side[..., None]], dim=-1)).flatten(-2)
    out = out * known[..., None]
    out[..., BACKGROUND] = (~known).float()
    return out
