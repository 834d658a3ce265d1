"""What a repository on the Hub holds: refs, files with digests, last tag, content. Reads only.

Used by release.py to decide what to send, whether a step was done, and whether what arrived is right.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visrl_data.core.files import file_digest
from visrl_data.core.hub_access import AGAIN, HubFailure, attempt
from visrl_data.publishing.release_plan import LocalFile, git_blob, plan_files

if TYPE_CHECKING:
    from huggingface_hub import GitRefs, HfApi

_HISTORY = 1000  # commits in which the last tag is looked for


@dataclass(frozen=True, slots=True)
class Place:
    """A branch of a repository. kind: dataset or model. say: told when something is tried again."""

    api: HfApi = field(repr=False)
    id: str
    kind: str
    branch: str
    say: Callable[[str], None] = field(repr=False)

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    @property
    def named(self) -> dict[str, Any]:
        """How the client's functions take it."""
        return {"repo_id": self.id, "repo_type": self.kind}


@dataclass(frozen=True, slots=True)
class Look:
    """What a repository holds. head: commit of the branch, or of main where there is no such branch yet.

    files: path -> digest at the head. tags: name -> commit. exists: False for one that is to be made.
    """

    exists: bool = False
    private: bool = False
    head: str = ""
    has_branch: bool = False
    files: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def look(place: Place) -> Look | None:
    """The repository as it is now; None when there is none that the token can see."""
    found = refs(place)
    if found is None:
        return None
    info = attempt("looking at the repository", lambda: place.api.repo_info(**place.named), place.say)
    heads = {ref.name: ref.target_commit for ref in found.branches}
    head = heads.get(place.branch) or heads.get("main", "")
    return Look(
        exists=True,
        private=bool(info.private),
        head=head,
        has_branch=place.branch in heads,
        files=digests(place, head) if head else {},
        tags={ref.name: ref.target_commit for ref in found.tags},
    )


def refs(place: Place, pull_requests: bool = False) -> GitRefs | None:
    """Branches and tags; None when there is no repository."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def listed() -> GitRefs | None:
        try:
            return place.api.list_repo_refs(**place.named, include_pull_requests=pull_requests)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 404:
                return None
            raise  # the client says "not found" of a 401 too

    return attempt("looking at the repository", listed, place.say)


def head(place: Place) -> str | None:
    """The commit that the branch is at now; None without such a branch."""
    found = refs(place)
    return next((ref.target_commit for ref in found.branches if ref.name == place.branch), None) if found else None


def tag_commit(place: Place, tag: str) -> str | None:
    """The commit that a tag names; None without such a tag."""
    found = refs(place)
    return next((ref.target_commit for ref in found.tags if ref.name == tag), None) if found else None


def digests(place: Place, commit: str) -> dict[str, str]:
    """path -> digest of a commit's files: sha256 of large ones, git's blob id of the others."""
    from huggingface_hub.hf_api import RepoFile

    def listed() -> dict[str, str]:
        entries = place.api.list_repo_tree(**place.named, recursive=True, revision=commit)
        return {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}

    return attempt("reading the list of files", listed, place.say, delays=AGAIN)


def differing(place: Place, commit: str, files: Iterable[LocalFile]) -> list[str]:
    """Paths that a commit has not, has otherwise, or has still, by the Hub's digests."""
    plan = plan_files(files, digests(place, commit), place.kind)
    return [*(file.path for file in (*plan.add, *plan.change)), *plan.delete]


def differing_bytes(place: Place, revision: str, files: Iterable[LocalFile]) -> list[str]:
    """Paths whose content differs when it is downloaded into a fresh cache. One file at a time is on the disk."""
    others = []
    with tempfile.TemporaryDirectory(prefix="visrl-reload-") as cache:
        for file in files:
            named = {**place.named, "filename": file.path, "revision": revision, "cache_dir": cache}
            fetch = functools.partial(place.api.hf_hub_download, **named)
            got = Path(attempt(f"reading {file.path} back", fetch, place.say, delays=AGAIN)).resolve()
            if file_digest(got) != file.sha256:
                others.append(file.path)
            got.unlink()
    return others


def read_card(place: Place, commit: str) -> str:
    """The text of a commit's README.md, checked against its digest; "" when it has none."""
    listed = digests(place, commit).get("README.md")
    if listed is None:
        return ""

    def fetch() -> str:
        with tempfile.TemporaryDirectory(prefix="visrl-card-") as cache:
            file = place.api.hf_hub_download(**place.named, filename="README.md", revision=commit, cache_dir=cache)
            data = Path(file).read_bytes()
        if listed not in (git_blob(data), hashlib.sha256(data).hexdigest()):
            raise ConnectionError("README.md arrived damaged")
        return data.decode("utf-8")

    return attempt("reading the last card", fetch, place.say, delays=AGAIN)


def tag_before(place: Place, commit: str, tags: dict[str, str]) -> str:
    """The one of `tags` that is nearest in the history of a commit, itself included; "" when there is none."""
    if not tags:
        return ""
    names = {at: name for name, at in sorted(tags.items())}

    def nearest() -> str:
        commits = place.api.list_repo_commits(**place.named, revision=commit)
        seen = (found.commit_id for found in itertools.islice(commits, _HISTORY))
        return next((names[found] for found in seen if found in names), "")

    return attempt("reading the history", nearest, place.say, delays=AGAIN)


def commit_of(place: Place, revision: str) -> str:
    """The commit that a tag, branch or pull request names."""
    info = attempt(f"looking up {revision}", lambda: place.api.repo_info(**place.named, revision=revision), place.say)
    return info.sha or ""


def pull_request(place: Place, files: Iterable[LocalFile]) -> str | None:
    """The number of a pull request that holds just these files, the latest first."""
    found = refs(place, pull_requests=True)
    numbers = {ref.ref.rpartition("/")[2]: ref.target_commit for ref in (found and found.pull_requests) or []}
    for number in sorted(numbers, key=int, reverse=True):
        try:
            if not differing(place, numbers[number], files):
                return number
        except HubFailure as error:
            if error.failure.status != 404:
                raise
    return None
