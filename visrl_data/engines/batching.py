"""Group requests into batches for the transformers engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visrl_data.engines.protocol import Request

_MAX_LENGTH_RATIO = 1.5  # of a batch's longest prompt to its shortest


def batches(requests: Sequence[Request], size: int, sizes_vary: bool = True) -> list[list[int]]:
    """Return batches as indices of requests: of the same settings and similar length, at most `size` replies each.

    Neighbors that begin with the same image stay together where they fit. The pixels of the first image stand for the
    length, for models that see larger images in more tokens (sizes_vary).
    """

    def length(group: list[int]) -> int:
        images = requests[group[0]].images[:1] if sizes_vary else ()
        return sum(image.width * image.height for image in images)

    # First groups of neighbors with one image, so that sorting by length keeps what shares a prefix together.
    by_settings: dict[tuple[Any, ...], list[list[int]]] = {}
    for index, request in enumerate(requests):
        groups = by_settings.setdefault(_settings(request), [])
        before = requests[groups[-1][-1]].images[:1] if groups else None
        limit = max(1, size // len(request.seeds))
        if before and request.images and before[0] is request.images[0] and len(groups[-1]) < limit:
            groups[-1].append(index)
        else:
            groups.append([index])
    result: list[list[int]] = []
    for settings, groups in by_settings.items():
        limit = max(1, size // settings[0])
        batch: list[int] = []
        for group in sorted(groups, key=length):
            if batch and (len(batch) + len(group) > limit or length(group) > _MAX_LENGTH_RATIO * length(batch)):
                result.append(batch)
                batch = []
            batch += group
        result.append(batch)
    return result


def _settings(request: Request) -> tuple[Any, ...]:
    counts = (len(request.seeds), len(request.images))
    return (*counts, request.sampling, request.adapter, request.choices, request.prefix, bool(request.grammar))
