"""Where every random number of a run comes from.

A seed is a stable hash of what it is for, so it depends neither on the order of the work nor on what else
is in a batch, a shard or a process.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def keyed_seed(*key: str | int) -> int:
    """Return a 64-bit seed for (run seed, round, question id, attempt, slot, purpose) or a part of it."""
    digest = hashlib.blake2b(json.dumps(key, ensure_ascii=True).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def generator(seed: int) -> np.random.Generator:
    """Return a counter-based generator for one seed: the same numbers on every machine."""
    return np.random.Generator(np.random.Philox(key=seed))
