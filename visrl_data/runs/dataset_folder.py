"""Open a dataset folder and read its tables.

publishing/dataset.py writes such folders; its checks, rebuild, export and training read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import ROWS, file_digest
from visrl_data.core.prompts import recorded_prompts
from visrl_data.core.reading import check_shape, open_parquet, read_json, with_later_columns
from visrl_data.runs.dataset_files import KIND, SPLITS, split_files
from visrl_data.runs.dataset_trust import check_claims, check_schema
from visrl_data.runs.image_fit import image_fit, stock_size
from visrl_data.runs.manifest import DatasetManifest
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.run_report import RunReport
from visrl_data.runs.stored_images import StoredImages

COPY_AGAIN = "Fetch or copy the dataset again."


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
        return bool(json.loads((folder / "manifest.json").read_bytes()).get("kind") == KIND)
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def open_dataset(folder: Path) -> Dataset:
    """Read a dataset folder's manifest. Raises VisRLError when it is no dataset, or one of a newer schema."""
    if not is_dataset(folder):
        raise VisRLError(
            f"{folder} is no dataset that visrl made: it has no manifest.json of one. "
            "Give the folder of a dataset, or USER/NAME@TAG of one on the Hub."
        )
    manifest = read_json(folder / "manifest.json", dict[str, Any], COPY_AGAIN)
    check_schema(folder, manifest)
    check_claims(folder, manifest)
    return Dataset(folder, check_shape(manifest, DatasetManifest, folder / "manifest.json", COPY_AGAIN))


def check_dataset_files(dataset: Dataset, start: tuple[str, ...], hub_name: str = "") -> None:
    """Check the files of a dataset whose paths begin so against the digests of its manifest.

    hub_name: where it was fetched from. Raises VisRLError, naming the first file that is missing or changed.
    """
    advice = f"Fetch it again: `hf cache rm dataset/{hub_name.partition('@')[0]}`" if hub_name else "Copy it again"
    name = hub_name or str(dataset.folder)
    for path, sha in dataset.manifest["sha256"].items():
        if not path.startswith(start):
            continue
        if not (dataset.folder / path).is_file() or file_digest(dataset.folder / path) != sha:
            raise VisRLError(
                f"{name}: {path} is missing or was changed since the dataset was built. {advice}, then run the same "
                "command again."
            )


def check_whole(dataset: Dataset) -> None:
    """Raise VisRLError when a file that the manifest names is not there; content is not read."""
    for path in dataset.manifest["sha256"]:
        if not (dataset.folder / path).is_file():
            raise VisRLError(f"{dataset.folder}: {path} is missing. {COPY_AGAIN}")


def tables(dataset: Dataset, config: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a config in batches: train, then validation."""
    from visrl_data.runs.dataset_schema import CONFIGS  # `datasets` takes a second, and reads the environment

    for shard in shards(dataset, config):
        schema = CONFIGS[config].arrow_schema
        with open_parquet(shard, schema, COPY_AGAIN, columns) as file:
            for batch in file.iter_batches(ROWS, columns=columns):
                yield with_later_columns(pa.Table.from_batches([batch]), schema, columns or schema.names)


def shards(dataset: Dataset, config: str) -> list[Path]:
    """Return the parquet files of a config that the manifest names: train, then validation."""
    stated = dataset.manifest["sha256"]
    files = (file for split in SPLITS for file in split_files(dataset.folder, config, split))
    return [file for file in files if file.relative_to(dataset.folder).as_posix() in stated]


def dataset_report(dataset: Dataset) -> RunReport:
    """Return its report.json. Raises VisRLError when it is damaged."""
    return read_json(dataset.folder / "report.json", RunReport, COPY_AGAIN)


def dataset_pairs(dataset: Dataset) -> PairTable:
    """Return the pairs of a dataset folder with the images that it holds."""
    from visrl_data.runs.dataset_schema import PREFERENCES

    columns = [name for name in PREFERENCES if name != "image"]
    pairs = pa.concat_tables(tables(dataset, "preferences", columns)).replace_schema_metadata(None)
    stored = StoredImages(shards(dataset, "images"))
    run = dataset.manifest["runs"][0]
    fit = image_fit(run, dataset.manifest.get("pad_square", False), stock_size)
    return PairTable(pairs, recorded_prompts(run["run"]["prompts"]), stored, frozenset(stored.sizes), fit)


def digests(folder: Path) -> dict[str, str]:
    """Compute the sha256 of each file of a dataset folder except its manifest, by path."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / "manifest.json")
    return {f.relative_to(folder).as_posix(): file_digest(f) for f in files}
