"""Choose how a training shows pictures, and rewrite the boxes of its pairs where they are in pixels.

Pictures are shown as the actor that made the pairs was shown them: that is on record, as box space and crop rule are.
--max-pixels shows them at another size. Boxes in pixels of the shown picture are then written anew, from the unit boxes
that the pairs keep, so that each one lies on the same part of the original image.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from PIL import Image

from visrl_data.core import images
from visrl_data.core.boxes import Box, Size, make_frame, needs_resized_size
from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import ImageSettings, check_images
from visrl_data.core.text import visible
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.loading import load_image_settings, trained_images
from visrl_data.models.model_folder import ModelFolder
from visrl_train import models
from visrl_train.config import PairsConfig, TrainConfig
from visrl_train.pairs import Pair, PairSet
from visrl_train.stages import STAGES

SizeOf = Callable[[Size], Size]


def choose_images(name: str, config: PairsConfig, pairs: PairSet, folder: ModelFolder) -> ImageSettings:
    """Return how the stage `name` shows pictures: with --max-pixels, else as the pairs' actor was shown them.

    Prints a line for each record that differs. Raises VisRLError where the boxes of the pairs, or those that the model
    knows, would then lie elsewhere, unless --max-pixels lets them be rewritten.
    """
    trust = config.trust_remote_code
    bound = pairs.max_pixels if config.max_pixels is None else config.max_pixels
    now = load_image_settings(folder, bound, trust)
    has_boxes = STAGES[name].model_calls == 2
    rewritten = has_boxes and config.max_pixels is not None and needs_resized_size(pairs.box_space)
    space = pairs.box_space if has_boxes and not rewritten else ""
    records = (
        (f"The actor of {pairs.name}", pairs.image_settings, None),
        (f"In training, {folder.id}", trained_images(folder, bound, trust), folder.max_pixels),
    )
    for subject, record, own_bound in records:
        note = check_images(subject, record, now, space, _advice(space, own_bound)) if record else None
        if note:
            _print(config, f"{note}{' The boxes are rewritten for the new size.' if rewritten else ''}")
    if pairs.image_settings is None and has_boxes:
        _print(config, f"{pairs.name} does not record how its pictures were shown: {folder.id}'s processor decides.")
    return now


def choose_own_images(config: TrainConfig, folder: ModelFolder) -> ImageSettings:
    """Return how SFT shows pictures: with --max-pixels, else as the model was shown them. It writes boxes itself."""
    bound = folder.max_pixels if config.max_pixels is None else config.max_pixels
    now = load_image_settings(folder, bound, config.trust_remote_code)
    record = trained_images(folder, bound, config.trust_remote_code)
    if record and (note := check_images(f"In training, {folder.id}", record, now, "", "")):
        _print(config, note)
    return now


def _advice(box_space: str, own_bound: int | None) -> str:
    """Say what helps. own_bound: the --max-pixels that the model was trained with."""
    if not needs_resized_size(box_space):
        return "Train the model that made the pairs, or make new pairs with this one."
    if own_bound is not None:
        return f"Give --max-pixels {own_bound}, its own: the boxes are then rewritten for that size."
    return "Make new pairs with this model, or give --max-pixels: the boxes are then rewritten for that size."


def _print(config: TrainConfig, line: str) -> None:
    if PartialState(cpu=models.on_cpu(config)).is_main_process:
        print(visible(line), file=sys.stderr)


def fit_boxes(pairs: PairSet, processor: Any, may_rewrite: bool) -> PairSet:
    """Return the pairs with boxes as this processor's pictures have them; other spaces than pixels as they are.

    may_rewrite: whether boxes may change. Raises VisRLError when one does and may not: its picture was shown at another
    size, whatever the records say.
    """
    if not needs_resized_size(pairs.box_space):
        return pairs
    sizes: dict[Size, Size] = {}

    def resized_size(size: Size) -> Size:
        if size not in sizes:
            sizes[size] = picture_size(processor, Image.new("RGB", size))
        return sizes[size]

    fitted = tuple(_fit(pair, pairs, resized_size) for pair in pairs.pairs)
    changed = [old for old, new in zip(pairs.pairs, fitted, strict=True) if old != new]
    if changed and not may_rewrite:
        raise VisRLError(
            f"{pairs.name}: the boxes of {len(changed)} of {len(fitted)} pairs ({changed[0].id} for one) are in pixels "
            "of pictures of another size than this model is shown. Name the model that made them with --model, or give "
            "--max-pixels: the boxes are then rewritten for that size."
        )
    return dataclasses.replace(pairs, pairs=fitted)


def _fit(pair: Pair, pairs: PairSet, resized_size: SizeOf) -> Pair:
    size = images.upright_size(pairs.read_image(pair.image))
    frame = make_frame(pairs.box_space, size, resized_size(size))
    win, lose = (frame.text(frame.to_cells(Box(*unit))) for unit in (pair.win_unit, pair.lose_unit))
    return dataclasses.replace(pair, win_box=win, lose_box=lose)
