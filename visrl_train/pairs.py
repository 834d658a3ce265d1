"""Read preference pairs from a run folder or a published dataset (its config `preferences`).

The first step of rl1.py, rl2.py and the baselines. Both become one PairSet, with what training must agree on: the box
space, the crop rule, the prompts, and the model that wrote the pairs. Those of several sets (`--data A --data B`)
are joined.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visrl_data.core import files
from visrl_data.core.conditions import check_same
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.image_settings import ImageSettings
from visrl_data.core.prompts import PromptSet, recorded_prompts
from visrl_data.core.text import visible
from visrl_data.runs.manifest import RunManifest, bound_of_images
from visrl_data.runs.run_folder import Run, check_files
from visrl_data.runs.stored_images import StoredImages

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Pair:
    """The win (chosen) and the lose (rejected) of one question (Eq. 4).

    answers: all accepted ones. image: sha256 of the original image's bytes. *_box: canonical text on the actor's
    lattice. *_unit: the same box in unit xyxy of the original image. *_crop: pixels (left, top, right, bottom) of the
    original image. has_response: the two responses differ.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    image: str
    win_box: str
    win_unit: tuple[float, float, float, float]
    win_crop: tuple[int, int, int, int]
    win_response: str
    lose_box: str
    lose_unit: tuple[float, float, float, float]
    lose_crop: tuple[int, int, int, int]
    lose_response: str
    has_response: bool


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs, and how they were generated.

    name: as the user wrote it. tag: the data version of a published dataset. digest: sha256 of the manifest,
    which changes with any pair. actor: id of the model that wrote them, actor_digest that of its files; None when
    it was no model folder. origin: id of the original model. max_pixels, image_settings: how the actor was shown
    pictures; settings are None when not recorded. parts: the sets that were joined, empty for one set.
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
    image_settings: ImageSettings | None
    parts: tuple[PairSet, ...] = ()

    @property
    def data(self) -> str | list[str]:
        """What --data names: one set, or several."""
        return [part.name for part in self.parts] or self.name

    @property
    def short_name(self) -> str:
        """The name for a folder that is made of these pairs."""
        return "+".join(Path(part.name).stem for part in self.parts) or self.name

    @property
    def flags(self) -> str:
        """The options of a command that name these pairs."""
        return data_flags(self.data)

    def record(self) -> dict[str, Any]:
        """Return what visrl.json of a trained model says about its data."""
        own = {"name": self.name, "tag": self.tag, "manifest_sha256": self.digest, "pairs": len(self.pairs)}
        return own | ({"parts": [part.record() for part in self.parts]} if self.parts else {})


def data_flags(data: str | list[str]) -> str:
    """Return the options of a command that name pairs."""
    return " ".join(f"--data {shlex.quote(name)}" for name in ([data] if isinstance(data, str) else data))


def read_pairs(data: str | Sequence[str] | None) -> PairSet:
    """Read the pairs that --data names, those of several sets joined; None is the latest finished run under runs/.

    Raises VisRLError.
    """
    return _read_set(data) if data is None or isinstance(data, str) else join([_read_set(name) for name in data])


def _read_set(data: str | None) -> PairSet:
    """Read a run folder, a dataset folder or USER/NAME[@TAG]; None is the latest finished run under runs/.

    Raises VisRLError when it does not exist, holds no pair, or holds a pair without its image.
    """
    from visrl_data.runs.dataset_folder import is_dataset

    path = latest_run(RUNS) if data is None else Path(data)
    is_run = path.is_dir() and not is_dataset(path)
    pairs = _from_run(Run(path)) if is_run else _from_dataset(str(data))
    if not pairs.pairs:
        name = shlex.quote(pairs.name)
        raise VisRLError(
            f"{pairs.name} holds no pairs to train on. `visrl inspect {name}` shows why questions were dropped, "
            f"`visrl filter {name} --sweep` how many pairs other thresholds give."
        )
    return pairs


def latest_run(folder: Path) -> Path:
    """Return the run that finished last. Raises VisRLError when there is none."""
    finished = [path.parent for path in folder.glob("*/manifest.json") if (path.parent / "run.json").is_file()]
    if not finished:
        raise VisRLError(f"No finished run under {folder}/. Make one with `visrl gen`, or name one with --data.")
    return max(finished, key=lambda path: (path / "manifest.json").stat().st_mtime_ns)


def _from_run(run: Run) -> PairSet:
    check_files(run)
    manifest, rows = run.manifest(), run.pairs().to_pylist()
    images = StoredImages(run.shards("images"))
    return _pair_set(str(run.path), None, run.manifest_path, manifest, rows, "question_id", images)


def _say(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


def _from_dataset(data: str) -> PairSet:
    from visrl_data.publishing.rebuild import locate
    from visrl_data.runs.dataset_folder import check_dataset_files, dataset_pairs, open_dataset

    dataset = open_dataset(locate(data, _say))
    check_dataset_files(dataset, ("data/preferences/", "data/images/"), "" if Path(data).is_dir() else data)
    stored = dataset_pairs(dataset)
    rows = stored.pairs.to_pylist()
    missing = sum(row["image_sha256"] not in stored.embedded for row in rows)
    if missing:
        raise VisRLError(
            f"{missing} of the {len(rows)} pairs of {data} were published without their image. "
            f"Restore the images with: visrl rebuild {shlex.quote(data)} --images DIR -o DIR"
        )
    manifest, path = dataset.manifest, dataset.folder / "manifest.json"
    return _pair_set(data, manifest.get("data_version"), path, manifest["runs"][0], rows, "id", stored.pixels)


def _pair_set(
    name: str,
    tag: str | None,
    path: Path,
    run: RunManifest,
    rows: Iterable[dict[str, Any]],
    key: str,
    read_image: Callable[[str], bytes],
) -> PairSet:
    """Return the pairs. path: the manifest; run: its config and identity ("run"), of the first run of several."""
    config, identity = run["config"], run["run"]
    digest = identity["actor"].get("digest")
    return PairSet(
        name=name,
        tag=tag,
        digest=files.file_digest(path),
        pairs=tuple(_pair(row, key) for row in rows),
        read_image=read_image,
        prompts=recorded_prompts(identity["prompts"]),
        box_space=identity["box_space"],
        crop_rule=CropRule(**identity["crop_rule"]),
        actor=config["model"] if digest else None,
        actor_digest=digest,
        origin=identity["origin_base"]["id"] if "origin_base" in identity else None,
        max_pixels=bound_of_images(run),
        image_settings=identity.get("image_settings"),
    )


def _pair(row: dict[str, Any], key: str) -> Pair:
    return Pair(
        id=row[key],
        question=row["question"],
        answers=tuple(row["answers"]),
        image=row["image_sha256"],
        win_box=row["win_box_text"],
        win_unit=tuple(row["win_box"]),
        win_crop=tuple(row["win_crop"]),
        win_response=row["win_response"],
        lose_box=row["lose_box_text"],
        lose_unit=tuple(row["lose_box"]),
        lose_crop=tuple(row["lose_crop"]),
        lose_response=row["lose_response"],
        has_response=not row["same_response"],
    )


def join(sets: Sequence[PairSet]) -> PairSet:
    """Return the pairs of all sets. What the sets do not share (actor, origin) is None.

    Its digest does not depend on the order. Raises UsageError for a set that is named twice, and VisRLError when the
    sets were made with different box spaces, crop rules, prompts or bounds of pixels.
    """
    first, *others = sets
    for other in others:
        advice = "Train on pairs that were made alike."
        ignored = {"image settings"} if None in (first.image_settings, other.image_settings) else set()
        subject = f"{other.name}, compared with {first.name},"
        check_same(subject, _conditions(first), _conditions(other), advice, ignored)
    digests = sorted(one.digest for one in sets)
    if len(set(digests)) < len(digests):
        raise UsageError(f"--data names the same pairs twice: {', '.join(one.name for one in sets)}.")
    counts = Counter(pair.id for one in sets for pair in one.pairs)
    same_actor = len({one.actor_digest for one in sets}) == 1
    return dataclasses.replace(
        first,
        name=" + ".join(one.name for one in sets),
        tag=None,
        digest=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        pairs=tuple(_with_own_id(pair, one.name, counts) for one in sets for pair in one.pairs),
        read_image=_Images({pair.image: one.read_image for one in sets for pair in one.pairs}),
        actor=first.actor if same_actor else None,
        actor_digest=first.actor_digest if same_actor else None,
        origin=first.origin if len({one.origin for one in sets}) == 1 else None,
        parts=tuple(sets),
    )


def _conditions(pairs: PairSet) -> dict[str, Any]:
    prompts = (pairs.prompts.focus, pairs.prompts.answer)
    return {
        "box space": pairs.box_space,
        "crop rule": pairs.crop_rule.as_dict(),
        "prompts": {prompt.id: prompt.template for prompt in prompts},
        "max pixels": pairs.max_pixels,
        "image settings": pairs.image_settings,
    }


def _with_own_id(pair: Pair, name: str, counts: Counter[str]) -> Pair:
    """Return the pair under an id that no pair of another set has: rounds ask the same questions."""
    return dataclasses.replace(pair, id=f"{pair.id} ({name})") if counts[pair.id] > 1 else pair


@dataclass(frozen=True, slots=True)
class _Images:
    """Reads an image by sha256, from the set that has it."""

    readers: dict[str, Callable[[str], bytes]]

    def __call__(self, sha: str) -> bytes:
        return self.readers[sha](sha)
