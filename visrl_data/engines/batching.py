"""Which requests run together in a batch of the transformers engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visrl_data.engines.protocol import Request

_PADDING = 1.5  # at most so many times the length of a batch's shortest prompt


def batches(requests: Sequence[Request], size: int, sizes_vary: bool = True) -> list[list[int]]:
    """Places of the requests that run together: in the same way, at most `size` replies, of like length.

    Neighbours that begin with the same picture stay together where they fit. The pixels of the first picture stand for
    the length, for models that see larger pictures in more tokens (sizes_vary).
    """

    def length(group: list[int]) -> int:
        pictures = requests[group[0]].images[:1] if sizes_vary else ()
        return sum(image.width * image.height for image in pictures)

    groups: dict[tuple[Any, ...], list[list[int]]] = {}
    for place, request in enumerate(requests):
        same = groups.setdefault(_way(request), [])
        before = requests[same[-1][-1]].images[:1] if same else None
        most = max(1, size // len(request.seeds))
        if before and request.images and before[0] is request.images[0] and len(same[-1]) < most:
            same[-1].append(place)
        else:
            same.append([place])
    found: list[list[int]] = []
    for way, same in groups.items():
        most = max(1, size // way[0])
        batch: list[int] = []
        for group in sorted(same, key=length):
            if batch and (len(batch) + len(group) > most or length(group) > _PADDING * length(batch)):
                found.append(batch)
                batch = []
            batch += group
        found.append(batch)
    return found


def _way(request: Request) -> tuple[Any, ...]:
    counts = (len(request.seeds), len(request.images))
    return (*counts, request.sampling, request.adapter, request.choices, request.prefix, bool(request.grammar))
