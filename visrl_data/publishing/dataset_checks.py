"""Check a dataset before it is committed: what its folder claims is what its files hold.

Every picture is decoded, so a large dataset takes minutes; nothing is written.

    files      those of the manifest, with its digests, and no others in data/
    schema     each shard has the config's features, and so says the card's dataset_info
    counts     manifest, dataset_info and the card's table say what the shards hold
    ids        unique; an image, and all about it, is in one split
    pictures   decode from their own bytes; checksums as stated; crops of the size that the pair says
    card       is what these files give
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard

from visrl_data.core.errors import VisRLError
from visrl_data.core.images import BadImage, decode, sha256
from visrl_data.core.versions import visrl_version
from visrl_data.report.page import is_ours
from visrl_data.runs.dataset_files import SPLITS, SplitFacts, read_facts, split_files, split_of
from visrl_data.runs.dataset_folder import Dataset, dataset_report, digests, open_dataset, shards
from visrl_data.runs.dataset_schema import CONFIGS

GROUP_LIMIT = 300_000_000  # bytes: what the Hub's viewer reads of a row group at most
_MOST_SHOWN = 20
_TABLE_ROW = re.compile(rf"^\| `({'|'.join(CONFIGS)})` \| (\w+) \| ([\d,]+) \|", re.MULTILINE)


def check_dataset(folder: Path) -> int:
    """Check a dataset folder. Return how many pictures were decoded. Raises VisRLError with all that is wrong."""
    dataset = open_dataset(Path(folder))
    wrong, pictures = list(_files(dataset)), 0
    if not wrong:  # else the shards may not even be readable
        facts = read_facts(dataset.folder, CONFIGS)
        wrong = [*_schemas(dataset, facts), *_counts(dataset, facts)]
    if not wrong:  # the rest reads columns that must be there
        verdicts = list(_pictures(dataset))
        pictures = len(verdicts)
        wrong = [*_rows(dataset), *filter(None, verdicts), *_card(dataset)]
    if wrong:
        shown = "\n".join(f"  {line}" for line in wrong[:_MOST_SHOWN])
        more = f"\n  and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
        raise VisRLError(f"{folder} must not be published as it is:\n{shown}{more}\nBuild it again from its runs.")
    return pictures


def _files(dataset: Dataset) -> Iterator[str]:
    listed, there = dataset.manifest["sha256"], digests(dataset.folder)
    for path in sorted({*listed, *(p for p in there if p.startswith("data/"))}):
        if listed.get(path) != there.get(path):
            state = "is missing" if path not in there else "is new" if path not in listed else "was changed"
            yield f"{path} {state} since the manifest was written"
    page = dataset.folder / "report.html"
    if page.is_file() and not is_ours(page.read_text(encoding="utf-8", errors="replace")):
        yield "report.html is not a page of this visrl: it could run any script"


def _schemas(dataset: Dataset, facts: dict[str, dict[str, SplitFacts]]) -> Iterator[str]:
    for config in facts:
        for file in shards(dataset, config):
            name = file.relative_to(dataset.folder)
            if Features.from_arrow_schema(pq.read_schema(file)) != CONFIGS[config]:
                yield f"{name}: other columns than {config} has"
            footer = pq.read_metadata(file)
            largest = max(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
            if largest > GROUP_LIMIT:
                yield f"{name}: a row group of {largest} bytes; the viewer reads at most {GROUP_LIMIT}"


def _counts(dataset: Dataset, facts: dict[str, dict[str, SplitFacts]]) -> Iterator[str]:
    """Compare manifest, YAML and the card's table with the shards."""
    card = DatasetCard.load(dataset.folder / "README.md")
    infos = DatasetInfosDict.from_dataset_card_data(card.data)
    rows = {(config, split): entry.rows for config, splits in facts.items() for split, entry in splits.items()}
    claims = {
        "manifest": {(c, s): count for c, splits in dataset.counts.items() for s, count in splits.items()},
        "dataset_info": {(c, s): i.num_examples for c, info in infos.items() for s, i in (info.splits or {}).items()},
        "the card": {(c, s): int(count.replace(",", "")) for c, s, count in _TABLE_ROW.findall(card.text)},
    }
    for source, claim in claims.items():
        for key in sorted({*claim, *rows}):
            if claim.get(key) != rows.get(key):
                yield f"{'/'.join(key)} has {rows.get(key, 0)} rows, {source} says {claim.get(key, 0)}"
    for config, info in infos.items():
        if config in facts and info.features != CONFIGS[config]:
            yield f"{config}: dataset_info has other features than the parquet files"
    default = [entry["config_name"] for entry in card.data.to_dict()["configs"] if entry.get("default")]
    if default != ["preferences"]:
        yield f"the card's default config is {default or 'none'}, not preferences"


def _rows(dataset: Dataset) -> Iterator[str]:
    """Check ids and splits."""
    ids: dict[str, set[str]] = {config: set() for config in CONFIGS}
    for config in CONFIGS:
        key = {"candidates": None, "images": "sha256"}.get(config, "id")
        image = {"rl1": None, "rl2": None, "images": "sha256"}.get(config, "image_sha256")
        for split in SPLITS:
            for file in split_files(dataset.folder, config, split):
                for name in _column(file, key):
                    if name in ids[config]:
                        yield f"{config}: two rows have the id {name}"
                    ids[config].add(name)
                strays = {sha for sha in _column(file, image) if split_of(sha) != split}
                yield from (f"{config}/{split}: image {sha} belongs to the other split" for sha in sorted(strays))
    yield from (f"rl1: row {name} is of no pair" for name in sorted(ids["rl1"] - ids["preferences"]))


def _column(file: Path, name: str | None) -> list[str]:
    return pq.read_table(file, columns=[name])[name].to_pylist() if name else []


def _pictures(dataset: Dataset) -> Iterator[str]:
    """Yield for each picture what is wrong with it, "" when nothing is."""
    sides: dict[str, tuple[int, int]] = {}
    for row in _pictured(
        dataset, "preferences", ["id", "image", "image_sha256", "image_width", "image_height", "win_crop"]
    ):
        left, top, right, bottom = row["win_crop"]
        width, height = right - left, bottom - top
        sides[row["id"]] = (max(width, height),) * 2 if dataset.manifest.get("pad_square") else (width, height)
        if row["image"] is not None:
            size = (row["image_width"], row["image_height"])
            yield _problem(f"preferences {row['id']}", row["image"], row["image_sha256"], size)
    for row in _pictured(dataset, "images", ["sha256", "image", "width", "height"]):
        yield _problem(f"images {row['sha256']}", row["image"], row["sha256"], (row["width"], row["height"]))
    for row in _pictured(dataset, "rl1", ["id", "images"]):
        for image in row["images"]:
            yield _problem(f"rl1 {row['id']}", image)
    for row in _pictured(dataset, "rl2", ["id", "pair_id", "images"]):
        for place, image in enumerate(row["images"]):
            yield _problem(f"rl2 {row['id']}", image, size=sides.get(row["pair_id"]) if place else None)


def _pictured(dataset: Dataset, config: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for file in shards(dataset, config):
        with pq.ParquetFile(file) as parquet:
            for group in range(parquet.num_row_groups):
                yield from parquet.read_row_group(group, columns=columns).to_pylist()


def _problem(name: str, image: dict[str, Any], digest: str | None = None, size: tuple[int, int] | None = None) -> str:
    data = image["bytes"]
    if not data:
        return f"{name}: the picture has no bytes"
    if digest is not None and sha256(data) != digest:
        return f"{name}: the picture's bytes have another checksum"
    try:
        actual = decode(data).size
    except BadImage as error:
        return f"{name}: the picture can't be opened ({error})"
    return f"{name}: the picture is {actual}, expected {size}" if size not in (None, actual) else ""


def _card(dataset: Dataset) -> Iterator[str]:
    from visrl_cards.dataset import render_dataset_card

    same_builder = dataset.manifest["builder_version"] == visrl_version()
    if same_builder and (dataset.folder / "README.md").read_text(encoding="utf-8") != render_dataset_card(
        dataset.folder, dataset.manifest
    ):
        yield "README.md is not the card that these files give"
    report = dataset_report(dataset)
    pairs = dataset.manifest["pairs"]
    if pairs["in_runs"] != report["yields"]["all"]["pairs"]:
        yield f"the manifest says {pairs['in_runs']} pairs in the runs, the report {report['yields']['all']['pairs']}"
    if pairs["in_runs"] - pairs["repeated"] != sum(dataset.counts["preferences"].values()):
        yield "pairs in the runs, less the repeated ones, are not the rows of preferences"
