"""Complete a dataset that was published without its images, on this machine.

    list     checksum and size of every image that the rows are about and the dataset leaves out
    find     the files of a folder that have one of these sizes, and then the checksum      image_search.py
    write    the dataset again, by the code that wrote it first (dataset.py)

Rows, crops and shards come out as a build with all images would have given them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import Say
from visrl_data.publishing.dataset import Contents, write_dataset
from visrl_data.publishing.image_search import ImageLocation, ImageSearch, MissingImage, find_images, read_image
from visrl_data.runs.dataset_folder import (
    Dataset,
    check_dataset_files,
    dataset_pairs,
    dataset_report,
    open_dataset,
    tables,
)
from visrl_data.runs.dataset_trust import known_fields
from visrl_data.runs.hub_fetch import fetch_dataset, is_hub_name
from visrl_data.runs.manifest import DatasetContents, DatasetManifest
from visrl_data.runs.marks import read_dataset_marks
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.parts import run_tables
from visrl_data.runs.stored_images import Pixels


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """The folder that was written. found: images put back; missing: those still left out (only when allowed)."""

    dataset: Dataset
    found: int
    missing: tuple[MissingImage, ...]
    wrong: tuple[ImageLocation, ...]


def rebuild(source: Path, images: Path, output: Path, allow_missing: bool = False) -> RebuildResult:
    """Write the complete dataset of `source` into `output`, with images from the folder `images`.

    Raises VisRLError: no dataset, no such folder, or images missing (each named), unless `allow_missing`.
    """
    dataset = open_dataset(Path(source))
    check_dataset_files(dataset, ("data/", "runs/", "audit/", "report.json"))
    if Path(output).resolve() == dataset.folder.resolve():
        raise VisRLError(f"--output {output} is the dataset itself; give the complete one another folder.")
    needed = missing_images(dataset)
    search = find_images(Path(images), needed)
    missing = tuple(image for image in needed if image.sha256 not in search.images)
    if missing and not allow_missing:
        raise VisRLError(_message(missing, search, len(needed), Path(images)))
    pairs = dataset_pairs(dataset)
    contents = Contents(
        pairs=dataclasses.replace(pairs, pixels=_pixels(pairs, search), embedded=pairs.embedded.union(search.images)),
        candidates=lambda: tables(dataset, "candidates"),
        runs=run_tables(dataset, dataset.folder.name),
        about=_about(dataset, search, missing),
        report=dataset_report(dataset),
        marks=read_dataset_marks(dataset.folder),
        license_text=_text(dataset.folder / "LICENSE"),
    )
    return RebuildResult(write_dataset(contents, Path(output)), len(search.images), missing, search.wrong)


def locate(dataset: str, say: Say = lambda _: None) -> Path:
    """Return a folder as it is, or download USER/NAME[@TAG] from the Hub. Raises VisRLError."""
    if Path(dataset).is_dir():
        return Path(dataset)
    mistyped = "@" not in dataset and Path(dataset).parent.is_dir()  # like runs/phtos beside runs/photos
    if mistyped or not is_hub_name(dataset):
        raise VisRLError(f"{dataset}: no such folder, and no Hub id. Expected a dataset's folder or USER/NAME[@TAG].")
    return fetch_dataset(dataset, say=say).folder


def missing_images(dataset: Dataset) -> tuple[MissingImage, ...]:
    """Return the images that rows of the dataset are about and that it does not hold, in the order of the rows."""
    embedded = {sha for table in tables(dataset, "images", ["sha256"]) for sha in table["sha256"].to_pylist()}
    names = ["image_sha256", "image_bytes", "question_id", "source_id", "source_url"]
    missing: dict[str, MissingImage] = {}
    for table in tables(dataset, "candidates", names):
        for sha, size, question, source_id, url in zip(*(table[name].to_pylist() for name in names), strict=True):
            if sha not in embedded:
                image = missing.get(sha) or MissingImage(sha, size, (), source_id, url)
                ids = image.ids if question in image.ids else (*image.ids, question)
                missing[sha] = dataclasses.replace(image, ids=ids[:3])
    return tuple(missing.values())


def _pixels(pairs: PairTable, search: ImageSearch) -> Pixels:
    def read(sha256: str) -> bytes:
        return pairs.pixels(sha256) if sha256 in pairs.embedded else read_image(search, sha256)

    return read


def _message(missing: tuple[MissingImage, ...], search: ImageSearch, needed: int, folder: Path) -> str:
    lines = [f"{len(missing)} of {needed} images are not among the {search.files} files of {folder}:"]
    for image in missing[:10]:
        origin = image.source_url or image.source_id
        lines.append(f"  {', '.join(image.ids)}: sha256 {image.sha256[:16]}..., {image.size} bytes, from {origin}")
    if len(missing) > 10:
        lines.append(f"  and {len(missing) - 10} more")
    if search.wrong:
        names = ", ".join(str(location.path) for location in search.wrong[:5])
        lines.append(
            f"{len(search.wrong)} pictures have the size of one but another checksum, and are not used: {names}"
        )
    lines.append("Add the original files to the folder, or take what is there: --allow-missing.")
    return "\n".join(lines)


def _about(dataset: Dataset, search: ImageSearch, missing: tuple[MissingImage, ...]) -> DatasetContents:
    derived = {"counts", "example", "sha256"}
    names = DatasetManifest.__annotations__.keys() - derived
    kept = known_fields(dataset.manifest, names)
    return cast(DatasetContents, kept | {"rebuilt": {"found": len(search.images), "missing": len(missing)}})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
