"""Name pairs so that a name stays: in a run whose pairs are picked again, and in every dataset that holds the pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa


def pair_ids(pairs: pa.Table) -> list[str]:
    """Return ids that stay between versions: the question's, and 8 hex digits for picture, boxes and responses."""
    keys = [hashlib.sha256(key.encode()).hexdigest()[:8] for key in _pair_keys(pairs)]
    return [f"{name}-{key}" for name, key in zip(pairs["question_id"].to_pylist(), keys, strict=True)]


def distinct_pairs(pairs: pa.Table) -> pa.Table:
    """Return the pairs without those that repeat an earlier one word for word."""
    return pairs.filter(first_of(_pair_keys(pairs)))


def first_of(keys: list[str]) -> pa.Array:
    """Mark where a key occurs for the first time."""
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    return pa.array([first[key] == i for i, key in enumerate(keys)], pa.bool_())


def _pair_keys(pairs: pa.Table) -> list[str]:
    """Return keys that are equal for the same picture, question, boxes and responses."""
    sides = (f"{side}_{name}" for side in ("win", "lose") for name in ("box_text", "response"))
    return [json.dumps(row) for row in rows(pairs, ("image_sha256", "question", *sides))]


def rows(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield these columns of each row."""
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
