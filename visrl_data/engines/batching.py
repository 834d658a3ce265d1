"""Group requests into batches for the transformers engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visrl_data.engines.protocol import Request

_MAX_LENGTH_RATIO = 1.5  # of a batch's longest prompt to its shortest
MAX_PIXELS = 400_000_000  # of a batch's images before they are resized: 1.2 GB, and processors make copies


def batches(requests: Sequence[Request], size: int, sizes_vary: bool = True) -> list[list[int]]:
    """Return batches as indices of requests: of the same settings and similar length, at most `size` replies each.

    Neighbors that begin with the same image stay together where they fit. The images of a batch of several requests are
    at most MAX_PIXELS. The pixels of the first image stand for the length, for models that see larger images in more
    tokens (sizes_vary).
    """

    def length(group: list[int]) -> int:
        images = requests[group[0]].images[:1] if sizes_vary else ()
        return sum(image.width * image.height for image in images)

    def pixels(group: list[int]) -> int:
        """Return the pixels of a group's images; of its first image, which all its requests share, once."""
        others = [image for index in group for image in requests[index].images[1:]]
        return sum(image.width * image.height for image in (*requests[group[0]].images[:1], *others))

    # First groups of neighbors with one image, so that sorting by length keeps what shares a prefix together.
    by_settings: dict[tuple[Any, ...], list[list[int]]] = {}
    for index, request in enumerate(requests):
        groups = by_settings.setdefault(_settings(request), [])
        before = requests[groups[-1][-1]].images[:1] if groups else None
        limit = max(1, size // len(request.seeds))
        is_same = bool(before and request.images and before[0] is request.images[0])
        if is_same and len(groups[-1]) < limit and pixels([*groups[-1], index]) <= MAX_PIXELS:
            groups[-1].append(index)
        else:
            groups.append([index])
    result: list[list[int]] = []
    for settings, groups in by_settings.items():
        limit = max(1, size // settings[0])
        batch: list[int] = []
        size_of_batch = 0
        for group in sorted(groups, key=length):
            is_full = len(batch) + len(group) > limit or size_of_batch + pixels(group) > MAX_PIXELS
            if batch and (is_full or length(group) > _MAX_LENGTH_RATIO * length(batch)):
                result.append(batch)
                batch, size_of_batch = [], 0
            batch += group
            size_of_batch += pixels(group)
        result.append(batch)
    return result


def _settings(request: Request) -> tuple[Any, ...]:
    counts = (len(request.seeds), len(request.images))
    return (
        *counts, request.sampling, request.adapter, request.choices, request.prefix, bool(request.grammar),
        request.logprob,
    )  # fmt: skip
