"""Releases from end to end on the loopback Hub, with unmodified clients: python -m tests.tools.hub_scenarios

The clients read their environment when they are imported, so this runs in a process of its own; what each
scenario found is printed as one JSON object, for test_loopback_hub.py to judge. `xet` runs those of Xet.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.hub_world import REPO, World, environment, small_files
from tests.helpers.loopback_answers import TOKEN
from tests.helpers.loopback_hub import Fault, LoopbackHub, only_loopback
from tests.helpers.release_folders import png, stamped_folder
from tests.tools.hub_journeys import JOURNEYS


def two_versions(world: World) -> dict:
    """v1.0 and v1.1 are pushed; each loads by its tag, whole and streamed, in fresh caches."""
    from datasets import load_dataset
    from huggingface_hub import snapshot_download

    small, large = world.dataset("one", pairs=4), world.dataset("two", pairs=7)
    first, second = world.publish(small), world.publish(large)

    def load(tag: str, *config: str) -> Any:
        return load_dataset(REPO, *config, revision=tag, cache_dir=world.cache())

    old, new = load("v1.0"), load("v1.1")
    streamed = list(load_dataset(REPO, revision="v1.0", split="train", streaming=True))
    copy = Path(snapshot_download(REPO, repo_type="dataset", revision="v1.1", cache_dir=world.cache()))
    files = {f.relative_to(large.path).as_posix(): f for f in large.path.rglob("*.*")}
    pixels = new["train"][5]["images"][0]
    return {
        "states": [[p.state, p.tag] for p in (first, second)],
        "changes": list(second.changes[:3]),
        "rows": [{split: len(rows) for split, rows in version.items()} for version in (old, new)],
        "candidates": len(load("v1.0", "candidates")["train"]),
        "picture": [pixels.size == (40, 30), hashlib.sha256(pixels.tobytes()).hexdigest() == _pixels(5)],
        "streamed": [len(streamed), streamed[3]["images"][0].size, streamed[3]["id"]],
        "snapshot": sorted(p for p, f in files.items() if (copy / p).read_bytes() != f.read_bytes()),
        "card": "Version v1.1 after v1.0" in (copy / "README.md").read_text(),
        "commits": [c.message.split("\n")[0] for c in _history(world)],
    }


def _pixels(seed: int) -> str:
    from PIL import Image

    return hashlib.sha256(Image.open(io.BytesIO(png(seed))).convert("RGB").tobytes()).hexdigest()


def _history(world: World) -> list:
    repo = world.hub.dataset(REPO)
    return repo.history(repo.resolve("main"))


def default_config(world: World) -> dict:
    """load_dataset without a config or a revision: the default config at the head of main."""
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # its host is not derived from a loopback endpoint
    rows = datasets.load_dataset(REPO, cache_dir=world.cache())
    return {"columns": sorted(rows["train"].features), "rows": len(rows["train"])}


def same_again(world: World) -> dict:
    """The same content again, with its tag and without: the same commit, and nothing is sent."""
    folder, before = stamped_folder(world.folder / "two"), len(_history(world))
    world.hub.log.clear()
    again = [world.publish(folder), world.publish(folder, "v1.1"), world.publish(stamped_folder(world.folder / "one"))]
    sent = sorted(
        {kind for kind, _ in world.hub.log} - {"refs", "info", "tree", "commits", "resolve_head", "resolve_get"}
    )
    other = world.publish(folder, "v1.0")
    head = world.hub.dataset(REPO).refs["heads/main"]
    return {
        "states": [p.state for p in again[:2]],
        "same_commit": {p.commit for p in again[:2]} == {world.hub.dataset(REPO).refs["tags/v1.1"]},
        "older_content": [again[2].state, again[2].tag],
        "sent_for_all_three": sent,
        "moved": other,
        "head_is_newest_tag": head == world.hub.dataset(REPO).refs["tags/v1.2"],
        "commits": len(_history(world)) - before,
    }


def schema(world: World) -> dict:
    """A column more is fine; one less, or of another type, is refused unless it is meant."""
    repo = "user/schema"
    world.publish(world.dataset("s1"), repo=repo)
    more = world.publish(world.dataset("s2", extra=True), repo=repo)
    less = world.publish(world.dataset("s3"), repo=repo)
    other = world.publish(world.dataset("s4", extra=True, score="int64"), repo=repo)
    meant = world.publish(world.dataset("s3"), repo=repo, allow_schema_change=True)
    dry = world.publish(world.dataset("s5", pairs=3), repo=repo, dry_run=True)
    refs = sorted(world.hub.dataset(repo).refs)
    return {
        "more": [more.tag, more.changes[0]],
        "less": less,
        "other": other,
        "meant": meant.tag,
        "dry": [dry.state, dry.tag, [line for line in dry.changes if "rows" in line]],
        "refs": refs,
    }


def deletions(world: World) -> dict:
    """Shards that the new version has no more are gone, in the same commit; files added by hand stay."""
    from tests.helpers.loopback_git import Blob

    repo = "user/deletions"
    folder = world.dataset("d1")
    (folder.path / "data/candidates/train-00001-of-00002.parquet").write_bytes(b"old")
    world.publish(folder, repo=repo)
    held = world.hub.dataset(repo)
    head = held.resolve("main")
    held.commit("heads/main", {**head.files, "assets/logo.txt": Blob(b"logo", 4)}, "by hand", head.oid)
    done = world.publish(world.dataset("d2", pairs=5), repo=repo)
    files = held.resolve("v1.1").files
    return {
        "deleted": [line for line in done.changes if line.startswith("-")],
        "kept": "assets/logo.txt" in files,
        "gone": "data/candidates/train-00001-of-00002.parquet" not in files,
        "parents": [c.message.split("\n")[0] for c in held.history(held.resolve("v1.1"))],
    }


def refused(world: World) -> dict:
    """A public repository for --private, somebody else's files, a token that may not, no token, no connection."""
    from tests.helpers.loopback_git import Blob

    folder, hub = world.dataset("r1"), world.hub
    mine = hub.create("datasets", "user/other")
    mine.commit(
        "heads/main",
        {"data/train.parquet": Blob(b"mine", 4), "README.md": Blob(b"me", 2)},
        "m",
        mine.refs["heads/main"],
    )
    results = {"public": world.publish(folder, repo=REPO, private=True)}
    results["foreign"] = world.publish(folder, repo="user/other")
    results["namespace"] = world.publish(folder, repo="somebody/pairs")
    private_set = world.publish(folder, repo="user/secret", private=True)
    results["private"] = [private_set.state, hub.dataset("user/secret").private]
    for name, change in (("bad token", {"HF_TOKEN": "hf_" + "x" * 34}), ("no token", {"HF_TOKEN": ""})):
        with environment(change):
            results[name] = world.publish(folder, repo="user/new")
    hub.faults = [Fault("refs", 429, 1, headers={"Retry-After": "1000"})]
    results["rate limit"] = world.publish(folder, repo=REPO)
    hub.faults = [Fault("refs", 429, 1, headers={"Retry-After": "0"})]
    results["short limit"] = world.publish(folder, repo="user/secret").state
    return results


def stalled(world: World) -> dict:
    """A connection that stays open and silent is given up, and the request repeated."""
    from visrl_data.core import hub_access

    before, hub_access.SILENCE = hub_access.SILENCE, 2.0
    folder = world.dataset("st", pairs=3)
    try:
        world.hub.faults = [Fault("refs", "stall"), Fault("commit", "stall")]
        done = world.publish(folder, repo="user/stalled")
    finally:
        hub_access.SILENCE, world.hub.faults = before, []
    return {"state": getattr(done, "state", done), "again": [line for line in world.said if "again" in line]}


def without_end(world: World) -> dict:
    """Files of which half arrives each time, and waits of weeks that the client itself would keep, are given up."""
    from visrl_data.publishing import hub_repo

    before, hub_repo._PATIENCE = hub_repo._PATIENCE, 2.0
    folder, repo = world.dataset("we", pairs=3), "user/without-end"
    messages = []
    try:
        for fault in (
            Fault("resolve_get", "half", 10**6),
            Fault("tree", 429, 10**6, 0, {"Retry-After": "999999"}),
            Fault("tree", 503, 10**6, 0, {"ratelimit": '"api";r=0;t=999999'}),
        ):
            world.hub.faults = [fault]
            messages.append(str(world.publish(folder, repo=repo)))
    finally:
        hub_repo._PATIENCE, world.hub.faults = before, []
    tags = [ref for ref in world.hub.dataset(repo).refs if ref.startswith("tags/")]
    return {"messages": messages, "tags": tags, "again": world.publish(folder, repo=repo).state}


def not_as_sent(world: World) -> dict:
    """A .gitignore on the Hub drops a file from the commit; somebody else takes the tag."""
    from tests.helpers.loopback_git import Blob

    hub, folder = world.hub, world.dataset("ns", pairs=3)
    ignoring = hub.create("datasets", "user/ignoring")
    head = ignoring.resolve("main")
    ignoring.commit("heads/main", {**head.files, ".gitignore": Blob(b"*.json\n", 7)}, "ignore", head.oid)
    ignored = world.publish(folder, repo="user/ignoring")
    hub.create("datasets", "user/raced")
    hub.faults = [Fault("tag", "race")]
    raced = world.publish(folder, "v1.0", "user/raced")
    hub.faults = []
    other = world.publish(folder, "v1.1", "user/raced", allow_schema_change=True)
    return {
        "ignored": ignored,
        "tags": [ref for ref in ignoring.refs if "tags" in ref],
        "raced": raced,
        "other": getattr(other, "state", other),
    }


def full_disk(world: World) -> dict:
    """Files larger than 15 kB cannot be written, as on a full disk, while the release is read back."""
    repo, folder = "user/full", world.dataset("full")
    with small_files(15_000):
        message = world.publish(folder, repo=repo)
    tags = [ref for ref in world.hub.dataset(repo).refs if ref.startswith("tags/")]
    again = world.publish(folder, repo=repo)
    return {"message": message, "tags": tags, "again": again.state}


def ways(world: World) -> dict:
    """A branch, a pull request and its merge, a round as a tag."""
    repo = "user/ways"
    world.publish(world.dataset("w1", pairs=3), "iter0", repo)
    branched = world.publish(world.dataset("w2", pairs=4), "iter1", repo, branch="next")
    proposal = world.dataset("w3", pairs=5)
    proposed = [world.publish(proposal, "iter2", repo, create_pr=True) for _ in range(2)]
    held = world.hub.dataset(repo)
    waiting = sorted(held.refs)
    held.refs["heads/main"] = held.refs["pr/1"]
    merged = world.publish(proposal, "iter2", repo)
    return {
        "branched": [branched.state, held.refs["tags/iter1"] == held.refs["heads/next"]],
        "proposed": [[p.state, p.tag, p.pull_request.removeprefix(world.hub.url)] for p in proposed],
        "refs": waiting,
        "merged": [merged.state, merged.tag, merged.commit == held.refs["pr/1"]],
    }


def xet(world: World) -> dict:
    """The path of most users: large files through hf_xet, up and down; here its store is a local folder."""
    from datasets import load_dataset

    done = [world.publish(world.dataset("x", pairs=pairs), repo="user/xet") for pairs in (4, 4, 6)]
    faults = {}
    for kind, action in (("xet_write_token", 403), ("xet_write_token", 500), ("xet_read_token", 401)):
        folder = world.dataset("y", pairs=7 + len(faults))
        world.hub.faults = [Fault(kind, action)]
        saw = world.publish(folder, repo="user/xet-faults")
        faults[f"{kind} {action}"] = [getattr(saw, "state", saw), world.publish(folder, repo="user/xet-faults").state]
    rows = [load_dataset("user/xet", revision=tag, split="train", cache_dir=world.cache()) for tag in ("v1.0", "v1.1")]
    kinds = sorted({kind for kind, _ in world.hub.log})
    return {
        "states": [[p.state, p.tag] if hasattr(p, "state") else p for p in done],
        "rows": [len(r) for r in rows],
        "picture": rows[1][5]["images"][0].size,
        "kinds": kinds,
        "faults": faults,
    }


def guard(world: World) -> dict:
    """Nothing but loopback can be reached."""
    import socket

    tried = {}
    for name, call in (
        ("connect", lambda: socket.socket().connect(("192.0.2.1", 80))),
        ("look up", lambda: socket.getaddrinfo("huggingface.co", 443)),
    ):
        try:
            call()
            tried[name] = "passed"
        except AssertionError as error:
            tried[name] = str(error)
    return tried


SCENARIOS: tuple[Callable[[World], dict], ...] = (
    guard, two_versions, default_config, same_again, schema, deletions, refused, stalled, without_end, not_as_sent,
    full_disk, ways, *JOURNEYS,
)  # fmt: skip


def main() -> None:
    scenarios: tuple[Callable[[World], dict], ...] = (xet,) if "xet" in sys.argv else SCENARIOS
    only_loopback()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "xet" if "xet" in sys.argv else None
        with LoopbackHub(store) as hub:
            os.environ.update(hub.environment(Path(folder) / "home") | {"TMPDIR": folder, "TQDM_DISABLE": "1"})
            tempfile.tempdir = None
            world = World(hub, Path(folder))
            for scenario in scenarios:
                try:
                    results[scenario.__name__] = scenario(world)
                except Exception:
                    results[scenario.__name__] = {"failed": traceback.format_exc()}
    print(json.dumps(results, indent=1).replace(TOKEN, "THE TOKEN"))


if __name__ == "__main__":
    main()
