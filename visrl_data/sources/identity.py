"""Keep a source reproducible: the digest of its files, unique ids, and splits for SFT and RL that share no row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from visrl_data.core.errors import VisRLError


def files_digest(paths: Iterable[Path]) -> str:
    """Compute the sha256 over the size and the sha256 of each file, in order. Names do not count."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{file.tell()} {content}\n".encode())
    return digest.hexdigest()


def file_stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and time of modification, by which a change is noticed without reading it."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def check_unique(what: str, ids: list[str], places: list[str]) -> None:
    """Raise VisRLError naming the first ids that two rows share, and where. places: each row's, in words."""
    first: dict[str, int] = {}
    repeats = [(first[name], i) for i, name in enumerate(ids) if first.setdefault(name, i) != i]
    if repeats:
        shown = "; ".join(f"{ids[b]!r} ({places[a]} and {places[b]})" for a, b in repeats[:3])
        raise VisRLError(
            f"{what}: {len(repeats)} rows repeat the id of an earlier one: {shown}. Ids must be unique; "
            f"correct them, name another column with --columns id=COLUMN, or none with --columns id="
        )


def keyed_order(keys: Sequence[str]) -> list[int]:
    """Shuffle row numbers by a hash of the rows' keys alone; equal keys stay together."""
    digests = [hashlib.sha256(f"visrl order\0{key}".encode("utf-8", "surrogatepass")).digest() for key in keys]
    return sorted(range(len(keys)), key=lambda i: (digests[i], i))


def sft_rows(rows: int, sft: int, train: int) -> int:
    """Return how many of `rows` go to SFT; where there are fewer than `sft` + `train`, in their proportion."""
    return sft if rows >= sft + train else round(rows * sft / (sft + train))


def halves(keys: Sequence[str], sft: int, train: int) -> tuple[list[int], list[int]]:
    """Split row numbers between SFT and RL, in keyed order.

    Rows with equal keys stay together, so that no question is in both; SFT may get a few rows more than `sft` by that.
    """
    order = keyed_order(keys)
    end = sft_rows(len(order), sft, train)
    while 0 < end < len(order) and keys[order[end]] == keys[order[end - 1]]:
        end += 1
    return order[:end], order[end:]


def interleaved(counts: Sequence[int], weights: Sequence[float] | None = None) -> Iterator[tuple[int, int]]:
    """Yield (part, row in it) of all rows, so that every prefix holds the parts in proportion to their weights.

    weights: above 0; default: the counts. A part whose rows are used up is skipped.
    """
    shares = weights or counts
    places = ((row + 0.5) / shares[part] for part, count in enumerate(counts) for row in range(count))
    pairs = ((part, row) for part, count in enumerate(counts) for row in range(count))
    yield from (pair for _, pair in sorted(zip(places, pairs, strict=True)))
