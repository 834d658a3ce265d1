"""Batches and losses of the training stages in train.py; tensors only, no files.

Shapes: B lessons, T tokens of the longest, V views in the batch, C = GRID * GRID cells, W = WIDTH.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from studies.spotlight import codes, views
from studies.spotlight.gaze import Looks, look_loss, look_shares
from studies.spotlight.lessons import ANSWER_WEIGHT, COORDINATE_WEIGHTS, PUNCTUATION_WEIGHT, SCORE_WEIGHT, Lesson, View
from visrl_data.spotlight import drawing, expressions
from visrl_data.spotlight.scenes import Scene, make_scene

CHUNK = 8
"""Lessons that go through the language model together; where a batch is sorted by length, they need little padding."""
CONTRAST = 8.0
"""Scale from code coefficients (1 for the right class, 0 for the others) to class scores."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch of lessons, padded on the right: all (B, T)."""

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def collate(lessons: list[Lesson]) -> Tokens:
    longest = max(len(lesson.tokens) for lesson in lessons)

    def padded(rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=dtype)

    return Tokens(
        ids=padded([lesson.tokens for lesson in lessons], 0, torch.long),
        targets=padded([lesson.targets for lesson in lessons], -1, torch.long),
        weights=padded([lesson.weights for lesson in lessons], 0.0, torch.float32),
    )


def render(batch: list[View]) -> torch.Tensor:
    """Render the pixels of views, (V, 3, VIEW, VIEW); each scene is drawn once."""
    pictures = {id(view.source): drawing.draw(view.source) for view in batch if isinstance(view.source, Scene)}

    def picture(view: View) -> Image.Image:
        return pictures[id(view.source)] if isinstance(view.source, Scene) else view.source

    return torch.from_numpy(np.stack([views.pixels(picture(view), view.window) for view in batch]))


def true_cells(view: View) -> views.Cells:
    """Return what is under the image tokens of a view of a scene. Raises TypeError for another picture."""
    if not isinstance(view.source, Scene):
        raise TypeError(f"a view of {type(view.source).__name__}: expected one of a Scene")
    return views.cells(view.source, view.window, view.clear)


def true_tokens(batch: list[View], noise: float, seed: int) -> torch.Tensor:
    """Make image tokens from the truth, (V, C, W), with noise on the coefficients, as a tower would make."""
    exact = codes.coefficients(codes.stack([true_cells(view) for view in batch]))
    noisy = exact + noise * torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed))
    return noisy @ codes.rotation()


def tower_tokens(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Make image tokens with the vision tower and projector, (V, C, W)."""
    return torch.stack(list(model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output))


def language_loss(
    model: LlavaForConditionalGeneration,
    tokens: Tokens,
    image_tokens: torch.Tensor | None,
    lessons: list[Lesson],
    looks: Looks | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the weighted cross-entropy of the replies, plus that of `looks` if given, and figures to watch."""
    tokens = Tokens(*(getattr(tokens, name).to(model.device) for name in ("ids", "targets", "weights")))
    embedded = model.get_input_embeddings()(tokens.ids)
    if image_tokens is not None:
        slots = (tokens.ids == model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(slots, image_tokens.flatten(0, 1).to(embedded))
    has_target = tokens.targets >= 0
    hidden, shares = [], []
    for start in range(0, len(lessons), CHUNK):
        rows = slice(start, start + CHUNK)
        width = max(len(lesson.tokens) for lesson in lessons[rows])
        read = model.model.language_model(
            inputs_embeds=embedded[rows, :width], use_cache=False, output_attentions=looks is not None
        )
        hidden.append(read.last_hidden_state[has_target[rows, :width]])
        if looks is not None:
            shares.append(look_shares(read.attentions, looks, start))
    scores = model.get_output_embeddings()(torch.cat(hidden))
    loss = functional.cross_entropy(scores, tokens.targets[has_target], reduction="none")
    weights = tokens.weights[has_target]
    figures = _figures(tokens, has_target, scores, loss, lessons)
    total = (loss * weights).sum() / weights.sum()
    if looks is None:
        return total, figures
    seen, more = look_loss(torch.cat(shares, 1))
    return total + seen, figures | more


def _figures(
    tokens: Tokens, has_target: torch.Tensor, scores: torch.Tensor, loss: torch.Tensor, lessons: list[Lesson]
) -> dict[str, float]:
    """Return per task: loss of the tokens that matter; share of x1 within 0.04 (choice); of y1, x2 (place)."""
    with torch.no_grad():
        rows = torch.arange(len(lessons))[:, None].expand(tokens.ids.shape)[has_target.cpu()]
        task = np.array([lesson.task for lesson in lessons])[rows.numpy()]
        weights, targets, guess = tokens.weights[has_target], tokens.targets[has_target], scores.argmax(-1)
        near = ((guess - targets).abs() <= 40).float()
        exact, tenths = (guess == targets).float(), ((guess - targets).abs() <= 2).float()
        kinds = {
            **{name: (name, ANSWER_WEIGHT, exact) for name in ("caption", "relations")},
            **{f"quiz_{level}": (f"quiz {level}", ANSWER_WEIGHT, exact) for level in expressions.LEVELS},
            "pairs": ("pairs", SCORE_WEIGHT, exact),
            "compare": ("compare", SCORE_WEIGHT, tenths),
            **{f"choice_{level}": (f"focus {level}", COORDINATE_WEIGHTS[0], near) for level in expressions.LEVELS},
            "place": ("focus attribute", COORDINATE_WEIGHTS[3], near),
            "answer": ("answer", ANSWER_WEIGHT, exact),
            "box_critic": ("box_critic", SCORE_WEIGHT, tenths),
            "response_critic": ("response_critic", SCORE_WEIGHT, tenths),
        }
        out = {}
        for name, (kind, weight, right) in kinds.items():
            chosen = torch.from_numpy(task == kind).to(weights.device) & (weights == weight)
            if chosen.any():
                out[name + "_nats"] = loss[chosen].mean().item()
                out[name] = right[chosen].mean().item()
        out["format_nats"] = loss[weights == PUNCTUATION_WEIGHT].mean().item()
        return out


def scene_views(rng: random.Random, count: int, tight: float) -> list[View]:
    """Draw views of `count` random scenes: the whole of each and two crops, a share `tight` of them snug."""
    out = []
    for _ in range(count):
        scene = make_scene(rng, rng.randint(1, 6))
        out.append(View(scene, views.whole(scene)))
        for _ in range(2):
            item = rng.choice(scene.objects)
            if rng.random() < tight:
                box = views.jitter(rng, item.box, rng.uniform(0.8, 1.4), 0.08)
                out.append(View(scene, views.crop_window(box, scene.size)))
            else:
                out.append(View(scene, views.random_window(rng, item, scene)))
    return out


def sight_loss(model: LlavaForConditionalGeneration, batch: list[View]) -> tuple[torch.Tensor, dict[str, float]]:
    """Measure how far the tower's tokens are from the codes of the truth, and figures to watch."""
    cells = codes.stack([true_cells(view) for view in batch])
    truth = codes.coefficients(cells)
    predicted = (tower_tokens(model, render(batch).to(model.device)) @ codes.rotation().T.to(model.device)).cpu()
    known = cells.color >= 0
    per_view = known / known.sum(-1, keepdim=True).clamp(min=1)
    squared = ((predicted - truth) ** 2).sum(-1)
    distance = (squared * (per_view + 0.25 * ~known / known.shape[-1])).sum() / len(batch)
    inside, target, share = predicted[known], truth[known], per_view[known] / per_view.sum()
    color = _mean_loss(CONTRAST * inside[:, codes.COLOR], cells.color[known], share)
    shape = _mean_loss(CONTRAST * inside[:, codes.SHAPE], cells.shape[known], share)
    reading = slice(codes.DIGIT.start, codes.ILLEGIBLE + 1)
    nearby = share * (0.2 + 5 * cells.glyph[known])
    digit = _mean_loss(CONTRAST * inside[:, reading], target[:, reading], nearby / nearby.sum())
    ground = functional.binary_cross_entropy_with_logits(
        CONTRAST * (predicted[..., codes.BACKGROUND] - 0.5), (~known).float()
    )
    with torch.no_grad():
        clear = (cells.readable[known] > 0.7) & (cells.glyph[known] > 0.25)
        read = (inside[clear][:, codes.DIGIT].argmax(-1) == cells.digit[known][clear]).float().mean().item()
        box = ((inside - target)[:, codes.BOX] ** 2).sum(-1).mean().item()
    figures = {"distance": distance, "color": color, "shape": shape, "digit": digit, "ground": ground}
    return (
        distance + 0.3 * (color + shape + ground) + 1.2 * digit,
        {**{name: value.item() for name, value in figures.items()}, "box": box, "read": read},
    )


def _mean_loss(scores: torch.Tensor, truth: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of classes (or of their probabilities), averaged with weights that sum to 1."""
    return (functional.cross_entropy(scores, truth, reduction="none") * share).sum()
