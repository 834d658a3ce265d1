"""Encode an image that occurs several times in a batch once.

The rows of a pair show the same images: both boxes under one image, both responses under the image and the crop of
the win. Turns.encode says which images are the same; inside `encoded_once` the vision tower encodes the first of
each, and all rows share its features. While tower and projector are frozen, the reference reuses the features of the
policy, whose forward comes first.

Works where the model calls get_image_features for the images of a batch in reading order and gets them back one by
one, those for its first layers too (deepstack): `encodes_once` in visrl_data/models/families.py. Other families encode
every image.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch

from visrl_data.engines.image_encoder import ImageFeatures
from visrl_data.models.families import family_of_model


@contextlib.contextmanager
def encoded_once(model: Any, pictures: torch.Tensor | None) -> Iterator[None]:
    """Encode each distinct image once in every forward of the model inside.

    pictures (N,): the index of the distinct image that each of the batch's N images is, in reading order, numbered
    from 0 as they first appear. Without it, or with a model of another family, nothing changes.
    """
    inner = None if model is None or pictures is None else encoder(model)
    if inner is None or pictures is None:
        yield
        return
    encode = inner.get_image_features
    features: list[ImageFeatures] = []
    indices = pictures.tolist()
    first = [indices.index(number) for number in range(max(indices) + 1)]
    is_frozen = not any(
        p.requires_grad for name, p in inner.named_parameters() if not name.startswith("language_model.")
    )

    def once(*args: Any, **options: Any) -> ImageFeatures:
        if not features or not is_frozen:
            arguments = inspect.signature(encode).bind(*args, **options).arguments
            arguments |= arguments.pop("kwargs", {})
            features[:] = [_features(encode(**arguments | select(arguments, first)))]
        return _expand(features[0], indices)

    inner.get_image_features = once
    try:
        yield
    finally:
        del inner.get_image_features


def shares(model: Any) -> bool:
    """Say whether repeated images of this model can be encoded once."""
    return encoder(model) is not None


def encoder(model: Any) -> Any:
    """Return the module whose get_image_features the model's forward calls; None for other families."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.model if family_of_model(whole).encodes_once else None


def select(inputs: dict[str, Any], indices: list[int]) -> dict[str, Any]:
    """Return the tensors of these images. Qwen concatenates the patches of all images, (patches, D)."""
    grid = inputs.get("image_grid_thw")
    if grid is not None:
        patches = inputs["pixel_values"].split(grid.prod(dim=-1).tolist())
        return {"pixel_values": torch.cat([patches[i] for i in indices]), "image_grid_thw": grid[indices]}
    names = ("pixel_values", "image_sizes", "image_position_ids")
    return {name: inputs[name][indices] for name in names if inputs.get(name) is not None}


def _features(output: Any) -> ImageFeatures:
    """Return what the decoder reads of an output; its other tensors are freed."""
    layers = getattr(output, "deepstack_features", ())
    return ImageFeatures(pooler_output=output.pooler_output, deepstack_features=layers)


def _expand(features: ImageFeatures, indices: list[int]) -> ImageFeatures:
    """Expand the features of the distinct images to all N."""
    pooled: Any = _pick(features.pooler_output, indices)
    layers = [_pick(layer, indices) for layer in features.deepstack_features]
    return ImageFeatures(pooler_output=pooled, deepstack_features=layers)


def _pick(features: Any, indices: list[int]) -> Any:
    """Pick from (M, tokens, D), or from M tensors (tokens, D)."""
    return features[indices] if isinstance(features, torch.Tensor) else [features[i] for i in indices]
