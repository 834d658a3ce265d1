"""The steps of a release that change the Hub, each done at most once: create, upload, commit, tag; and verify.

release.py puts them in order. Before a step is repeated it is looked up whether it was done after all, so
a lost answer makes no second commit and no second pull request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import attempt
from visrl_data.publishing import hub_state
from visrl_data.publishing.hub_state import Look, Place
from visrl_data.publishing.release_plan import MARK, CardChange, FilePlan, LocalFile, size_text

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete

_TOLD_BY_TAG = ("README.md", *MARK.values())  # what is read once more by the tag


@dataclass(slots=True)
class Held:
    """What the Hub is known to hold of a release, for the message of a failure."""

    created: bool = False
    uploaded: bool = False
    commit: str = ""
    tagged: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """A folder's files under a tag, and what they would change.

    previous: the tag that schema and counts are compared with, "" for none.
    """

    place: Place
    tag: str
    previous: str
    files: tuple[LocalFile, ...]
    plan: FilePlan
    card: CardChange
    held: Held = field(default_factory=Held)

    @property
    def lines(self) -> tuple[str, ...]:
        return (*self.card.lines, *self.plan.lines())


def create_repository(place: Place, private: bool) -> Look:
    """Make the repository. An empty one is left if a later step fails; a rerun goes on with it."""

    def create() -> Look | None:
        place.api.create_repo(**place.named, private=private or None, exist_ok=True)
        return hub_state.look(place)

    made = attempt("creating the repository", create, place.say, lambda: hub_state.look(place))
    if made is None or (private and not made.private):
        raise VisRLError(
            f"{place.id} could not be made as asked: after its creation it "
            f"{'is public' if made else 'cannot be seen with this token'}. No file was sent. See {place.url}, then run "
            f"the same command again, or with another --hub-id."
        )
    return made


def commit_release(release: Release, before: Look) -> str:
    """Upload, then ONE commit on the head that was looked at. Returns its id."""
    place = release.place
    if not before.has_branch:
        _create_branch(place, before.head)
    operations = _upload(release, create_pr=False)

    def arrived() -> str | None:
        now = hub_state.head(place)
        if now in (None, before.head):
            return None
        if not hub_state.differing(place, now, release.files):
            return now
        raise VisRLError(
            f"{place.branch} of {place.id} moved from {before.head[:12]} to {now[:12]} meanwhile: somebody else "
            f"committed. Nothing of this release can be seen on the Hub. Run the same command again; what was "
            f"uploaded is not sent twice."
        )

    def send() -> str:
        return _send(release, operations, before.head, create_pr=False).oid

    return attempt("committing", send, place.say, arrived)


def open_pull_request(release: Release, before: Look) -> str:
    """ONE commit, as a pull request; one that holds just this is taken as it is. Returns its number."""
    place = release.place

    def opened() -> str | None:
        return hub_state.pull_request(place, release.files)

    number = opened()
    if number is not None:
        return number
    operations = _upload(release, create_pr=True)

    def send() -> str:
        return str(_send(release, operations, before.head, create_pr=True).pr_url).rpartition("/")[2]

    return attempt("opening the pull request", send, place.say, opened)


def _create_branch(place: Place, start: str) -> None:
    def create() -> str:
        place.api.create_branch(**place.named, branch=place.branch, revision=start)
        return start

    attempt("creating the branch", create, place.say, lambda: hub_state.head(place))


def _upload(release: Release, create_pr: bool) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Send the large files. They cannot be seen before the commit, and a rerun does not send them again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    place, files = release.place, (*release.plan.add, *release.plan.change)
    additions = [CommitOperationAdd(file.path, str(file.source)) for file in files]
    place.say(f"Sending {len(files)} files, {size_text(sum(file.size for file in files))}")

    def upload() -> None:
        place.api.preupload_lfs_files(
            **place.named, additions=additions, revision=place.branch, create_pr=create_pr, free_memory=False
        )

    attempt("uploading", upload, place.say, delays=())  # the client repeats these itself, for up to minutes
    release.held.uploaded = True
    return [*additions, *(CommitOperationDelete(path, is_folder=False) for path in release.plan.delete)]


def _send(
    release: Release, operations: list[CommitOperationAdd | CommitOperationDelete], parent: str, create_pr: bool
) -> CommitInfo:
    made: CommitInfo = release.place.api.create_commit(
        **release.place.named,
        operations=operations,
        commit_message=f"Release {release.tag}",
        commit_description="\n".join(release.card.lines),
        revision=release.place.branch,
        create_pr=create_pr,
        parent_commit=parent or None,
    )
    return made


def verify_commit(release: Release, commit: str, reload: bool) -> None:
    """Compare the commit with the folder: by the Hub's digests, then by the bytes that a user would get."""
    place = release.place
    others = hub_state.differing(place, commit, release.files)
    if not others and reload:
        place.say(f"Reading {size_text(sum(file.size for file in release.files))} back from commit {commit[:12]}")
        others = hub_state.differing_bytes(place, commit, release.files)
    if others:
        raise VisRLError(
            f"Commit {commit[:12]} of {place.id} does not hold what was sent; other or missing there: {some(others)}. "
            f"It got no tag. See {place.url}/commit/{commit}; a .gitignore there can be the cause. Then run the same "
            f"command again."
        )


def tag_commit(release: Release, commit: str) -> None:
    """ONE tag, on the verified commit; then what it names is read once more, by the tag."""
    place, tag = release.place, release.tag

    def at() -> str | None:
        found = hub_state.tag_commit(place, tag)
        if found in (None, commit):
            return found
        raise VisRLError(
            f"Somebody else made {found[:12]} the {tag} of {place.id} meanwhile, and a tag is never moved. This "
            f"release is commit {commit[:12]}, without a tag. Run the same command with another --tag."
        )

    def create() -> str:
        place.api.create_tag(**place.named, tag=tag, revision=commit)
        return commit

    attempt("tagging", create, place.say, at)
    release.held.tagged = True
    told = [file for file in release.files if file.path in _TOLD_BY_TAG]
    named = hub_state.commit_of(place, tag)
    if named != commit or hub_state.differing_bytes(place, tag, told):
        raise VisRLError(
            f"{place.id} at {tag} reads otherwise than the commit {commit[:12]} that was verified and tagged "
            f"(it names {named[:12]}). Look at {place.url}/tree/{tag}; the same command looks once more."
        )


def some(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
