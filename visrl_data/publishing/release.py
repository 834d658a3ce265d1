"""The release: a finished folder becomes one commit and one tag on the Hub, read back before it is called done.

    read      refs, files and last tag of the repository (hub_repo.py); what would change (release_plan.py)
    stamp     the tag and the changes, on the card and the manifest
    refuse    a tag that exists with other content, a breaking schema change, a repository that is not ours
    upload    large files; invisible until the commit (this and the rest: hub_repo.py)
    commit    ONE: data, card, manifest, report and deletions, on the head that was read
    verify    the Hub's digests of the commit, then every file downloaded into a fresh cache
    tag       ONE, on the verified commit; never moved
    reload    by the tag

Every step looks first at what is there already, so a rerun continues where the last one stopped, and the same
content pushed again changes nothing. hub_access.py repeats what may pass and words what does not.
push.py prepares the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import HubFailure, Say, attempt, careful_client, diagnose, disk_full, hub_api
from visrl_data.publishing import hub_repo, release_plan
from visrl_data.publishing.hub_repo import RepoRef, RepoState
from visrl_data.publishing.release_plan import CardChange, FilePlan, LocalFile, some


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to publish.

    kind: dataset, model or space. private: make the repository private, and refuse one that is public.
    branch: where the commit goes. create_pr: propose it as a pull request, without a tag.
    reload: download everything again before the tag; otherwise the Hub's own digests are trusted.
    """

    kind: str = "dataset"
    private: bool = False
    branch: str = "main"
    create_pr: bool = False
    allow_schema_change: bool = False
    dry_run: bool = False
    reload: bool = True


@dataclass(frozen=True, slots=True)
class Folder:
    """What is published. stamp: write tag, previous tag ("" for none) and changes on card and manifest.

    check: the gates, run on the stamped folder before anything is sent; raises VisRLError.
    """

    path: Path
    stamp: Callable[[str, str, tuple[str, ...]], None] = lambda tag, previous, changes: None
    check: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class PushResult:
    """state: published | tagged (the commit was there) | unchanged (the tag too) | proposed | dry-run.

    changes: the differences, a line each. pull_request: its address, when proposed. space: the Space beside a dataset.
    """

    hub_id: str
    kind: str
    state: str
    tag: str | None
    commit: str | None
    url: str
    changes: tuple[str, ...] = ()
    pull_request: str | None = None
    space: PushResult | None = None


@dataclass(slots=True)
class Release:
    """A folder's files under a tag, and what they would change.

    previous: the tag that schema and counts are compared with, "" for none.
    holds: what the Hub is known to hold of it, for the message of a failure.
    """

    repo: RepoRef
    folder: Folder
    options: PushOptions
    holds: str
    files: tuple[LocalFile, ...]
    tag: str = ""
    previous: str = ""
    plan: FilePlan = FilePlan()
    card: CardChange = CardChange()

    @property
    def lines(self) -> tuple[str, ...]:
        return (*self.card.lines, *self.plan.lines())

    def done(self, state: str, commit: str | None, pull_request: str | None = None) -> PushResult:
        tag, repo = None if state == "proposed" else self.tag, self.repo
        return PushResult(repo.id, repo.kind, state, tag, commit, repo.url, self.lines, pull_request)


def publish(
    folder: Folder,
    hub_id: str,
    tag: str | None = None,
    options: PushOptions = PushOptions(),
    say: Say = lambda _: None,
) -> PushResult:
    """Publish a finished dataset, model or Space folder as one commit and one tag.

    tag: None takes the tag that the same content has, or else the next of v1.0, v1.1, ... (v2.0 after a
    breaking change). say: told each step. Raises VisRLError: what went wrong, what the Hub holds, what to do.
    """
    release_plan.check_hub_id(hub_id)
    if tag is not None:
        release_plan.check_tag(tag)
    repo = RepoRef(hub_api(), hub_id, options.kind, options.branch, say)
    files = release_plan.local_files(folder.path, options.kind)
    release = Release(repo, folder, options, f"Nothing of this release is in {hub_id}.", files)
    try:
        with careful_client():
            return _publish(release, tag)
    except HubFailure as error:
        raise VisRLError(_message(release, error)) from None
    except OSError as error:
        if not disk_full(error):
            raise
        failure = diagnose(error)
        failure.step = "writing to this disk"
        raise VisRLError(_message(release, failure)) from None


def default_hub_id(hub_id: str | None, name: str) -> str:
    """Return the repository's id: `hub_id` or else `name`, with the user's own name in front where that is missing.

    Raises UsageError for a name that the Hub does not take, VisRLError without a token that it accepts.
    """
    hub_id = hub_id or release_plan.repo_name(name)
    if "/" not in hub_id:
        release_plan.check_hub_id(hub_id, owner="user")
        try:
            hub_id = f"{attempt('asking for your name', hub_api().whoami)['name']}/{hub_id}"
        except HubFailure as error:
            raise VisRLError(
                f"Your name on the Hub could not be looked up: {error.reason}. Nothing was sent.\n"
                f"{error.hint} Then run the same command again."
            ) from None
    release_plan.check_hub_id(hub_id)
    return hub_id


def _publish(release: Release, tag: str | None) -> PushResult:
    repo, options = release.repo, release.options
    state = hub_repo.look(repo)
    known = tag or hub_repo.last_tag(repo, state.head, state.tags)
    if known in state.tags and _is_tagged(release, state, known):
        repo.say(f"{repo.id} holds exactly this as {known} already; nothing to do.")
        return release.done("unchanged", state.tags[known])
    if tag in state.tags:
        raise VisRLError(
            f"{repo.id} has a tag {tag} already, with other content, and a tag is never moved. Nothing was sent. "
            f"Choose another --tag, or none for the next number."
        )
    _compare(release, state, tag, state.head, state.tags)
    _show(release, state)
    _refuse(release, state)
    release.folder.check()
    if options.dry_run:
        repo.say("Nothing was sent (--dry-run).")
        return release.done("dry-run", None)
    if not state.exists:
        state = hub_repo.create_repository(repo, options.private)
        release.holds = f"{repo.id} was created; nothing of this release is in it."
        _compare(release, state, tag, state.head, state.tags)
        _refuse(release, state)
    message = "\n".join((f"Release {release.tag}", *release.card.lines))
    if options.create_pr:
        return _propose(release, state, message)
    commit = state.head
    if not release.plan.is_empty:
        if not state.has_branch:
            hub_repo.create_branch(repo, state.head)
        commit = hub_repo.commit(repo, release.plan, release.files, state.head, message)
    _verify(release, commit)
    hub_repo.create_tag(repo, release.tag, commit)
    release.holds = f"{repo.id} holds it as commit {commit[:12]}, verified, and took the tag; a last check failed."
    hub_repo.verify_tag(repo, release.tag, commit, release.files)
    return release.done("tagged" if release.plan.is_empty else "published", commit)


def _propose(release: Release, state: RepoState, message: str) -> PushResult:
    """Open a pull request. The tag comes after its merge, when the same command finds the content on the branch."""
    repo = release.repo
    if release.plan.is_empty:
        repo.say("There is nothing to propose. Without --create-pr the same command tags it.")
        return release.done("unchanged", state.head)
    number, commit = hub_repo.open_pull_request(repo, release.plan, release.files, state.head, message)
    _verify(release, commit)
    url = f"{repo.url}/discussions/{number}"
    repo.say(f"Proposed as {url}. After its merge the same command without --create-pr tags it.")
    return release.done("proposed", commit, url)


def _verify(release: Release, commit: str) -> None:
    release.holds = f"{release.repo.id} holds it as commit {commit[:12]}, without a tag."
    hub_repo.verify(release.repo, commit, release.files, release.options.reload)


def _is_tagged(release: Release, state: RepoState, tag: str) -> bool:
    """Tell whether a tag that exists names the release as it would have been made under that tag."""
    commit = state.tags[tag]
    _compare(release, state, tag, commit, {name: at for name, at in state.tags.items() if at != commit})
    return release.plan.is_empty


def _compare(release: Release, state: RepoState, tag: str | None, commit: str, tags: dict[str, str]) -> None:
    """Stamp the folder with a tag, and set what that changes against a commit.

    Schema and counts are compared with the last of `tags` before that commit.
    """
    repo, folder, card = release.repo, release.folder.path, CardChange()
    previous = hub_repo.last_tag(repo, commit, tags)
    if repo.kind == "dataset":
        old = release_plan.card_facts(hub_repo.read_card(repo, tags[previous])) if previous else None
        new = release_plan.card_facts((folder / "README.md").read_text(encoding="utf-8"))
        if not new.features:
            raise VisRLError(f"{folder}/README.md has no dataset_info, so nothing can be compared with it.")
        card = release_plan.compare_cards(old, new)
    tag = tag or release_plan.next_tag(state.tags, bool(card.breaking))
    release.folder.stamp(tag, previous, card.lines if previous else ())
    release.tag, release.previous, release.card = tag, previous, card
    release.files = release_plan.local_files(folder, repo.kind)
    files = state.files if commit == state.head else hub_repo.list_files(repo, commit)
    release.plan = release_plan.plan_files(release.files, files, repo.kind)


def _show(release: Release, state: RepoState) -> None:
    say, branch = release.repo.say, release.repo.branch
    private = state.private if state.exists else release.options.private
    at = f"{branch} at {state.head[:12]}" if state.exists else "to be created"
    say(f"{release.repo.id}, {'private' if private else 'public'} {release.repo.kind}, {at}")
    say(f"{release.tag}, {f'compared with {release.previous}' if release.previous else 'the first version'}:")
    for line in release.lines:
        say(f"  {line}")
    if release.plan.is_empty:
        say(f"  {branch} holds this content already; no commit is needed")


def _refuse(release: Release, state: RepoState) -> None:
    """Refuse what must not happen without a word from the user. Raises VisRLError; nothing was sent so far."""
    repo, options = release.repo, release.options
    if options.private and state.exists and not state.private:
        raise VisRLError(
            f"{repo.id} exists and is public, and "
            f"{'what it shows is private' if repo.kind == 'space' else 'you asked for --private'}. Nothing was sent. "
            f"Make it private at {repo.url}/settings, or choose another --hub-id."
        )
    if unknown := release_plan.unknown_files(release.plan, state.files, repo.kind, state.untouched):
        raise VisRLError(
            f"{repo.id} holds files that no `visrl push` put there and this one would replace or delete: "
            f"{some(unknown)}. Nothing was sent. Choose another --hub-id."
        )
    if leaks := release_plan.leaks(release.files):
        raise VisRLError(
            f"What would be published to {repo.id} names what should stay here: {'; '.join(leaks[:5])}. "
            f"Nothing was sent. Take it out of the folder, then run the same command again."
        )
    if release.card.breaking and not options.allow_schema_change:
        lines = "".join(f"\n  {line}" for line in release.card.breaking)
        raise VisRLError(
            f"This version can break code that was written for {release.previous} of {repo.id}:{lines}\n"
            f"Nothing was sent. If that is meant, add --allow-schema-change."
        )


def _message(release: Release, error: HubFailure) -> str:
    """Write one message about a failure: what failed, what the Hub holds, what to do."""
    holds = release.holds
    if error.unsure:
        holds += f" Unless the Hub did the last step all the same ({error.step}): its response never came."
    return (
        f"Publishing to {release.repo.id} failed while {error.step}: {error.reason}.\n{holds}\n"
        f"{error.hint} Then run the same command again: it continues from there."
    )
