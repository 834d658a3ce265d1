"""Write the YAML head of a dataset card: what the Hub's viewer, search and `load_dataset` read.

Features and counts are those of the parquet files. Keys: https://github.com/huggingface/hub-docs, datasetcard.md.
"""

from __future__ import annotations

from typing import Any

from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from visrl_data.runs.dataset_files import SplitFacts
from visrl_data.runs.manifest import DatasetManifest

DEFAULT_CONFIG = "preferences"
TASKS = ["visual-question-answering", "image-text-to-text"]
TAGS = ["visrl", "preference", "dpo", "trl", "grounding", "bounding-box", "visual-reasoning"]
_SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]


def front_matter(manifest: DatasetManifest, facts: dict[str, dict[str, SplitFacts]], name: str) -> str:
    """Return the head, without its two lines of dashes. facts: rows and schemas by config and split."""
    license = manifest["license"]
    other: dict[str, Any] = {"license_name": license["name"], "license_link": "LICENSE"}
    data = DatasetCardData(
        license=license["id"],
        **(other if license["id"] == "other" else {}),
        language=manifest["languages"] or _languages(manifest),
        pretty_name=name,
        annotations_creators=["machine-generated"],
        source_datasets=_sources(manifest),
        task_categories=TASKS,
        tags=TAGS,
        size_categories=[size_category(sum(split.rows for split in facts[DEFAULT_CONFIG].values()))],
    )
    MetadataConfigs({config: _files(config, splits) for config, splits in facts.items()}).to_dataset_card_data(data)
    DatasetInfosDict({config: _info(config, splits) for config, splits in facts.items()}).to_dataset_card_data(data)
    for entries in (data["configs"], data["dataset_info"]):  # both sort by name; people read the default first
        entries.sort(key=lambda entry: list(facts).index(entry["config_name"]))
    return data.to_yaml()


def size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>10M")


def _languages(manifest: DatasetManifest) -> list[str] | None:
    """Return the language of our own source; that of others is not known."""
    sources = {source["source"] for source in manifest["license"]["sources"]}
    return ["en"] if sources == {"spotlight"} else None


def _sources(manifest: DatasetManifest) -> list[str]:
    """Return the Hub ids of sources that are datasets there; the questions of others are original."""
    names = {run["run"]["source"]["name"].partition(":")[0] for run in manifest["runs"]}
    return [f"extended|{name}" for name in sorted(names) if "/" in name] or ["original"]


def _files(config: str, splits: dict[str, SplitFacts]) -> dict[str, Any]:
    files = [{"split": split, "path": f"data/{config}/{split}-*.parquet"} for split in splits]
    return {"data_files": files} | ({"default": True} if config == DEFAULT_CONFIG else {})


def _info(config: str, splits: dict[str, SplitFacts]) -> DatasetInfo:
    rows = SplitDict()
    for name, facts in splits.items():
        rows.add(SplitInfo(name, num_bytes=facts.num_bytes, num_examples=facts.rows))
    return DatasetInfo(
        features=Features.from_arrow_schema(next(iter(splits.values())).schema),
        splits=rows,
        download_size=sum(facts.file_bytes for facts in splits.values()),
        dataset_size=sum(facts.num_bytes for facts in splits.values()),
        config_name=config,
    )
