"""A repository on the Hub: read what it holds, and change it by steps that are each done at most once.

A step that changes the Hub looks first whether it was done already, so a lost response makes no second commit and
no second pull request. release.py puts the steps in order.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import file_digest
from visrl_data.core.hub_access import AGAIN, Say, attempt, within
from visrl_data.publishing.release_plan import MARK, FilePlan, LocalFile, git_blob, plan_files, size_text, some

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

    Operations = list[CommitOperationAdd | CommitOperationDelete]

T = TypeVar("T")
_PATIENCE = 120.0  # seconds for a file that is read back, and a second more for each _SLOWEST bytes of it
_SLOWEST = 100_000
_HISTORY = 1000  # commits in which the last tag is looked for


@dataclass(frozen=True, slots=True)
class RepoRef:
    """A branch of a repository. kind: dataset, model or space. say: told when something is tried again."""

    api: HfApi = field(repr=False)
    id: str
    kind: str
    branch: str
    say: Say = field(repr=False)

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'' if self.kind == 'model' else f'{self.kind}s/'}{self.id}"

    @property
    def address(self) -> dict[str, Any]:
        """Return the arguments by which the client's functions know it."""
        return {"repo_id": self.id, "repo_type": self.kind}

    def read(self, step: str, call: Callable[[], T], delays: tuple[float, ...] | None = None) -> T:
        return attempt(step, call, self.say, delays)

    def write(self, step: str, call: Callable[[], T]) -> T:
        return attempt(step, call, self.say, writes=True)


@dataclass(frozen=True, slots=True)
class RepoState:
    """What a repository holds. head: commit of the branch, or of main where there is no such branch yet.

    files: path -> digest at the head. tags: name -> commit. exists: False for one that is to be created.
    untouched: a Space in which nobody has committed anything yet.
    """

    exists: bool = False
    private: bool = False
    head: str = ""
    has_branch: bool = False
    files: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    untouched: bool = False


def look(repo: RepoRef) -> RepoState:
    """Read what the repository holds now."""
    refs = repo.read("looking at the repository", lambda: read_refs(repo))
    if refs is None:
        return RepoState()
    info = repo.read("looking at the repository", lambda: repo.api.repo_info(**repo.address))
    head = refs.get(f"refs/heads/{repo.branch}") or refs.get("refs/heads/main", "")
    return RepoState(
        exists=True,
        private=bool(info.private),
        head=head,
        has_branch=f"refs/heads/{repo.branch}" in refs,
        files=list_files(repo, head) if head else {},
        tags={ref.removeprefix("refs/tags/"): at for ref, at in refs.items() if ref.startswith("refs/tags/")},
        untouched=repo.kind == "space" and _titles(repo) == ["initial commit"],
    )


def _titles(repo: RepoRef) -> list[str]:
    """Read the titles of the commits on main."""
    commits = repo.read("reading the history", lambda: repo.api.list_repo_commits(**repo.address), AGAIN)
    return [entry.title for entry in commits]


def read_refs(repo: RepoRef, pull_requests: bool = False) -> dict[str, str] | None:
    """Read the commit of each ref (refs/heads/main, refs/tags/v1.0, refs/pr/1); None when there is no repository."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        refs = repo.api.list_repo_refs(**repo.address, include_pull_requests=pull_requests)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 404:
            return None
        raise  # the client says "not found" of a 401 too
    return {ref.ref: ref.target_commit for ref in [*refs.branches, *refs.tags, *(refs.pull_requests or [])]}


def list_files(repo: RepoRef, commit: str) -> dict[str, str]:
    """Read path -> digest of a commit's files."""
    return repo.read("reading the list of files", lambda: _digests(repo, commit), AGAIN)


def _digests(repo: RepoRef, commit: str) -> dict[str, str]:
    """Read path -> sha256 of large files, git's blob id of the others."""
    from huggingface_hub.hf_api import RepoFile

    entries = repo.api.list_repo_tree(**repo.address, recursive=True, revision=commit)
    return {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}


def differing(repo: RepoRef, commit: str, files: Iterable[LocalFile]) -> list[str]:
    """Return the paths that a commit lacks, has otherwise, or still has, by the Hub's digests."""
    plan = plan_files(files, _digests(repo, commit), repo.kind)
    return [*(file.path for file in (*plan.add, *plan.change)), *plan.delete]


def differing_bytes(repo: RepoRef, revision: str, files: Iterable[LocalFile]) -> list[str]:
    """Return the paths whose content differs when downloaded into a fresh cache. One file at a time is on the disk."""
    others = []
    with tempfile.TemporaryDirectory(prefix="visrl-reload-", ignore_cleanup_errors=True) as cache:
        for file in files:
            fetch = functools.partial(_download, repo, file.path, revision, cache, file.size)
            copy = repo.read(f"reading {file.path} back", fetch, AGAIN)
            if file_digest(copy) != file.sha256:
                others.append(file.path)
            copy.unlink()
    return others


def _download(repo: RepoRef, path: str, revision: str, cache: str, size: int) -> Path:
    """Download a file of `size` bytes. Raises HubFailure when it takes longer than a slow connection needs."""
    arguments = {**repo.address, "filename": path, "revision": revision, "cache_dir": cache}
    seconds = _PATIENCE + size / _SLOWEST
    return Path(within(seconds, path, lambda: repo.api.hf_hub_download(**arguments))).resolve()


def read_card(repo: RepoRef, commit: str) -> str:
    """Read a commit's README.md, checked against its digest; "" when it has none."""

    def read() -> str:
        digest = _digests(repo, commit).get("README.md")
        if digest is None:
            return ""
        with tempfile.TemporaryDirectory(prefix="visrl-card-", ignore_cleanup_errors=True) as cache:
            data = _download(repo, "README.md", commit, cache, 0).read_bytes()
        if digest not in (git_blob(data), hashlib.sha256(data).hexdigest()):
            raise ConnectionError("README.md arrived damaged")
        return data.decode("utf-8")

    return repo.read("reading the last card", read, AGAIN)


def last_tag(repo: RepoRef, commit: str, tags: dict[str, str]) -> str:
    """Return the one of `tags` that is nearest in the history of a commit, itself included; "" when there is none."""
    names = {at: name for name, at in sorted(tags.items())}

    def nearest() -> str:
        history = itertools.islice(repo.api.list_repo_commits(**repo.address, revision=commit), _HISTORY)
        return next((names[entry.commit_id] for entry in history if entry.commit_id in names), "")

    return repo.read("reading the history", nearest, AGAIN) if tags else ""


def create_repository(repo: RepoRef, private: bool) -> RepoState:
    """Create the repository. An empty one stays when a later step fails; a rerun uses it."""

    arguments = {**repo.address, "private": private or None}
    if repo.kind == "space":
        arguments["space_sdk"] = "static"
    repo.write("creating the repository", lambda: repo.api.create_repo(**arguments, exist_ok=True))
    state = look(repo)
    if not state.exists or (private and not state.private):
        raise VisRLError(
            f"{repo.id} could not be created as asked: after its creation it "
            f"{'is public' if state.exists else 'cannot be seen with this token'}. No file was sent. See {repo.url}, "
            f"then run the same command again, or with another --hub-id."
        )
    return state


def create_branch(repo: RepoRef, start: str) -> None:
    """Create the branch at a commit, unless it exists."""
    arguments = {**repo.address, "branch": repo.branch, "revision": start}
    repo.write("creating the branch", lambda: repo.api.create_branch(**arguments, exist_ok=True))


def commit(repo: RepoRef, plan: FilePlan, files: Iterable[LocalFile], parent: str, message: str) -> str:
    """Make ONE commit on the head that was read. Returns its id. Raises VisRLError when somebody else committed."""
    operations = _upload(repo, plan, create_pr=False)

    def send() -> str:
        head = (read_refs(repo) or {}).get(f"refs/heads/{repo.branch}")
        if head is None or head == parent:
            return _send(repo, operations, parent, message, create_pr=False).oid
        if not differing(repo, head, files):
            return head
        raise VisRLError(
            f"{repo.branch} of {repo.id} moved from {parent[:12]} to {head[:12]} meanwhile: somebody else "
            f"committed. Nothing of this release can be seen on the Hub. Run the same command again; what was "
            f"uploaded is not sent twice."
        )

    return repo.write("committing", send)


def open_pull_request(
    repo: RepoRef, plan: FilePlan, files: Iterable[LocalFile], parent: str, message: str
) -> tuple[int, str]:
    """Make ONE commit, as a pull request, unless one holds just this. Returns its number and commit."""
    if existing := repo.read("looking at the pull requests", lambda: _find_pull_request(repo, files)):
        return existing
    operations = _upload(repo, plan, create_pr=True)

    def send() -> tuple[int, str]:
        if opened := _find_pull_request(repo, files):
            return opened
        commit = _send(repo, operations, parent, message, create_pr=True)
        return int(str(commit.pr_url).rpartition("/")[2]), commit.oid

    return repo.write("opening the pull request", send)


def _find_pull_request(repo: RepoRef, files: Iterable[LocalFile]) -> tuple[int, str] | None:
    """Return number and commit of a pull request that holds just these files, the latest first."""
    from huggingface_hub.errors import RevisionNotFoundError

    refs = read_refs(repo, pull_requests=True) or {}
    pulls = {int(ref.removeprefix("refs/pr/")): at for ref, at in refs.items() if ref.startswith("refs/pr/")}
    for number in sorted(pulls, reverse=True):
        with contextlib.suppress(RevisionNotFoundError):  # of a pull request that was closed
            if not differing(repo, pulls[number], files):
                return number, pulls[number]
    return None


def _upload(repo: RepoRef, plan: FilePlan, create_pr: bool) -> Operations:
    """Send the large files. They cannot be seen before the commit, and a rerun does not send them again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = (*plan.add, *plan.change)
    additions = [CommitOperationAdd(file.path, str(file.source)) for file in files]
    repo.say(f"Sending {len(files)} files, {size_text(sum(file.size for file in files))}")
    arguments = {**repo.address, "additions": additions, "revision": repo.branch, "create_pr": create_pr}
    repo.read("uploading", lambda: repo.api.preupload_lfs_files(**arguments, free_memory=False), ())
    return [*additions, *(CommitOperationDelete(path, is_folder=False) for path in plan.delete)]


def _send(repo: RepoRef, operations: Operations, parent: str, message: str, create_pr: bool) -> CommitInfo:
    title, _, description = message.partition("\n")
    commit: CommitInfo = repo.api.create_commit(
        **repo.address,
        operations=operations,
        commit_message=title,
        commit_description=description,
        revision=repo.branch,
        create_pr=create_pr,
        parent_commit=parent or None,
    )
    return commit


def verify(repo: RepoRef, commit: str, files: tuple[LocalFile, ...], reload: bool) -> None:
    """Compare a commit with the folder: by the Hub's digests, then by the bytes that a user would get."""
    others = repo.read("reading the list of files", lambda: differing(repo, commit, files), AGAIN)
    if not others and reload:
        repo.say(f"Reading {size_text(sum(file.size for file in files))} back from commit {commit[:12]}")
        others = differing_bytes(repo, commit, files)
    if others:
        raise VisRLError(
            f"Commit {commit[:12]} of {repo.id} does not hold what was sent; different or missing there: "
            f"{some(others)}. It got no tag. See {repo.url}/commit/{commit}; a .gitignore there can be the cause. "
            f"Then run the same command again."
        )


def create_tag(repo: RepoRef, tag: str, commit: str) -> None:
    """Create ONE tag, on a verified commit. Raises VisRLError when somebody else took it."""

    def create() -> str:
        at = (read_refs(repo) or {}).get(f"refs/tags/{tag}")
        if at is None:
            repo.api.create_tag(**repo.address, tag=tag, revision=commit)
        return at or commit

    at = repo.write("tagging", create)
    if at != commit:
        raise VisRLError(
            f"Somebody else made {at[:12]} the {tag} of {repo.id} meanwhile, and a tag is never moved. This "
            f"release is commit {commit[:12]}, without a tag. Run the same command with another --tag."
        )


def verify_tag(repo: RepoRef, tag: str, commit: str, files: Iterable[LocalFile]) -> None:
    """Read card and manifest once more, by the tag."""
    at = repo.read(f"looking up {tag}", lambda: repo.api.repo_info(**repo.address, revision=tag).sha or "")
    marks = [file for file in files if file.path in ("README.md", MARK[repo.kind])]
    if at != commit or differing_bytes(repo, tag, marks):
        raise VisRLError(
            f"{repo.id} at {tag} (commit {at[:12]}) differs from commit {commit[:12]}, which was verified and tagged. "
            f"See {repo.url}/tree/{tag}; the same command checks again."
        )
