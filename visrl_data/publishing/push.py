"""`visrl push`: turn what the user names into a folder that is ready to be published (release.py).

Finished runs, and datasets that they are merged with, become a dataset folder (dataset.py); a single dataset folder
is published as it is, under a new stamp; a model folder as the copy that model_release.py makes of it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.hub_access import MAKE_ROOM, Say, disk_full
from visrl_data.publishing import model_release, release_plan, space
from visrl_data.publishing.release import Folder, PushOptions, PushResult, default_hub_id, publish
from visrl_data.runs.dataset_folder import is_dataset, open_dataset
from visrl_data.runs.hub_fetch import MERGED, HubDataset, fetch_dataset, is_hub_name
from visrl_data.runs.marks import published_folder
from visrl_data.runs.run_folder import Run


@dataclass(frozen=True, slots=True)
class Card:
    """What the user says about a dataset besides its rows.

    license: for questions whose source states none. ship_images: None embeds those that may be redistributed,
    True all, False none. languages: of the questions, as ISO codes. pad_square: whether rl1 and rl2 hold pictures
    padded to the square; None pads where the actor was shown such.
    """

    license: str | None = None
    ship_images: bool | None = None
    languages: tuple[str, ...] = ()
    pretty_name: str | None = None
    pad_square: bool | None = None


def push(
    what: Sequence[str | Path],
    hub_id: str | None = None,
    tag: str | None = None,
    options: PushOptions | None = None,
    card: Card | None = None,
    output: Path | None = None,
    say: Say = lambda _: None,
    with_base: bool = False,
    with_space: bool = False,
) -> PushResult:
    """Publish runs merged into one dataset, a dataset folder or a model folder.

    what: folders, and USER/NAME@TAG for datasets of the Hub that are merged with the others.
    hub_id: by default that of the first dataset of the Hub, else the user's own name and the name of the first
    folder. output: where a dataset that is built here is kept; without it, it is built in a temporary folder.
    with_base: publish the model under an adapter first, as HUB_ID-base, and name it there. with_space: show the
    report of the run in a Space, HUB_ID-report. Raises VisRLError.
    """
    kinds = [kind_of(one) for one in what]
    alone = kinds[0] if len(kinds) == 1 else ""
    if "model" in kinds and alone != "model":
        raise UsageError("A model folder is published alone. Push it apart from runs and datasets.")
    if alone in ("model", "dataset") and (card or output):
        instead = " The license of a model stands in the head of its README.md." if alone == "model" else ""
        raise UsageError(f"{what[0]} is a {alone} folder; --output and the options of the card are for runs.{instead}")
    if with_base and alone != "model":
        raise UsageError("--with-base is for an adapter, which is published alone.")
    if with_space:
        space.check_request(kinds, options or PushOptions())
    if tag is not None:
        release_plan.check_tag(tag)
    for one, kind in zip(what, kinds, strict=True):
        if kind != "published":
            _refuse_links(Path(one))
        if kind == "run":
            Run(Path(one)).manifest()  # an unfinished run is refused before any request to the Hub
    versions = [str(one).partition("@")[0] for one, kind in zip(what, kinds, strict=True) if kind == "published"]
    if alone == "published" and (hub_id or versions[0]) == versions[0] and not published_folder(versions[0]).is_dir():
        raise UsageError(
            f"{what[0]} is published already. Name what to merge with it, or another --hub-id for a copy; or look at "
            f"it with `visrl audit {what[0]}`: marks are a reason for a new version."
        )
    name = default_hub_id(hub_id or next(iter(versions), None), Path(what[0]).resolve().name)
    options = dataclasses.replace(options or PushOptions(), kind="model" if alone == "model" else "dataset")
    if alone == "dataset":
        return _publish_dataset(Path(what[0]), name, tag, options, with_space, say)
    with tempfile.TemporaryDirectory(prefix="visrl-push-") as temporary:
        if alone == "model":
            return _push_model(Path(what[0]), name, tag, options, Path(temporary), with_base, say)
        if not options.dry_run:
            check_token()
        sources = [
            fetch_dataset(str(one), MERGED, say) if kind == "published" else Path(one)
            for one, kind in zip(what, kinds, strict=True)
        ]
        folder = _build(sources, output or Path(temporary) / "dataset", card or Card(), say)
        return _publish_dataset(folder, name, tag, options, with_space, say)


def _publish_dataset(
    folder: Path, hub_id: str, tag: str | None, options: PushOptions, with_space: bool, say: Say
) -> PushResult:
    """Publish a dataset folder, alone or with its Space."""
    if with_space:
        dataset = _dataset(folder, hub_id, space.space_id(hub_id))
        return space.publish_both(dataset, hub_id, tag, options, say)
    return publish(_dataset(folder, hub_id), hub_id, tag, options, say)


def _refuse_links(folder: Path) -> None:
    """Refuse a link that leads out of the folder: what it leads to would be published."""
    root = folder.resolve()
    for path in sorted(root.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise VisRLError(
                f"{path} is a link that leads out of its folder, to {path.resolve()}, which would be published. "
                "Nothing was sent. Put the file itself there, or remove the link."
            )


def check_token() -> None:
    """Refuse to build a dataset, which can take long, without a token. Whether the Hub accepts it shows later."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise VisRLError(
            "There is no Hub token on this machine, so nothing can be published. Log in with `hf auth login`, or set "
            "HF_TOKEN to a token that may write. Then run the same command again."
        )


def kind_of(what: str | Path) -> str:
    """Return run, dataset or model for a folder, or published for USER/NAME@TAG. Raises VisRLError for none of them.

    A folder that is nothing else counts as a run, which then says what it lacks.
    """
    path = Path(what)
    if not path.is_dir():
        if "@" in str(what) and is_hub_name(str(what)):
            return "published"
        raise VisRLError(
            f"{what}: no such folder. Give finished runs, a dataset folder or a model folder; or USER/NAME@TAG, for a "
            "version on the Hub that is merged with them."
        )
    if is_dataset(path):
        return "dataset"
    return "model" if any((path / name).is_file() for name in ("config.json", "adapter_config.json")) else "run"


def _build(sources: Sequence[Path | HubDataset], folder: Path, card: Card, say: Say) -> Path:
    """Build the dataset of the sources. Title and languages of the first dataset among them stay."""
    from visrl_data.publishing.dataset import Stamp, build_dataset

    names = [str(one) if isinstance(one, Path) else f"{one.name} (commit {one.commit[:12]})" for one in sources]
    say(f"Building the dataset of {', '.join(names)}")
    folders = [one if isinstance(one, Path) else one.folder for one in sources]
    earlier: Mapping[str, Any] = next((open_dataset(one).manifest for one in folders if is_dataset(one)), {})
    stamp = Stamp(
        pretty_name=card.pretty_name or earlier.get("pretty_name"),
        languages=card.languages or tuple(earlier.get("languages") or ()),
    )
    try:
        dataset = build_dataset(
            sources,
            folder,
            stamp,
            license=card.license,
            ship_images=card.ship_images,
            pad_square=card.pad_square,
        )
    except OSError as error:
        if not disk_full(error):
            raise
        raise VisRLError(
            f"The disk of {folder} is full ({error.strerror}). Nothing was sent. {MAKE_ROOM} Or build the dataset "
            f"elsewhere with --output."
        ) from None
    for note in dataset.notes:
        say(note)
    return folder


def _push_model(
    folder: Path, hub_id: str, tag: str | None, options: PushOptions, work: Path, with_base: bool, say: Say
) -> PushResult:
    """Publish a copy of a model folder without what names this machine; the model under an adapter before it."""
    copy = work / "model"
    model_release.copy(folder, copy)
    if with_base:
        address = _push_base(folder, f"{hub_id}-base", options, work / "base", say)
        model_release.name_base(copy, work / "base", address)
    for note in model_release.notes(copy if with_base else folder):
        say(note)
    return publish(_model(folder, copy, hub_id), hub_id, tag, options, say)


def _push_base(adapter: Path, hub_id: str, options: PushOptions, copy: Path, say: Say) -> str:
    """Publish the model under an adapter. Return its address; of a dry run, the one that it would have."""
    base = model_release.local_base(adapter)
    if base is None:
        raise UsageError(f"--with-base: {adapter} is no adapter, or its base is on the Hub already. Leave it out.")
    model_release.copy_base(base, copy)
    say(f"The base, {base.id}, goes to {hub_id}")
    published = publish(_model(base.path, copy, hub_id), hub_id, None, options, say)
    return f"{hub_id}@{published.commit or published.tag}"


def _model(folder: Path, copy: Path, hub_id: str) -> Folder:
    """Return what is published of a copy of a model folder; its stamp is its address and tag."""
    return Folder(copy, lambda tag, previous, changes: model_release.stamp(folder, copy, f"{hub_id}@{tag}"))


def _dataset(folder: Path, hub_id: str, space_id: str | None = None) -> Folder:
    """Take a dataset folder with its stamp and its gates. What its card says besides stays."""
    from visrl_data.publishing.dataset import Stamp, restamp
    from visrl_data.publishing.dataset_checks import check_dataset

    dataset = open_dataset(folder)
    if "rebuilt" in dataset.manifest:
        raise VisRLError(
            f"{folder} was rebuilt with images that its sources do not let others publish. Nothing was sent. If you "
            f"may publish them, push its runs with --ship-images."
        )
    title, languages = dataset.manifest.get("pretty_name"), tuple(dataset.manifest.get("languages") or ())

    def stamp(tag: str, previous: str, changes: tuple[str, ...]) -> None:
        restamp(dataset, Stamp(tag, hub_id, title, languages, previous or None, changes, space_id))

    return Folder(folder, stamp, lambda: check_dataset(folder))
