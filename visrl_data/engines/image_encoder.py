"""Encode each distinct image once, and keep its features: an image is used by the focus pass, the answer pass and the
response critic, a crop by the answer pass and the box critic. Used by prefix_cache.py.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from visrl_data.engines.refusals import PROCESSOR_ERRORS, raise_refusals

KEPT_BYTES = 1 << 30  # of features, on the model's device; and of the images that they are of, as RGB


@dataclass
class ImageFeatures(BaseModelOutputWithPooling):
    """What get_image_features of any family returns, as far as a decoder reads it.

    pooler_output: the features of each image, in place of its tokens. deepstack_features: one such list for each of
    the decoder's first layers, after which it is added; empty for families without.
    """

    deepstack_features: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An image as the model sees it.

    features: (tokens, D). deepstack: such features for each of the decoder's first layers. grid: (1, 3) patches, for
    families that need it. The same image, by the same weights, is the same object.
    """

    image: Image  # referenced, so that its id is not given to another object
    features: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()
    grid: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        features = sum(part.nbytes for part in (self.features, *self.deepstack))
        return max(features, 3 * self.image.width * self.image.height)


def accepts_image_features(inner: Any) -> bool:
    """Return whether this release of transformers takes ready-made image features for a model."""
    return "mm_encoder_outputs" in inspect.signature(inner.forward).parameters


class ImageEncoder:
    """Encode images by one model, and keep their features.

    inner: the model without its output layer. max_images: the most that the vision tower takes at once.
    """

    def __init__(self, inner: Any, processor: Any, device: torch.device, dtype: torch.dtype, max_images: int) -> None:
        self._inner, self._processor = inner, processor
        self._device, self._dtype, self._max_images = device, dtype, max_images
        self._kept: OrderedDict[tuple[int, bool], EncodedImage] = OrderedDict()
        adapted = [name for name, _ in inner.named_parameters() if "lora_" in name]
        self._vision_adapted = any(not name.startswith("language_model.") for name in adapted)

    def clear(self) -> None:
        """Drop the kept features."""
        self._kept.clear()

    def encode(self, pictures: Sequence[Image], adapter: bool) -> list[EncodedImage]:
        """Return each image's features, encoded now or kept from before. The same image is the same object."""
        keys = [(id(picture), adapter and self._vision_adapted) for picture in pictures]
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._kept}
        missing = list(new.items())
        for start in range(0, len(missing), self._max_images):
            part = missing[start : start + self._max_images]
            for (key, _), encoded in zip(part, self._encode([picture for _, picture in part]), strict=True):
                self._kept[key] = encoded
        for key in keys:
            self._kept.move_to_end(key)
        images = [self._kept[key] for key in keys]
        sizes = [image.nbytes for image in self._kept.values()]
        size = sum(sizes)
        for oldest in sizes[:-1]:
            if size <= KEPT_BYTES:
                break
            self._kept.popitem(last=False)
            size -= oldest
        return images

    def _encode(self, pictures: list[Image]) -> list[EncodedImage]:
        with raise_refusals(*PROCESSOR_ERRORS):
            batch = self._processor(
                text=[self._processor.image_token] * len(pictures),
                images=[[picture] for picture in pictures],
                padding=True,
                return_tensors="pt",
            )
        names = ("pixel_values", "image_grid_thw", "image_sizes")
        inputs = {name: batch[name].to(self._device) for name in names if name in batch}
        inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
        output = self._inner.get_image_features(**inputs, return_dict=True)
        deepstack = getattr(output, "deepstack_features", ())
        grids = inputs.get("image_grid_thw")
        return [
            EncodedImage(
                picture,
                output.pooler_output[i],
                tuple(layer[i] for layer in deepstack),
                None if grids is None else grids[i : i + 1],
            )
            for i, picture in enumerate(pictures)
        ]


def join_features(images: Sequence[EncodedImage]) -> ImageFeatures:
    """Return the features of images in the form in which a model takes them."""
    features: Any = [image.features for image in images]
    layers = [list(layer) for layer in zip(*(image.deepstack for image in images), strict=True)]
    return ImageFeatures(pooler_output=features, deepstack_features=layers)
