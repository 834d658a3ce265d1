"""Compare the candidates of two runs whose models ran differently: the likelihoods agree but for the last digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

HUNDREDTH = 0.011  # nats: the column is rounded to a hundredth


def check_same_rows(rows: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    ours, theirs = ([row["box_logprob"] for row in some] for some in (rows, expected))
    plain, expected_plain = ([row | {"box_logprob": None} for row in some] for some in (rows, expected))
    assert plain == expected_plain
    assert [value is None for value in ours] == [value is None for value in theirs]
    sampled = [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None]
    assert sampled, "no box has its likelihood"
    for one, other in sampled:
        assert one == pytest.approx(other, abs=HUNDREDTH)
