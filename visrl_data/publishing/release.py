"""The release: a finished folder becomes one commit and one tag on the Hub, read back before it is called done.

    look      refs, files and last tag of the repository (hub_state.py); what would change (release_plan.py)
    stamp     the tag and the changes, on the card and the manifest
    refuse    a tag that exists with other content, a breaking schema change, a repository that is not ours
    upload    large files; invisible until the commit (this and the rest: release_steps.py)
    commit    ONE: data, card, manifest, report and deletions, on the head that was looked at
    verify    the Hub's digests of the commit, then every file downloaded into a fresh cache
    tag       ONE, on the verified commit; never moved
    reload    by the tag

Every step looks first at what is there already, so a rerun goes on where the last one stopped, and the same
content pushed again changes nothing. hub_access.py repeats what may pass and words what does not.
push.py finds or makes the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import HubFailure, attempt, careful_client, diagnose, disk_full, hub_api
from visrl_data.publishing import hub_state, release_plan, release_steps
from visrl_data.publishing.hub_state import Look, Place
from visrl_data.publishing.release_plan import CardChange, LocalFile
from visrl_data.publishing.release_steps import Held, Release, some


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to publish.

    kind: dataset or model. private: make the repository private, and refuse one that is public.
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
class Published:
    """state: published | tagged (the commit was there) | unchanged (the tag too) | proposed | dry-run.

    changes: the differences, a line each. pull_request: its address, when proposed.
    """

    hub_id: str
    kind: str
    state: str
    tag: str | None
    commit: str | None
    url: str
    changes: tuple[str, ...] = ()
    pull_request: str | None = None


@dataclass(slots=True)
class Job:
    """A release on its way. files: read so far, so that they are not digested again."""

    place: Place
    folder: Folder
    options: PushOptions
    files: tuple[LocalFile, ...] = ()
    held: Held = field(default_factory=Held)


def publish(
    folder: Folder,
    hub_id: str,
    tag: str | None = None,
    options: PushOptions = PushOptions(),
    say: Callable[[str], None] = lambda _: None,
) -> Published:
    """Publish a finished dataset or model folder as one commit and one tag.

    tag: None takes the tag that the same content has, or else the next of v1.0, v1.1, ... (v2.0 after a
    breaking change). say: told each step. Raises VisRLError: what went wrong, what the Hub holds, what to do.
    """
    release_plan.check_hub_id(hub_id)
    if tag is not None:
        release_plan.check_tag(tag)
    job = Job(Place(hub_api(), hub_id, options.kind, options.branch, say), folder, options)
    job.files = release_plan.local_files(folder.path, options.kind)
    try:
        with careful_client():
            return _publish(job, tag)
    except HubFailure as error:
        raise VisRLError(_told(job, error)) from None
    except OSError as error:
        if not disk_full(error):
            raise
        raise VisRLError(_told(job, HubFailure("writing to this disk", diagnose(error)))) from None


def default_hub_id(given: str | None, name: str) -> str:
    """The repository's id: as given, or `name`, with the user's own name in front where that is missing.

    Raises VisRLError without a token that the Hub accepts.
    """
    hub_id = given or release_plan.repo_name(name)
    if "/" not in hub_id:
        try:
            hub_id = f"{attempt('asking for your name', hub_api().whoami)['name']}/{hub_id}"
        except HubFailure as error:
            raise VisRLError(
                f"Your name on the Hub could not be found out: {error.failure.reason}. Nothing was sent.\n"
                f"{error.failure.mend} Then run the same command again."
            ) from None
    release_plan.check_hub_id(hub_id)
    return hub_id


def _publish(job: Job, tag: str | None) -> Published:
    place, options = job.place, job.options
    before = hub_state.look(place) or Look()
    known = tag if tag in before.tags else None if tag else hub_state.tag_before(place, before.head, before.tags)
    if known and (same := _as_tagged(job, before, known)):
        place.say(f"{place.id} holds exactly this as {known} already; nothing to do.")
        return _done(job, "unchanged", same, before.tags[known])
    if tag in before.tags:
        raise VisRLError(
            f"{place.id} has a tag {tag} already, with other content, and a tag is never moved. Nothing was sent. "
            f"Choose another --tag, or none for the next number."
        )
    release = _stamped(job, before, tag)
    _show(job, before, release)
    _refuse(job, before, release)
    job.folder.check()
    if options.dry_run:
        place.say("Nothing was sent (--dry-run).")
        return _done(job, "dry-run", release, None)
    if not before.exists:
        before = release_steps.create_repository(place, options.private)
        job.held.created = True
        release = _stamped(job, before, tag)
        _refuse(job, before, release)
    if options.create_pr:
        return _propose(job, before, release)
    commit = before.head if release.plan.empty else release_steps.commit_release(release, before)
    job.held.commit = commit
    release_steps.verify_commit(release, commit, options.reload)
    release_steps.tag_commit(release, commit)
    return _done(job, "tagged" if release.plan.empty else "published", release, commit)


def _done(job: Job, state: str, release: Release, commit: str | None, pull_request: str | None = None) -> Published:
    tag = None if state == "proposed" else release.tag
    return Published(job.place.id, job.place.kind, state, tag, commit, job.place.url, release.lines, pull_request)


def _as_tagged(job: Job, before: Look, tag: str) -> Release | None:
    """The release as it would have been made under a tag that exists, if that is what the tag names."""
    commit = before.tags[tag]
    others = {name: at for name, at in before.tags.items() if at != commit}
    release = _under(job, tag, hub_state.tag_before(job.place, commit, others), before, commit)
    return release if release.plan.empty else None


def _stamped(job: Job, before: Look, tag: str | None) -> Release:
    """The release under a new tag, against the branch as it is."""
    return _under(job, tag, hub_state.tag_before(job.place, before.head, before.tags), before, before.head)


def _under(job: Job, tag: str | None, previous: str, before: Look, commit: str) -> Release:
    """The folder stamped with a tag, compared with a commit. Schema and counts are compared with `previous`."""
    place, kind, card = job.place, job.options.kind, CardChange((), ())
    if kind == "dataset":
        old = release_plan.card_facts(hub_state.read_card(place, before.tags[previous])) if previous else None
        new = release_plan.card_facts((job.folder.path / "README.md").read_text(encoding="utf-8"))
        if not new.features:
            raise VisRLError(f"{job.folder.path}/README.md has no dataset_info, so nothing can be compared with it.")
        card = release_plan.compare_cards(old, new)
    tag = tag or release_plan.next_tag(before.tags, bool(card.breaking))
    job.folder.stamp(tag, previous, card.lines if previous else ())
    job.files = release_plan.local_files(job.folder.path, kind, job.files)
    there = before.files if commit == before.head else hub_state.digests(place, commit)
    plan = release_plan.plan_files(job.files, there, kind)
    return Release(place, tag, previous, job.files, plan, card, job.held)


def _show(job: Job, before: Look, release: Release) -> None:
    say, private = job.place.say, before.private if before.exists else job.options.private
    at = f"{job.options.branch} at {before.head[:12]}" if before.exists else "to be created"
    say(f"{job.place.id}, {'private' if private else 'public'} {job.place.kind}, {at}")
    say(f"{release.tag}, against {release.previous}:" if release.previous else f"{release.tag}, the first version:")
    for line in release.lines:
        say(f"  {line}")
    if release.plan.empty:
        say(f"  {job.options.branch} holds this content already; no commit is needed")


def _refuse(job: Job, before: Look, release: Release) -> None:
    """What must not happen without a word from the user. Raises VisRLError; nothing was sent so far."""
    place, options = job.place, job.options
    if options.private and before.exists and not before.private:
        raise VisRLError(
            f"{place.id} exists and is public, and you asked for --private. Nothing was sent. Make it private at "
            f"{place.url}/settings, or choose another --hub-id."
        )
    foreign = release_plan.foreign_files(release.plan, before.files, place.kind)
    if foreign:
        raise VisRLError(
            f"{place.id} holds files that no `visrl push` put there and this one would replace or delete: "
            f"{some(foreign)}. Nothing was sent. Choose another --hub-id."
        )
    if leaks := release_plan.leaks(release.files):
        raise VisRLError(
            f"What would be published to {place.id} names what should stay here: {'; '.join(leaks[:5])}. "
            f"Nothing was sent. Take it out of the folder, then run the same command again."
        )
    if release.card.breaking and not options.allow_schema_change:
        shown = "".join(f"\n  {line}" for line in release.card.breaking)
        raise VisRLError(
            f"This version can break code that was written for {release.previous} of {place.id}:{shown}\n"
            f"Nothing was sent. If that is meant, add --allow-schema-change."
        )


def _propose(job: Job, before: Look, release: Release) -> Published:
    """A pull request. The tag comes after its merge, when the same command finds the content on the branch."""
    place = job.place
    if release.plan.empty:
        place.say("There is nothing to propose. Without --create-pr the same command tags it.")
        return _done(job, "unchanged", release, before.head)
    number = release_steps.open_pull_request(release, before)
    job.held.commit = commit = hub_state.commit_of(place, f"refs/pr/{number}")
    release_steps.verify_commit(release, commit, job.options.reload)
    url = f"{place.url}/discussions/{number}"
    place.say(f"Proposed as {url}. After its merge the same command without --create-pr tags it.")
    return _done(job, "proposed", release, commit, url)


def _told(job: Job, error: HubFailure) -> str:
    """One message: what failed, what the Hub holds, what to do."""
    held, name = job.held, job.place.id
    if held.tagged:
        holds = f"{name} holds it as commit {held.commit[:12]}, verified, and took the tag; a last look at that failed."
    elif held.commit:
        holds = f"{name} holds it as commit {held.commit[:12]}, without a tag."
    elif held.uploaded:
        holds = f"Files were uploaded, but nothing of this release can be seen in {name}, and there is no new tag."
    elif held.created:
        holds = f"{name} was created; nothing of this release is in it."
    else:
        holds = f"Nothing of this release is in {name}."
    if error.unsure:
        holds += f" Unless the Hub did the last step all the same ({error.step}): its answer never came."
    return (
        f"Publishing to {name} failed while {error.step}: {error.failure.reason}.\n{holds}\n"
        f"{error.failure.mend} Then run the same command again: it goes on from there."
    )
