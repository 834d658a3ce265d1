"""Preference pairs, from wherever they are kept; the only place that knows how they are stored.

First step of rl1.py and rl2.py. A run folder and a published dataset (its config `preferences`) both become one
PairSet, with what training must agree on: the box space, the crop rule, the prompts, and which model wrote
the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from visrl_data.core import files
from visrl_data.core.boxes import CropRule
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet, recorded_prompts
from visrl_data.runs.run_folder import Run
from visrl_data.runs.stored_images import StoredImages

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Pair:
    """One question's win and lose (Eq. 4), as training needs them.

    answers: the accepted ones. image: sha256 of the original image's bytes. *_box: canonical text on the
    actor's lattice. *_crop: pixels (left, top, right, bottom) of the original image. has_response: the two
    responses differ.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    image: str
    win_box: str
    win_crop: tuple[int, int, int, int]
    win_response: str
    lose_box: str
    lose_crop: tuple[int, int, int, int]
    lose_response: str
    has_response: bool


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs and what they were made with.

    name: as the user gave it. tag: the data version of a published set. digest: sha256 of the manifest,
    which changes with any pair. actor: id of the model that wrote them, actor_digest its files'; None when
    no model folder did. origin: id of the original model.
    """

    name: str
    tag: str | None
    digest: str
    pairs: tuple[Pair, ...]
    read_image: Callable[[str], bytes] = field(repr=False)
    prompts: PromptSet
    box_space: str
    crop_rule: CropRule
    actor: str | None
    actor_digest: str | None
    origin: str | None
    max_pixels: int | None

    def record(self) -> dict[str, Any]:
        """What a trained model's folder says about its data."""
        return {"name": self.name, "tag": self.tag, "manifest_sha256": self.digest, "pairs": len(self.pairs)}


def read_pairs(data: str | None) -> PairSet:
    """Open a run folder, a dataset folder or USER/NAME[@TAG]; None is the latest finished run under runs/.

    Raises VisRLError when there is no such thing, no pair in it, or a pair without its picture.
    """
    path = latest_run(RUNS) if data is None else Path(data)
    is_run = path.is_dir() and not _is_dataset(path)
    found = _from_run(Run(path)) if is_run else _from_dataset(str(data))
    if not found.pairs:
        raise VisRLError(
            f"{found.name} holds no pairs, so there is nothing to train on. `visrl inspect {found.name}` says where "
            f"its questions went, `visrl filter {found.name} --sweep` what other thresholds would give."
        )
    return found


def latest_run(folder: Path) -> Path:
    """The run that was finished last. Raises VisRLError when there is none."""
    finished = [path.parent for path in folder.glob("*/manifest.json") if (path.parent / "run.json").is_file()]
    if not finished:
        raise VisRLError(f"No finished run under {folder}/. Make one with `visrl gen`, or name one with --data.")
    return max(finished, key=lambda path: (path / "manifest.json").stat().st_mtime_ns)


def _is_dataset(path: Path) -> bool:
    from visrl_data.runs.dataset_folder import is_dataset

    return is_dataset(path)


def _from_run(run: Run) -> PairSet:
    about = run.manifest()
    rows = pq.read_table(run.path / "pairs.parquet").to_pylist()
    images = StoredImages(sorted((run.path / "images").glob("part-*.parquet")))
    return _pair_set(str(run.path), None, run.manifest_path, about, rows, "question_id", images)


def _from_dataset(data: str) -> PairSet:
    from visrl_data.publishing.rebuild import locate
    from visrl_data.runs.dataset_folder import dataset_pairs, open_dataset

    dataset = open_dataset(locate(data))
    stored = dataset_pairs(dataset)
    rows = stored.pairs.to_pylist()
    bare = sum(row["image_sha256"] not in stored.embedded for row in rows)
    if bare:
        raise VisRLError(
            f"{bare} of the {len(rows)} pairs of {data} were published without their image. "
            f"Put the images back with: visrl rebuild {data} --images DIR -o DIR"
        )
    manifest = dataset.manifest
    where = dataset.folder / "manifest.json"
    return _pair_set(data, manifest.get("data_version"), where, manifest["runs"][0], rows, "id", stored.pixels)


def _pair_set(
    name: str,
    tag: str | None,
    manifest: Path,
    about: dict[str, Any],
    rows: Iterable[dict[str, Any]],
    key: str,
    read_image: Callable[[str], bytes],
) -> PairSet:
    """about: config and identity ("run") of the run that made the pairs, or of the first of several alike."""
    config, identity = about["config"], about["run"]
    digest = identity["actor"].get("digest")
    return PairSet(
        name=name,
        tag=tag,
        digest=files.file_digest(manifest),
        pairs=tuple(_pair(row, key) for row in rows),
        read_image=read_image,
        prompts=recorded_prompts(about),
        box_space=identity["box_space"],
        crop_rule=CropRule(**identity["crop_rule"]),
        actor=config["model"] if digest else None,
        actor_digest=digest,
        origin=identity.get("origin_base", {}).get("id"),
        max_pixels=config.get("max_pixels"),
    )


def _pair(row: dict[str, Any], key: str) -> Pair:
    return Pair(
        id=row[key],
        question=row["question"],
        answers=tuple(row["answers"]),
        image=row["image_sha256"],
        win_box=row["win_box_text"],
        win_crop=tuple(row["win_crop"]),
        win_response=row["win_response"],
        lose_box=row["lose_box_text"],
        lose_crop=tuple(row["lose_crop"]),
        lose_response=row["lose_response"],
        has_response=not row["same_response"],
    )
