"""Open a dataset folder and read its tables.

publishing/dataset.py writes such folders; its checks, rebuild, export and training read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import ROWS, file_digest
from visrl_data.core.prompts import recorded_prompts
from visrl_data.runs.dataset_files import KIND, SPLITS, split_files
from visrl_data.runs.dataset_schema import PREFERENCES
from visrl_data.runs.dataset_trust import check_claims, check_schema, read_finite
from visrl_data.runs.manifest import DatasetManifest
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.stored_images import StoredImages


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset folder. manifest: its manifest.json.

    notes: what the caller should tell the user, such as images that were left out.
    """

    folder: Path
    manifest: DatasetManifest
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by config and split."""
        return self.manifest["counts"]


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder holds a dataset that visrl made."""
    try:
        return bool(json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("kind") == KIND)
    except (OSError, ValueError, AttributeError):
        return False


def open_dataset(folder: Path) -> Dataset:
    """Read a dataset folder's manifest. Raises VisRLError when it is no dataset, or one of a newer schema."""
    if not is_dataset(folder):
        raise VisRLError(
            f"{folder} is no dataset that visrl made: it has no manifest.json of one. "
            "Give the folder of a dataset, or USER/NAME@TAG of one on the Hub."
        )
    try:
        manifest = read_finite(folder / "manifest.json")
    except ValueError as error:
        raise VisRLError(f"{folder}/manifest.json can't be read: {error}. Fetch the dataset again.") from None
    check_schema(folder, manifest)
    missing = sorted({"runs", "counts", "pairs", "images", "license", "sha256"} - manifest.keys())
    if missing:
        raise VisRLError(f"{folder}/manifest.json lacks {', '.join(missing)}: it was changed. Fetch the dataset again.")
    check_claims(folder, manifest)
    return Dataset(folder, manifest)


def tables(dataset: Dataset, config: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a config in batches: train, then validation."""
    for shard in shards(dataset, config):
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(ROWS, columns=columns):
                yield pa.Table.from_batches([batch])


def shards(dataset: Dataset, config: str) -> list[Path]:
    """Return the parquet files of a config: train, then validation."""
    return [file for split in SPLITS for file in split_files(dataset.folder, config, split)]


def dataset_pairs(dataset: Dataset) -> PairTable:
    """Return the pairs of a dataset folder with the images that it holds."""
    columns = [name for name in PREFERENCES if name != "image"]
    pairs = pa.concat_tables(tables(dataset, "preferences", columns)).replace_schema_metadata(None)
    stored = StoredImages(shards(dataset, "images"))
    prompts = recorded_prompts(dataset.manifest["runs"][0]["run"]["prompts"])
    return PairTable(pairs, prompts, stored, frozenset(stored.sizes))


def digests(folder: Path) -> dict[str, str]:
    """Compute the sha256 of each file of a dataset folder except its manifest, by path."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / "manifest.json")
    return {f.relative_to(folder).as_posix(): file_digest(f) for f in files}
