"""Join the pairs of several runs or datasets for one training: `--data A --data B`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from visrl_data.core.conditions import check_same
from visrl_data.core.errors import UsageError
from visrl_train.pairs import Pair, PairSet


def join(sets: Sequence[PairSet]) -> PairSet:
    """Return the pairs of all sets. What the sets do not share (actor, origin) is None.

    Its digest does not depend on the order. Raises UsageError for a set that is named twice, and VisRLError when the
    sets were made with different box spaces, crop rules, prompts or bounds of pixels.
    """
    first, *others = sets
    for other in others:
        advice = "Train on pairs that were made alike."
        check_same(f"{other.name}, compared with {first.name},", _conditions(first), _conditions(other), advice)
    digests = sorted(one.digest for one in sets)
    if len(set(digests)) < len(digests):
        raise UsageError(f"--data names the same pairs twice: {', '.join(one.name for one in sets)}.")
    counts = Counter(pair.id for one in sets for pair in one.pairs)
    same_actor = len({one.actor_digest for one in sets}) == 1
    return dataclasses.replace(
        first,
        name=" + ".join(one.name for one in sets),
        tag=None,
        digest=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        pairs=tuple(_with_own_id(pair, one.name, counts) for one in sets for pair in one.pairs),
        read_image=_Images({pair.image: one.read_image for one in sets for pair in one.pairs}),
        actor=first.actor if same_actor else None,
        actor_digest=first.actor_digest if same_actor else None,
        origin=first.origin if len({one.origin for one in sets}) == 1 else None,
        parts=tuple(sets),
    )


def _conditions(pairs: PairSet) -> dict[str, Any]:
    prompts = (pairs.prompts.focus, pairs.prompts.answer)
    return {
        "box space": pairs.box_space,
        "crop rule": pairs.crop_rule.as_dict(),
        "prompts": {prompt.id: prompt.template for prompt in prompts},
        "max pixels": pairs.max_pixels,
    }


def _with_own_id(pair: Pair, name: str, counts: Counter[str]) -> Pair:
    """Return the pair under an id that no pair of another set has: rounds ask the same questions."""
    return dataclasses.replace(pair, id=f"{pair.id} ({name})") if counts[pair.id] > 1 else pair


@dataclass(frozen=True, slots=True)
class _Images:
    """Reads an image by sha256, from the set that has it."""

    readers: dict[str, Callable[[str], bytes]]

    def __call__(self, sha: str) -> bytes:
        return self.readers[sha](sha)
