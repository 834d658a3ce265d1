"""The Space beside a dataset: the page of its run, to be looked at before anything is downloaded.

    README.md     `sdk: static`, and the version of the dataset that the page is about
    index.html    report.html of the dataset, to the byte
    report.json   the figures; by this file a Space is known as one of ours

A release like any other (release.py), with the tag of the dataset: all that could refuse it is looked at before the
dataset is sent, and it is sent after the dataset was tagged.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import file_digest, write_text
from visrl_data.core.hub_access import HubFailure, Say, careful_client, hub_api
from visrl_data.core.text import markdown, one_line
from visrl_data.publishing import hub_repo, release_plan
from visrl_data.publishing.hub_repo import RepoRef
from visrl_data.publishing.release import Folder, PushOptions, PushResult, publish
from visrl_data.report.page import is_ours
from visrl_data.runs.dataset_folder import open_dataset
from visrl_data.runs.manifest import DatasetManifest

_TITLE = 60  # characters


def check_request(kinds: Sequence[str], options: PushOptions) -> None:
    """Refuse a Space for what has no report of one run, or is no version on main. Raises UsageError."""
    if kinds not in (["run"], ["dataset"]):
        raise UsageError("--space shows the report of a single run. Give one run, or leave --space out.")
    if options.create_pr or options.branch != "main":
        raise UsageError(
            "--space shows a version on main. Leave it out with --branch and --create-pr; after the merge, run "
            "`visrl push RUN --space`."
        )


def space_id(hub_id: str) -> str:
    """Return the id of the Space beside a dataset. Raises UsageError when the dataset's name is too long for one."""
    name = f"{hub_id}-report"
    release_plan.check_hub_id(name)
    return name


def publish_both(dataset: Folder, hub_id: str, tag: str | None, options: PushOptions, say: Say) -> PushResult:
    """Publish a dataset, then its Space under the same tag. Raises VisRLError: which of them the Hub holds."""
    with tempfile.TemporaryDirectory(prefix="visrl-space-") as work:
        page, name = _make_folder(dataset.path, Path(work), hub_id), space_id(hub_id)
        own = dataclasses.replace(options, kind="space", private=options.private or _is_private(hub_id, say))
        if not options.dry_run:
            publish(page, name, tag, dataclasses.replace(own, dry_run=True))
        published = publish(dataset, hub_id, tag, options, say)
        try:
            return dataclasses.replace(published, space=publish(page, name, published.tag, own, say))
        except VisRLError as error:
            if options.dry_run:
                raise
            raise VisRLError(
                f"The dataset is on the Hub: {published.url}/tree/{published.tag}. Its Space, {name}, is not finished; "
                f"the same command with --tag {published.tag} finishes it, and sends no data again.\n{error}"
            ) from None


def _is_private(hub_id: str, say: Say) -> bool:
    """Tell whether a dataset that is on the Hub already is private: so must be what shows its pictures."""
    try:
        with careful_client():
            return hub_repo.look(RepoRef(hub_api(), hub_id, "dataset", "main", say)).private
    except HubFailure as error:
        raise VisRLError(
            f"Publishing to {hub_id} failed while {error.step}: {error.reason}.\nNothing was sent.\n"
            f"{error.hint} Then run the same command again."
        ) from None


def _make_folder(dataset: Path, work: Path, hub_id: str) -> Folder:
    """Make the Space of a dataset folder. Raises VisRLError when its page may not be shown."""
    manifest = open_dataset(dataset).manifest
    _check_page(dataset, manifest)
    shutil.copyfile(dataset / "report.html", work / "index.html")
    shutil.copyfile(dataset / "report.json", work / "report.json")

    def stamp(tag: str, previous: str, changes: tuple[str, ...]) -> None:
        write_text(work / "README.md", render_readme(manifest, hub_id, tag))

    stamp("", "", ())
    return Folder(work, stamp)


def _check_page(folder: Path, manifest: DatasetManifest) -> None:
    """Refuse a dataset that does not publish each of its pictures, or has no page that visrl made."""
    if any(source["withheld"] for source in manifest["license"]["sources"]):
        why = "--no-ship-images" if manifest["ship_images"] is False else "nobody said that they may be redistributed"
        raise VisRLError(
            f"--space shows pictures of the run, and some of its images are not published: {why}. Nothing was sent. "
            f"If you may redistribute them, push the run with --ship-images; else leave --space out."
        )
    page = folder / "report.html"
    if not page.is_file():
        raise VisRLError(
            f"--space shows the report of a single run, and {folder} has no report.html: it was merged, or built "
            f"by an earlier visrl. Nothing was sent. Give the run itself, or leave --space out."
        )
    if file_digest(page) != manifest["sha256"].get("report.html") or not is_ours(page.read_text("utf-8", "replace")):
        raise VisRLError(
            f"{page} is not the page that this visrl wrote. Nothing was sent. Give the run itself: "
            f"`visrl push RUN --space`."
        )


def render_readme(manifest: DatasetManifest, hub_id: str, tag: str) -> str:
    """Return README.md of the Space: what the Hub reads at its head, and the way back to the dataset."""
    from huggingface_hub import SpaceCardData

    title = one_line(manifest["pretty_name"] or hub_id.partition("/")[2], _TITLE)
    license = manifest["license"]["id"]
    head = SpaceCardData(
        title=title,
        emoji="🔎",
        colorFrom="green",
        colorTo="red",
        sdk="static",
        app_file="index.html",
        pinned=False,
        license=license if license != "other" else None,
        datasets=[hub_id],
        tags=["visrl"],
    )
    address = f"https://huggingface.co/datasets/{hub_id}"
    return (
        f"---\n{head.to_yaml()}\n---\n\n# {markdown(title)}\n\n"
        f"The report of the run behind [{hub_id}]({address}/tree/{tag}), version `{tag}`, with a gallery of its\n"
        f"pairs. `index.html` is the `report.html` of that version, `report.json` its figures. The pictures keep the\n"
        f"licenses that the [card]({address}) names.\n"
    )
