"""`visrl push`: from what the user names to a folder that is ready to be published (publishing.py).

Finished runs become a dataset folder (dataset.py); a dataset folder goes out as it is, under a new stamp; of a
model folder go out the safetensors weights, the configuration, the tokenizer and the card.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data import release_plan
from visrl_data.errors import UsageError, VisRLError
from visrl_data.hub_access import MAKE_ROOM, disk_full
from visrl_data.publishing import Folder, Published, PushOptions, default_hub_id, publish
from visrl_data.store import Run

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Card:
    """What the user decides about a dataset besides its rows.

    license: for questions whose source states none. ship_images: None embeds those that may be redistributed,
    True all, False none. languages: of the questions, as ISO codes.
    """

    license: str | None = None
    ship_images: bool | None = None
    languages: tuple[str, ...] = ()
    pretty_name: str | None = None


def push(
    paths: Sequence[Path],
    hub_id: str | None = None,
    tag: str | None = None,
    options: PushOptions | None = None,
    card: Card | None = None,
    output: Path | None = None,
    say: Say = lambda _: None,
) -> Published:
    """Publish runs, a dataset folder or a model folder.

    hub_id: by default the user's own name and the name of the first path. output: where a dataset that is built
    from runs is kept; without it, it is built in a temporary folder. Raises VisRLError.
    """
    for path in paths:
        if not path.is_dir():
            raise VisRLError(f"{path}: no such folder. Give finished runs, a dataset folder or a model folder.")
    kinds = {kind_of(path) for path in paths}
    if len(kinds) > 1 or (len(paths) > 1 and kinds != {"run"}):
        raise UsageError("Give runs, which become one dataset, or else a single dataset or model folder.")
    [kind] = kinds
    if kind != "run" and (card or output):
        raise UsageError(f"{paths[0]} is a {kind} folder; --output and the options of the card are for runs.")
    if tag is not None:
        release_plan.check_tag(tag)
    if kind == "run":
        for path in paths:
            Run(path).manifest()  # an unfinished run is refused before anything is asked of the Hub
    name = default_hub_id(hub_id, paths[0].resolve().name)
    options = dataclasses.replace(options or PushOptions(), kind="model" if kind == "model" else "dataset")
    if kind == "model":
        for note in release_plan.model_notes(paths[0]):
            say(note)
        return publish(Folder(paths[0]), name, tag, options, say)
    if kind == "dataset":
        return publish(_dataset(paths[0], name), name, tag, options, say)
    with tempfile.TemporaryDirectory(prefix="visrl-push-") as temporary:
        folder = _build(paths, output or Path(temporary) / "dataset", card or Card(), say)
        return publish(_dataset(folder, name), name, tag, options, say)


def kind_of(path: Path) -> str:
    """run, dataset or model. Whatever else it is, it is taken for a run, which then says what it lacks."""
    from visrl_data.dataset_folder import is_dataset

    if is_dataset(path):
        return "dataset"
    return "model" if any((path / name).is_file() for name in ("config.json", "adapter_config.json")) else "run"


def _build(runs: Sequence[Path], folder: Path, card: Card, say: Say) -> Path:
    from visrl_data.dataset import Release, build_dataset

    say(f"Building the dataset of {len(runs)} run{'s' * (len(runs) > 1)}")
    stated = Release(pretty_name=card.pretty_name, languages=card.languages)
    try:
        built = build_dataset(runs, folder, stated, license=card.license, ship_images=card.ship_images)
    except OSError as error:
        if not disk_full(error):
            raise
        raise VisRLError(
            f"The disk of {folder} is full ({error.strerror}). Nothing was sent. {MAKE_ROOM} Or build the dataset "
            f"elsewhere with --output."
        ) from None
    for note in built.notes:
        say(note)
    return folder


def _dataset(folder: Path, hub_id: str) -> Folder:
    """A dataset folder with its stamp and its gates. What its card says besides stays."""
    from visrl_data.checking import check_dataset
    from visrl_data.dataset import Release, stamp
    from visrl_data.dataset_folder import open_dataset

    dataset = open_dataset(folder)
    if "rebuilt" in dataset.manifest:
        raise VisRLError(
            f"{folder} was rebuilt with images that its sources do not let others publish. Nothing was sent. If you "
            f"may publish them, push its runs with --ship-images."
        )
    kept = {key: dataset.manifest.get(key) for key in ("pretty_name", "languages")}

    def stamped(tag: str, previous: str, changes: tuple[str, ...]) -> None:
        stamp(
            dataset,
            Release(tag, hub_id, kept["pretty_name"], tuple(kept["languages"] or ()), previous or None, changes),
        )

    return Folder(folder, stamped, lambda: check_dataset(folder))
