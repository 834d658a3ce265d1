"""A hundred kills (SIGKILL) over gen, filter, push, train and evolve: each is resumed, and the outcome compared.

    python -m tests.tools.kill_table [--only gen,filter] [--kills 2] [--seed 0] [--work DIR] [--output kills.json]

Half of a command's kills come at a random moment of its work, half before its n-th change on disk (killing.py):
between a rename and the manifest, after a checkpoint. Of push half of these come at its n-th request, whose answer
never arrives. Each kill starts from the same state, the same command is given again without a kill, and what it leaves
(bytes of the run, files and refs on a loopback Hub, weights) must be what an undisturbed one left. A process that ended
before its kill is none, and is tried again at an earlier place. Real models (the shipped Spotlight), no network. The
records are in --output as they come. Hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.hub_world import environment
from tests.helpers.loopback_hub import LoopbackHub
from tests.tools.killing import content, finish, killed_at, start
from tests.train.test_evolve_kills import TIMED, command
from tests.train.test_helpers import QUICK

# Kills by default, and at most which change on disk is tried.
PLAN = {
    "gen": (26, 40), "filter": (16, 12), "push": (18, 80), "sft": (10, 16), "rl1": (10, 16), "rl2": (10, 16),
    "evolve": (10, 60),
}  # fmt: skip
GEN = ("gen", "--limit", 16, "--chunk-size", 4)
QUICKLY = QUICK | {"epochs": 2, "save_steps": 2, "learning_rate": 1e-4}


@dataclass(frozen=True, slots=True)
class Case:
    """One command to kill, run in a folder of its own.

    prepare: puts the state before it there (in place of any other). inside: where its changes on disk are counted.
    begun: whether its work has begun. outcome: all that counts of what it left. hub: the Hub that it talks with.
    """

    arguments: tuple[object, ...]
    prepare: Callable[[], None]
    inside: Path
    begun: Callable[[], bool]
    outcome: Callable[[], dict[str, Any]]
    hub: LoopbackHub | None = None


def gen(work: Path, hub: LoopbackHub) -> Case:
    return _in_e(work, (*GEN, "-o", "e"), lambda: None, lambda: content(work / "e"))


def filter(work: Path, hub: LoopbackHub) -> Case:
    def prepare() -> None:
        shutil.copytree(work / "run", work / "e")
        (work / "e/.lock").unlink()

    finish(*GEN, "-o", "run", cwd=work)
    return _in_e(work, ("filter", "e", "--box-win", 0.7), prepare, lambda: content(work / "e"))


def push(work: Path, hub: LoopbackHub) -> Case:
    """Its changes on disk are those of the dataset that it builds; the Hub must end with one commit and one tag."""

    def prepare() -> None:
        shutil.rmtree(work / "tmp", ignore_errors=True)
        (work / "tmp").mkdir()
        hub.repos.clear()
        hub.log = []

    def outcome() -> dict[str, Any]:
        held = hub.dataset("user/e")
        return {"refs": dict(held.refs), "commits": sorted(held.commits)} | dict(held.resolve("v1.0").files)

    finish(*GEN, "-o", "e", cwd=work)
    return Case(
        ("push", "e", "--hub-id", "user/e", "--tag", "v1.0", "--ship-images"), prepare, work / "tmp",
        lambda: any((work / "tmp").iterdir()), outcome, hub,
    )  # fmt: skip


def sft(work: Path, hub: LoopbackHub) -> Case:
    return _train(work, "sft", "--model", "spotlight-base", "--limit", 16)


def rl1(work: Path, hub: LoopbackHub) -> Case:
    finish(*GEN, "-o", "run", cwd=work)
    return _train(work, "rl1", "--data", "run")


def rl2(work: Path, hub: LoopbackHub) -> Case:
    finish(*GEN, "-o", "run", cwd=work)
    _settings(work)
    finish("train", "rl1", "--data", "run", "--config", "quick.toml", "-o", "models/rl1", cwd=work)
    return _train(work, "rl2", "--data", "run", "--model", "models/rl1")


def evolve(work: Path, hub: LoopbackHub) -> Case:
    return _in_e(work, command(work, "rl1,rl2", 16), lambda: None, lambda: content(work / "e", TIMED))


def _train(work: Path, stage: str, *more: object) -> Case:
    _settings(work)
    arguments = ("train", stage, *more, "--config", "quick.toml", "-o", "e")
    return _in_e(work, arguments, lambda: None, lambda: content(work / "e", TIMED))


def _settings(work: Path) -> None:
    (work / "quick.toml").write_text("\n".join(f"{name} = {value}" for name, value in QUICKLY.items()))


def _in_e(work: Path, arguments: tuple[object, ...], fill: Callable[[], None], outcome: Callable[[], dict]) -> Case:
    """A command that works in the folder e, which is locked while it does."""

    def prepare() -> None:
        for name in ("e", "cache"):
            shutil.rmtree(work / name, ignore_errors=True)
        fill()

    return Case(arguments, prepare, work / "e", lambda: (work / "e/.lock").exists(), outcome)


CASES = {"gen": gen, "filter": filter, "push": push, "sft": sft, "rl1": rl1, "rl2": rl2, "evolve": evolve}


def kills(name: str, case: Case, count: int, rng: random.Random, work: Path) -> Iterator[dict[str, Any]]:
    """A record for each kill of one command."""
    case.prepare()
    lasted = _timed(case, work)
    whole = case.outcome()
    kinds = ("request", "moment", "change", "moment") if case.hub else ("change", "moment")
    bounds = {"moment": lasted, "change": PLAN[name][1], "request": len(case.hub.log) if case.hub else 0}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        most, killed = float(bounds[kind]), False
        while not killed:
            case.prepare()
            place = rng.uniform(0, most) if kind == "moment" else rng.randint(1, max(1, int(most)))
            killed = _KILL[kind](place, case, work)
            most = 0.7 * place
        began = time.monotonic()
        finish(*case.arguments, cwd=work)
        seconds = round(time.monotonic() - began, 1)
        equal = case.outcome() == whole
        yield {"command": name, "kind": kind, "at": round(place, 2), "equal": equal, "seconds": seconds}


def _timed(case: Case, work: Path) -> float:
    """An undisturbed run: seconds from the beginning of its work to its end."""
    process = start(*case.arguments, cwd=work)
    while not case.begun() and process.poll() is None:
        time.sleep(0.02)
    began = time.monotonic()
    _, err = process.communicate(timeout=3600)
    assert process.returncode == 0, err
    return time.monotonic() - began


def _killed_before(change: float, case: Case, work: Path) -> bool:
    return killed_at(case.inside, int(change), *case.arguments, cwd=work)


def _killed_at_request(number: float, case: Case, work: Path) -> bool:
    """The Hub does what it is asked; nobody is left to hear of it."""
    process = start(*case.arguments, cwd=work)

    class Deadly(list[tuple[str, str]]):
        def append(self, request: tuple[str, str]) -> None:
            super().append(request)
            if len(self) == number:
                process.send_signal(signal.SIGKILL)

    assert case.hub is not None
    case.hub.log = Deadly()
    process.communicate(timeout=3600)
    return process.returncode == -signal.SIGKILL


def _killed_after(seconds: float, case: Case, work: Path) -> bool:
    process = start(*case.arguments, cwd=work)
    while not case.begun() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(seconds)
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return not ended and process.returncode == -signal.SIGKILL


_KILL = {"moment": _killed_after, "change": _killed_before, "request": _killed_at_request}


def table(records: list[dict[str, Any]]) -> str:
    lines = ["| command | kind | kills | equal | seconds to go on (mean) |", "| :-- | :-- | --: | --: | --: |"]
    for name, kind in dict.fromkeys((record["command"], record["kind"]) for record in records):
        mine = [record for record in records if (record["command"], record["kind"]) == (name, kind)]
        mean = sum(record["seconds"] for record in mine) / len(mine)
        lines.append(f"| {name} | {kind} | {len(mine)} | {sum(record['equal'] for record in mine)} | {mean:.1f} |")
    lines.append(f"| all | | {len(records)} | {sum(record['equal'] for record in records)} | |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default=",".join(CASES), help="commands, with commas")
    options.add_argument("--kills", type=int, help="of each command; default: a hundred in all")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--work", type=Path, default=Path("kill-table"))
    options.add_argument("--output", type=Path, default=Path("kills.json"))
    given = options.parse_args()
    records: list[dict[str, Any]] = []
    for name in given.only.split(","):
        work = (given.work / name).resolve()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        with ExitStack() as stack:
            hub = stack.enter_context(LoopbackHub())
            hub.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed
            stack.enter_context(environment(_environment(name, work, hub)))
            count = given.kills or PLAN[name][0]
            for record in kills(name, CASES[name](work, hub), count, random.Random(f"{given.seed}/{name}"), work):
                records.append(record)
                given.output.write_text(json.dumps(records, indent=1) + "\n")
                print(json.dumps(record), flush=True)
    print(table(records))
    raise SystemExit(not all(record["equal"] for record in records))


def _environment(name: str, work: Path, hub: LoopbackHub) -> dict[str, str]:
    """A user's, whose Hub is the loopback one; push builds its dataset in a folder that is looked into."""
    own = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "VISRL_CACHE": str(work / "cache")}
    if name != "push":
        return own
    (work / "tmp").mkdir()
    return own | hub.environment(work / "home") | {"TMPDIR": str(work / "tmp")}


if __name__ == "__main__":
    main()
