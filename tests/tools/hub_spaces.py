"""Runs that are published with a Space (`visrl push --space`); more scenarios for hub_scenarios.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.command import visrl
from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from tests.helpers.hub_world import World
from tests.helpers.loopback_answers import TOKEN
from tests.helpers.loopback_git import Blob
from tests.helpers.loopback_hub import Fault
from tests.helpers.release_folders import make_model

SPACE = ("spaces", "user/shown-report")


def _shown_run(world: World, name: str, **options: Any) -> Path:
    """A run whose options and dropped rows name folders of this machine."""
    folder = world.folder / f"{name}-photos"
    source = photos(folder, **SHIPPED)
    with source.open("a") as file:
        row = {"id": "lost", "question": "What?", "answers": ["x"], "image": str(folder / "no such file.png")}
        file.write(json.dumps(row | SHIPPED) + "\n")
    return make_run(world.folder / name, source, images_root=str(folder), **options).path


def space(world: World) -> dict:
    """Two versions of a dataset with its Space, the first in two goes."""
    from huggingface_hub import hf_hub_download, snapshot_download

    hub, run = world.hub, _shown_run(world, "shown", box_win=0.5)
    push = ["push", str(run), "--space"]
    dry = visrl(*push, "--dry-run")
    nothing = sorted(name for _, name in hub.repos if name.startswith("user/shown"))
    hub.faults = [Fault("commit", 403, skip=1)]
    failed = visrl(*push)
    after_fault = [SPACE in hub.repos and sorted(hub.repos[SPACE].refs), sorted(hub.dataset("user/shown").refs)]
    hub.faults = []
    hub.log.clear()
    code, out, err = visrl(*push, "--tag", "v1.0", "--json")
    finished = json.loads(out) if not code else {"failed": err}
    sent = [line for kind, line in hub.log if kind == "commit"]
    hub.log.clear()
    again = visrl(*push)
    sent_again = [kind for kind, _ in hub.log if kind in ("commit", "tag", "create_repo", "preupload")]
    copy = Path(snapshot_download(SPACE[1], repo_type="space", revision="v1.0", cache_dir=world.cache()))
    page = hf_hub_download("user/shown", "report.html", repo_type="dataset", revision="v1.0", cache_dir=world.cache())
    card = hub.dataset("user/shown").resolve("v1.0").files["README.md"].data.decode()
    visrl("push", str(_shown_run(world, "second", box_win=0.6)), "--hub-id", "user/shown", "--space")
    held = hub.repos[SPACE]
    return {
        "dry": dry,
        "nothing": nothing,
        "failed": failed,
        "after the fault": after_fault,
        "finished": finished,
        "sent": sent,
        "again": again,
        "sent again": sent_again,
        "files": sorted(f.relative_to(copy).as_posix() for f in copy.rglob("*") if f.is_file()),
        "same page": (copy / "index.html").read_bytes() == Path(page).read_bytes(),
        "page": [word in Path(page).read_text() for word in ("--source questions.jsonl", "no such file")],
        "readme": (copy / "README.md").read_text(),
        "card": card,
        "commits": [c.message.split("\n")[0] for c in held.history(held.resolve("main"))],
        "second": held.resolve("v1.1").files["README.md"].data.decode(),
    }


def no_space(world: World) -> dict:
    """What is refused before anything is sent: pictures that may not be shown, somebody's Space, several runs."""
    hub = world.hub
    kept = make_run(world.folder / "kept", photos(world.folder / "kept-photos", license="CC-BY-4.0"), box_win=0.5).path
    shown, model = world.folder / "shown", make_model(world.folder / "shown-model")
    again = make_run(world.folder / "again-shown", world.folder / "shown-photos/questions.jsonl", seed=1,
                     images_root=str(world.folder / "shown-photos"), box_win=0.5).path  # fmt: skip
    files = {"index.html": Blob(b"mine", 4)}
    mine = hub.create("spaces", "user/taken-report")
    mine.commit("heads/main", files, "mine", mine.refs["heads/main"])
    hub.create("datasets", "user/hidden-set", private=True)
    hub.create("spaces", "user/hidden-set-report")
    edited = world.folder / "edited"
    visrl("push", str(shown), "--dry-run", "-o", str(edited))
    with (edited / "report.html").open("a") as file:
        file.write("<script>alert(1)</script>")
    both = world.folder / "shown-both"
    visrl("push", str(shown), str(again), "--dry-run", "-o", str(both))
    question = photos(world.folder / "secret-photos", **SHIPPED, question=f"What is {TOKEN}?")
    secret = make_run(world.folder / "secret", question, box_win=0.5).path
    hub.log.clear()
    results = {
        "pictures": visrl("push", str(kept), "--space"),
        "taken": visrl("push", str(shown), "--hub-id", "user/taken", "--space"),
        "hidden": visrl("push", str(shown), "--hub-id", "user/hidden-set", "--space"),
        "several": visrl("push", str(shown), str(again), "--space"),
        "merged": visrl("push", str(both), "--hub-id", "user/both", "--space"),
        "token": visrl("push", str(secret), "--space"),
        "proposed": visrl("push", str(shown), "--create-pr", "--space"),
        "edited": visrl("push", str(edited), "--hub-id", "user/edited", "--space"),
        "model": visrl("push", str(model), "--space"),
    }
    sent = [line for kind, line in hub.log if kind in ("create_repo", "preupload", "lfs_put", "commit", "tag")]
    code, _, _ = visrl("push", str(shown), "--hub-id", "user/own", "--private")
    code += visrl("push", str(shown), "--hub-id", "user/own", "--space")[0]
    private = [hub.repos[kind].private for kind in (("datasets", "user/own"), ("spaces", "user/own-report"))]
    return results | {"sent": sent, "private": [code, *private]}


SPACES: tuple[Callable[[World], Any], ...] = (space, no_space)
