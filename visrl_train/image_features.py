"""A picture that occurs several times in a batch is encoded once.

The rows of a pair show the same pictures: the win's and the lose's box under one image, both responses under
the image and the win's crop. Turns tells which pictures are the same; inside `encoded_once` the vision tower
sees the first of each, and its features are handed out to all. As long as nothing of the tower and the
projector is trained, the features also serve the reference, whose forward comes after the policy's.

Works where the model asks get_image_features for the pictures of a batch in reading order, and gets them back
one by one: `encodes_once` in visrl_data/models/families.py. Others encode every picture as it comes.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from visrl_data.models.families import family_of


@contextlib.contextmanager
def encoded_once(model: Any, pictures: torch.Tensor | None) -> Iterator[None]:
    """Every forward of the model inside encodes each distinct picture once.

    pictures (N,): which distinct picture each of the batch's N is, in reading order, numbered from 0 as they
    first appear. Without it, or with a model of another family, nothing is changed.
    """
    inner = None if model is None or pictures is None else encoder(model)
    if inner is None or pictures is None:
        yield
        return
    encode = inner.get_image_features
    kept: list[Any] = []
    places = pictures.tolist()
    first = [places.index(number) for number in range(max(places) + 1)]
    shared = not any(p.requires_grad for name, p in inner.named_parameters() if not name.startswith("language_model."))

    def once(*args: Any, **options: Any) -> BaseModelOutputWithPooling:
        if not kept or not shared:
            given = inspect.signature(encode).bind(*args, **options).arguments
            given |= given.pop("kwargs", {})
            kept[:] = [encode(**given | only(given, first)).pooler_output]
        return BaseModelOutputWithPooling(pooler_output=_spread(kept[0], places))

    inner.get_image_features = once
    try:
        yield
    finally:
        del inner.get_image_features


def shares(model: Any) -> bool:
    """Whether repeated pictures of this model can be encoded once."""
    return encoder(model) is not None


def encoder(model: Any) -> Any:
    """The module whose get_image_features the model's forward asks."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.model if family_of(whole.config.model_type).encodes_once else None


def only(given: dict[str, Any], first: list[int]) -> dict[str, Any]:
    """The tensors of these pictures. Qwen lays the patches of all pictures in one row, (patches, D)."""
    grid = given.get("image_grid_thw")
    if grid is not None:
        patches = given["pixel_values"].split(grid.prod(dim=-1).tolist())
        return {"pixel_values": torch.cat([patches[i] for i in first]), "image_grid_thw": grid[first]}
    found = {"pixel_values": given["pixel_values"][first]}
    return found if given.get("image_sizes") is None else {**found, "image_sizes": given["image_sizes"][first]}


def _spread(features: Any, places: list[int]) -> Any:
    """(M, tokens, D) or M tensors (tokens, D) of the distinct pictures -> the same for all N."""
    return features[places] if isinstance(features, torch.Tensor) else [features[i] for i in places]
