"""What a user sees, and what the Hub holds, when a request of `visrl push` fails: python -m tests.tools.fault_table

Every request of a release, one after the other, fails in every way, once and for good, against the loopback
Hub and with the unmodified client; then the same release is run again without faults. Prints a table; exits
with 1 when one of RULES was broken. --quick: the first request of each kind, fewer faults. --json: rows as JSON.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.loopback_answers import TOKEN
from tests.helpers.loopback_hub import Fault, LoopbackHub, only_loopback

RULES = """
an error is one VisRLError that says truly what the Hub holds, and what to run; no token is in it
a tag names a commit that holds the release, whole; earlier tags stay where they are
the rerun succeeds; after it there is exactly one more commit, with the tag
"""
ACTIONS: tuple[int | str, ...] = (401, 403, 404, 409, 412, 429, 500, 503, "cut", "html", "gone")
DONE_ALL_THE_SAME = ("late 500", "lost")  # only where something is done
WRITES = {"create_repo", "lfs_put", "lfs_verify", "commit", "tag", "branch"}
SPECIAL = {"commit": ("race",), "resolve_get": ("corrupt", "half")}
QUICK: tuple[int | str, ...] = (403, 412, 500, "cut", *DONE_ALL_THE_SAME, "race", "corrupt", "half")
FOR_GOOD = 10**6
REPO = "user/pairs"


@dataclass(frozen=True)
class Row:
    """One case. saw: the message, or how it ended; held, rerun: of the Hub after each run; broken: rules."""

    scenario: str
    request: str
    fault: str
    saw: str
    held: str
    rerun: str
    waited: float
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """A release to be disturbed. options: of publish; commits: how many it adds to the branch."""

    name: str
    options: dict
    start: str  # which version is on the Hub before: "" or v1.0
    kinds: tuple[str, ...] = ()  # only faults of these, () for all


SCENARIOS = (
    Scenario("second version", {}, "v1.0"),
    Scenario("first version", {}, "", ("create_repo",)),
    Scenario("new branch", {"branch": "next"}, "v1.0", ("branch",)),
    Scenario("pull request", {"create_pr": True}, "v1.0", ("commit", "refs")),
)


class Stage:
    """The Hub as it is before a release, set anew for each case, and the folder to be released."""

    def __init__(self, hub: LoopbackHub, folder: Path) -> None:
        from tests.helpers.release_folders import make_dataset, stamped_folder
        from visrl_data.publishing.release import PushOptions, publish

        self.hub, self.publish, self.options = hub, publish, PushOptions
        (make_dataset(folder / "one", pairs=2) / "data/candidates/extra-00000-of-00001.parquet").write_bytes(b"old")
        self.folder = stamped_folder(make_dataset(folder / "two", pairs=3))
        publish(stamped_folder(folder / "one"), REPO)
        self.before = {"": ({}, {}), "v1.0": (copy.deepcopy(hub.repos), dict(hub.large))}
        self.said: list[str] = []

    def set(self, start: str) -> None:
        self.start = start
        repos, large = self.before[start]
        self.hub.repos, self.hub.large, self.hub.faults = copy.deepcopy(repos), dict(large), []
        self.hub.log.clear()

    def run(self, options: dict) -> str:
        """How it ended: the state, or the message of a VisRLError."""
        from visrl_data.core.errors import VisRLError

        try:
            return self.publish(self.folder, REPO, None, self.options(**options), self.said.append).state
        except VisRLError as error:
            return f"VisRLError: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def held(self, options: dict) -> tuple[str, list[str]]:
        """What the Hub holds beyond what it held before, in words, and broken rules."""
        repo = self.hub.repos.get(("datasets", REPO))
        if repo is None:
            return "no repository", []
        old = self.before[self.start][0].get(("datasets", REPO))
        broken = []
        if old and repo.refs["tags/v1.0"] != old.refs["tags/v1.0"]:
            broken.append("v1.0 was moved")
        pulls = [ref for ref in repo.refs if ref.startswith("pr/")]
        tag = "tags/v1.1" if old else "tags/v1.0"
        if tag in repo.refs and not self.whole(repo.refs[tag]):
            broken.append("the tag names something else than the release")
        ours = [
            c for c in repo.commits.values() if c.message.startswith("Release") and not (old and c.oid in old.commits)
        ]
        if len(ours) > 1 or len(pulls) > 1:
            broken.append(f"{len(ours)} commits, {len(pulls)} pull requests")
        if options.get("create_pr"):
            return ("a pull request" if pulls else "as before"), broken
        words = "as before" if not ours else "commit" + (", tag" if tag in repo.refs else ", no tag")
        return ("an empty repository" if not ours and not old else words), broken

    def whole(self, commit: str) -> bool:
        files = self.hub.dataset(REPO).commits[commit].files
        mine = {f.relative_to(self.folder.path).as_posix(): f.read_bytes() for f in self.folder.path.rglob("*.*")}
        there = {path: self.hub.large.get(blob.sha256, blob.data) for path, blob in files.items()}
        return {p: d for p, d in there.items() if p not in (".gitattributes", "NOTES.md")} == mine


def rows(stage: Stage, quick: bool) -> Iterator[Row]:
    for scenario in SCENARIOS:
        stage.set(scenario.start)
        end = stage.run(scenario.options)
        assert end in ("published", "proposed"), end
        seen: dict[str, int] = {}
        for kind, _ in list(stage.hub.log):
            number = seen[kind] = seen.get(kind, -1) + 1
            if (scenario.kinds and kind not in scenario.kinds) or (quick and number):
                continue
            for action in (*ACTIONS, *(DONE_ALL_THE_SAME if kind in WRITES else ()), *SPECIAL.get(kind, ())):
                if quick and action not in QUICK:
                    continue
                for times in (1, FOR_GOOD):
                    if not (quick and times > 1 and action != 500):
                        yield case(stage, scenario, kind, number, action, times)


def case(stage: Stage, scenario: Scenario, kind: str, number: int, action: int | str, times: int) -> Row:
    stage.set(scenario.start)
    headers = {"X-HF-Warning": f"token; {TOKEN}"}
    stage.hub.faults = [Fault(kind, action, times, number, headers)]
    before = WAITED[0]
    saw = stage.run(scenario.options)
    waited = WAITED[0] - before
    held, broken = stage.held(scenario.options)
    stage.hub.faults = []
    again = stage.run(scenario.options)
    after, also = stage.held(scenario.options)
    broken += also
    if ":" in saw and not (saw.startswith("VisRLError: ") and "ommand" in saw and REPO in saw):
        broken.append("not one clear message")
    if ":" in saw and saw.count("\n") > 2:
        broken.append("a long message")
    if TOKEN in saw or TOKEN in "".join(stage.said):
        broken.append("the token was shown")
    if ":" in saw and not true_words(saw, held):
        broken.append("the message says something else than what is there")
    expected = "a pull request" if scenario.options.get("create_pr") else "commit, tag"
    if after != expected or again not in ("published", "tagged", "unchanged", "proposed"):
        broken.append(f"the rerun ended with {again!r}, {after}")
    if ":" not in saw and held != expected:
        broken.append("success was told of what is not there")
    fault = f"{action}{'' if times == 1 else ' for good'}"
    return Row(scenario.name, f"{kind} {number + 1}", fault, saw, held, again, waited, tuple(broken))


def true_words(saw: str, held: str) -> bool:
    """Whether what a message says of the Hub is so. It may say that it does not know."""
    if "Unless the Hub did" in saw or "took the tag" in saw:
        return True
    if "without a tag" in saw:
        return held in ("commit, no tag", "a pull request")
    return "nothing of this release" not in saw.lower() or not held.startswith(("commit", "a pull"))


WAITED = [0.0]


def no_waiting() -> None:
    """Sleeps of the product and of the client pass at once; their seconds are added up."""

    def slept(seconds: float) -> None:
        WAITED[0] += seconds

    time.sleep = slept  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fault_table", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    only_loopback()
    no_waiting()
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as folder:
        os.environ.update(hub.environment(Path(folder) / "home"))
        table = list(rows(Stage(hub, Path(folder)), options.quick))
    broken = [row for row in table if row.broken]
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in table]))
    else:
        print_table(table)
        print(f"{len(table)} cases, {len(broken)} of them break a rule:{RULES}")
    for row in broken:
        print(f"BROKEN {row}", file=sys.stderr)
    sys.exit(bool(broken))


def print_table(table: list[Row]) -> None:
    """One line for the cases of a kind of request that ended alike; n: how many they are."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in table:
        saw = row.saw.removeprefix("VisRLError: ").partition("\n")[0].removeprefix(f"Publishing to {REPO} ")
        saw = re.sub(r"reading \S+ back", "reading a file back", re.sub(r"\b[0-9a-f]{12}\b", "...", saw))
        key = (row.scenario, row.request.split()[0], row.fault, row.held, row.rerun, saw)
        groups.setdefault(key, []).append(row.waited)
    print(f"{'n':>3} {'release':14} {'request':13} {'fault':17}  wait  {'Hub after it':19} {'rerun':10} the user saw")
    for (scenario, kind, fault, held, rerun, saw), waits in groups.items():
        wait = f"{max(waits):4.0f}s"
        print(f"{len(waits):3} {scenario:14} {kind:13} {fault:17} {wait}  {held:19} {rerun:10} {saw}"[:230])


if __name__ == "__main__":
    main()
