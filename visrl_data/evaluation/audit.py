"""Draw the pairs that a person looks at in `visrl audit`, and say what they see of them: blind, without scores.

Before audit_page.py, which serves it. The sample is stratified by source and by whose boxes a pair has: in the order
of `draw`, the first n pairs hold of each stratum its share of n, for every n. So a larger --sample continues a smaller
one, and whoever stops early has seen a fair sample too. Which box comes first, and its color, is drawn for
each pair and annotator.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.reading import read_table
from visrl_data.core.records import PAIR_SCHEMA
from visrl_data.core.seeds import keyed_seed
from visrl_data.core.text import shown
from visrl_data.report.measures import finite_wilson
from visrl_data.runs.dataset_folder import (
    COPY_AGAIN,
    check_dataset_files,
    is_dataset,
    open_dataset,
    shards,
)
from visrl_data.runs.hub_fetch import fetch_dataset, is_hub_name
from visrl_data.runs.marks import FOLDER, published_folder
from visrl_data.runs.pair_ids import distinct_pairs, pair_ids
from visrl_data.runs.run_folder import Run, check_files
from visrl_data.runs.stored_images import read_images, stored_names

_FILES = ("manifest.json", "report.json", "runs/pairs.parquet", "data/images/*")
_SIDES = ("win", "lose")


@dataclass(frozen=True, slots=True, eq=False)
class AuditTarget:
    """What is audited. pairs: PAIR_SCHEMA, those whose image is there, of `total`. images: parquet files.

    marks: the folder of the annotators' files. run: its folder, None for a published set.
    """

    name: str
    pairs: pa.Table
    total: int
    images: tuple[Path, ...]
    seed: int
    marks: Path
    run: Path | None


@dataclass(frozen=True, slots=True)
class AuditPair:
    """A pair of the sample. sides: "win" and "lose" as they are shown; colors: of the two, 0 or 1. image: encoded."""

    id: str
    row: dict[str, Any]
    sides: tuple[str, str]
    colors: tuple[int, int]
    image: bytes


def open_audit(name: str, say: Callable[[str], None]) -> AuditTarget:
    """Open a finished run or USER/NAME@TAG. Raises VisRLError when it is neither, or has no pair to show."""
    folder = Path(name)
    if is_dataset(folder):
        raise UsageError(
            f"{name} is a dataset folder, which holds what is published and nothing else. Audit one of the runs that "
            "it was built from, or, once it is published, USER/NAME@TAG."
        )
    if "@" in name and not folder.is_dir() and is_hub_name(name):
        target = _open_published(name, say)
    else:
        run = Run(folder)
        check_files(run, but=("images/", "candidates/", "questions/", "drops/"))
        pairs, images = run.pairs(), tuple(run.shards("images"))
        seed = int(run.config()["seed"])
        target = AuditTarget(name, pairs, pairs.num_rows, images, seed, folder / FOLDER, folder)
    if not target.pairs.num_rows:
        why = "its images were left out, so nobody can look at them" if target.total else "it holds none"
        raise VisRLError(f"{name} has no pair to show: {why}.")
    return target


def _open_published(name: str, say: Callable[[str], None]) -> AuditTarget:
    dataset = open_dataset(fetch_dataset(name, _FILES, say).folder)
    check_dataset_files(dataset, ("runs/pairs", "report.json", "data/images/"), name)
    pairs = distinct_pairs(read_table(dataset.folder / "runs" / "pairs.parquet", PAIR_SCHEMA, COPY_AGAIN))
    images = tuple(shards(dataset, "images"))
    there = pa.array(stored_names(images), pa.string())
    with_image = pairs.filter(pc.is_in(pairs["image_sha256"], value_set=there))
    seed = dataset.manifest["runs"][0]["config"]["seed"]
    marks = published_folder(name)
    return AuditTarget(name, with_image, pairs.num_rows, images, seed, marks, None)


def draw(target: AuditTarget, sample: int, annotator: str) -> list[AuditPair]:
    """Draw the sample, in the order in which it is shown, with the images."""
    ids = pair_ids(target.pairs)
    order = sampling_order(ids, _strata(target.pairs), target.seed)[:sample]
    rows = target.pairs.take(pa.array(order, pa.int64())).to_pylist()
    images = dict(read_images(target.images, {row["image_sha256"] for row in rows}))
    return [_make_pair(ids[i], row, images, target.seed, annotator) for i, row in zip(order, rows, strict=True)]


def _strata(pairs: pa.Table) -> list[tuple[str, ...]]:
    columns = (pairs[name].to_pylist() for name in ("source", "win_box_origin", "lose_box_origin"))
    return list(zip(*columns, strict=True))


def sampling_order(ids: Sequence[str], strata: Sequence[tuple[str, ...]], seed: int) -> list[int]:
    """Return all rows in an order whose first n hold of each stratum its share of n, up to one.

    A stratum of m pairs, in random order, takes the places (k + u) / m, with a u of its own, drawn from [0, 1): so each
    pair has the same chance to be among the first n.
    """
    members = defaultdict(list)
    for i in sorted(range(len(ids)), key=lambda i: keyed_seed(seed, "audit", ids[i])):
        members[strata[i]].append(i)
    places = {}
    for stratum, rows in members.items():
        start = keyed_seed(seed, "audit stratum", *stratum) / 2**64
        places.update({i: (k + start) / len(rows) for k, i in enumerate(rows)})
    return sorted(places, key=places.__getitem__)


def _make_pair(name: str, row: dict[str, Any], images: dict[str, bytes], seed: int, annotator: str) -> AuditPair:
    if row["image_sha256"] not in images:
        raise VisRLError(f"The image of {name} is not among the stored images: files of the run were changed.")
    dice = keyed_seed(seed, "audit sides", annotator, name)
    sides = ("win", "lose") if dice & 1 else ("lose", "win")
    return AuditPair(name, row, sides, (0, 1) if dice & 2 else (1, 0), images[row["image_sha256"]])


def describe_pair(pair: AuditPair, size: tuple[int, int]) -> dict[str, Any]:
    """Return what the page shows of a pair. size: of its image; boxes become pixels."""
    row = pair.row
    return {
        "question": shown(row["question"]),
        "answers": [shown(answer) for answer in row["answers"][:20]],
        "size": size,
        "boxes": [_pixels(row[f"{side}_box"], size) for side in pair.sides],
        "colors": pair.colors,
        "responses": [shown(row[f"{side}_response"]) for side in pair.sides],
        "same": row["same_response"],
    }


def _pixels(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    return [round(value * side, 2) for value, side in zip(box, size * 2, strict=True)]


def describe_sample(sample: int, target: AuditTarget) -> str:
    """Say what the sample will tell: the interval of a share of one half, and of nine tenths."""
    widths = []
    for share in (0.5, 0.9):
        low, high = finite_wilson(share * sample, sample, sample / target.pairs.num_rows) or (0.0, 1.0)
        widths.append(f"{50 * (high - low):.1f}")
    return (
        f"{sample} of {target.pairs.num_rows:,} pairs. When all are marked, a share of 50 % will be known to "
        f"± {widths[0]} points, one of 90 % to ± {widths[1]} (95 % interval)."
    )
