"""Name the files and splits of a dataset folder, and read what its parquet footers say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.core.seeds import keyed_seed

CONFIG_NAMES = ("preferences", "rl1", "rl2", "candidates", "images")  # of dataset_schema.CONFIGS
SPLITS = ("train", "validation")


def split_files(folder: Path, config: str, split: str) -> list[Path]:
    """Return the shards of a config's split in a dataset folder, in order."""
    return sorted((folder / "data" / config).glob(f"{split}-*-of-*.parquet"))


KIND = "visrl dataset"

SCHEMA_VERSION = 1
"""Version of a dataset's columns and files; the data version is its tag."""

VALIDATION_SHARE = 0.1


def split_of(image_sha256: str, share: float = VALIDATION_SHARE) -> str:
    """Return the split of all rows about an image. A keyed hash decides it, so an image never changes its split."""
    return "validation" if keyed_seed("validation", image_sha256) < share * 2**64 else "train"


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """What the parquet footers say of one split of a config. num_bytes: of the columns before compression."""

    rows: int
    num_bytes: int
    file_bytes: int
    schema: pa.Schema


def read_facts(folder: Path, configs: Iterable[str]) -> dict[str, dict[str, SplitFacts]]:
    """Read the parquet footers of a dataset folder, by config and split; splits without files are left out."""
    facts = {config: {split: _facts(files) for split in SPLITS if (files := split_files(folder, config, split))}
             for config in configs}  # fmt: skip
    return {config: splits for config, splits in facts.items() if splits}


def _facts(files: list[Path]) -> SplitFacts:
    footers = [pq.read_metadata(file) for file in files]
    groups = [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)]
    return SplitFacts(
        rows=sum(footer.num_rows for footer in footers),
        num_bytes=sum(group.total_byte_size for group in groups),
        file_bytes=sum(file.stat().st_size for file in files),
        schema=pq.read_schema(files[0]),
    )
