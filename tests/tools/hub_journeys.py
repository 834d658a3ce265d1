"""What a user does with `visrl` and the Hub, from folder to folder; more scenarios for hub_scenarios.py."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.command import visrl
from tests.helpers.dataset_runs import SHIPPED, file_bytes, make_run, photos
from tests.helpers.hub_world import World, scripted_generate, small_files
from tests.helpers.loopback_answers import TOKEN
from tests.helpers.loopback_hub import Fault
from tests.helpers.release_folders import make_model
from tests.tools.hub_spaces import SPACES


def model(world: World) -> dict:
    """A model folder: its weights, settings and card; nothing of its training."""
    from huggingface_hub import snapshot_download

    from visrl_data.publishing.push import push

    folder = make_model(world.folder / "rl2")
    said: list[str] = []
    done = [push([folder], say=said.append), push([folder], say=said.append)]
    make_model(folder, b"weights of the second round")
    done.append(push([folder], say=said.append))
    copy = Path(snapshot_download("user/rl2", revision="v1.0", cache_dir=world.cache()))
    local = make_model(world.folder / "private" / "rl1")
    (local / "config.toml").write_text(f'data = "{world.folder}/private/runs/cars"\n')
    (local / "README.md").write_text(f"# rl1\n\nvisrl gen --model {local} --source questions.jsonl\n")
    code, _, err = visrl("push", str(local), "--tag", "v1.0")
    card = Path(snapshot_download("user/rl1", revision="v1.0", cache_dir=world.cache())) / "README.md"
    (local / "README.md").write_text(f"# rl1\n\nMy token is {TOKEN}\n")
    return {
        "local": [code, err, card.read_text() if not code else ""],
        "token": visrl("push", str(local), "--tag", "v1.1"),
        "states": [[p.hub_id, p.state, p.tag] for p in done],
        "files": sorted(f.relative_to(copy).as_posix() for f in copy.rglob("*") if f.is_file()),
        "weights": (copy / "model.safetensors").read_text(),
        "left_out": next(line for line in said if "Left out" in line),
    }


def with_base(world: World) -> dict:
    """An adapter on the shipped model, alone and with its base; from the Hub the second is loaded, the first not."""
    import shutil

    from huggingface_hub import snapshot_download

    from visrl_cards.model_usage import describe_usage
    from visrl_data.models.model_folder import find_model, read_record
    from visrl_data.spotlight import ACTOR

    folder = world.folder / "glyphs"
    shutil.copytree(ACTOR, folder)
    section = describe_usage(read_record(folder), str(folder), None)
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n# glyphs\n\n{section}\n\n## Reproduce it\n")
    alone = visrl("push", str(folder), "--hub-id", "user/alone", "--tag", "v1.0")
    dry = visrl("push", str(folder), "--with-base", "--dry-run")
    done = [visrl("push", str(folder), "--with-base", "--tag", tag) for tag in ("v1.0", "v1.0")]
    model = find_model("user/glyphs@v1.0")
    cards = {
        name: (Path(snapshot_download(name, revision="v1.0", cache_dir=world.cache())) / "README.md").read_text()
        for name in ("user/alone", "user/glyphs", "user/glyphs-base")
    }
    return {
        "alone": [alone[0], alone[2], cards["user/alone"]],
        "dry": [dry[0], "user/glyphs" in dry[1]],
        "done": [[code, out] for code, out, _ in done],
        "base": [model.base.id, model.base.digest == find_model(str(folder)).base.digest, model.origin_base],
        "same replies": model.digest == find_model(str(folder)).digest,
        "card": cards["user/glyphs"],
        "base card": cards["user/glyphs-base"][:12],
        "no base": visrl("push", str(make_model(world.folder / "full")), "--with-base"),
    }


def from_the_command_line(world: World) -> dict:
    """A run, made by the pipeline, pushed by `visrl push`; its parts load; a second time nothing changes."""
    from datasets import get_dataset_config_names, load_dataset

    run = make_run(world.folder / "run", photos(world.folder / "photos", **SHIPPED)).path

    with small_files(20_000):
        no_room = visrl("push", str(run), "--output", str(world.folder / "built"))
    dry = visrl("push", str(run), "--dry-run")
    code, out, err = visrl("push", str(run), "--tag", "v1.0", "--json")
    result = json.loads(out) if not code else {}
    again = visrl("push", str(run), "--hub-id", "user/run")
    configs = get_dataset_config_names("user/run", revision="v1.0") if result else []
    pairs = load_dataset("user/run", revision="v1.0", split="train", cache_dir=world.cache()) if result else []
    source, target = str(world.folder / "photos/questions.jsonl"), str(world.folder / "made")
    with scripted_generate():
        generated = visrl("gen", "--source", source, "-o", target, "--push-to-hub", "--private", "--json")
        once_more = ["gen", "--config", "user/run@v1.0"]
        refused = visrl(*once_more, "-o", str(world.folder / "again"))
        same = visrl(*once_more, "--source", source, "-o", str(world.folder / "again"), "--json")
    pairs_of = [world.folder / name / "pairs.parquet" for name in ("run", "again")]
    return {
        "same run": [refused, same[0], same[0] or pairs_of[0].read_bytes() == pairs_of[1].read_bytes()],
        "card": world.hub.dataset("user/run").resolve("v1.0").files["README.md"].data.decode() if result else "",
        "no_room": no_room,
        "made": [generated[0], json.loads(generated[1])["published"] if not generated[0] else generated[2]],
        "made_private": world.hub.dataset("user/made").private,
        "dry": dry,
        "first": [code, result.get("hub_id"), result.get("state"), result.get("tag")],
        "err": err,
        "again": again,
        "configs": configs,
        "rows": len(pairs),
        "picture": pairs[0]["image"].size if result else None,
    }


def exported(world: World) -> dict:
    """The version of `from_the_command_line`, in each layout, by its name on the Hub; the run itself is the measure."""
    from visrl_data.publishing.export import FORMATS

    results = {}
    for form in FORMATS:
        folder = world.folder / "exported" / form
        results[form] = []
        for source in ("user/run@v1.0", str(world.folder / "run")):
            code, out, err = visrl("export", source, "--format", form, "-o", str(folder), "--json")
            lines = {name: sorted(data.splitlines()) for name, data in file_bytes(folder).items()}
            folder.rename(folder.with_name(f"{form}-{len(results[form])}"))
            results[form].append([code, json.loads(out)["rows"] if not code else err, hash(str(lines))])
    return results


def merged(world: World) -> dict:
    """A run is v1.0; v1.0 and a second run are v1.1, by their names on the Hub alone."""
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    from visrl_data.publishing.dataset import build_dataset

    source = photos(world.folder / "line-photos", **SHIPPED)
    runs = [make_run(world.folder / f"line-{seed}", source, seed=seed, box_win=0.5).path for seed in (0, 1)]
    visrl("push", str(runs[0]), "--hub-id", "user/line", "--tag", "v1.0", "--pretty-name", "A line", "--language", "en")
    held = world.hub.dataset("user/line")
    first = held.refs["tags/v1.0"]
    second = ["push", "user/line@v1.0", str(runs[1]), "--tag", "v1.1"]
    world.hub.faults = [Fault("resolve_get", 500)]
    dry = visrl(*second, "--dry-run")
    world.hub.faults = []
    code, out, err = visrl(*second, "--json")
    result = json.loads(out) if not code else {}
    manifest = json.loads(
        Path(hf_hub_download("user/line", "manifest.json", repo_type="dataset", revision="v1.1")).read_text()
    )
    both = build_dataset(runs, world.folder / "line-both").manifest
    rows = {tag: load_dataset("user/line", revision=tag, cache_dir=world.cache()) for tag in ("v1.0", "v1.1")}
    return {
        "dry": dry,
        "state": [code, result.get("hub_id"), result.get("state"), result.get("tag")],
        "said": err,
        "v1.0 stays": held.refs["tags/v1.0"] == first,
        "other files": [p for p, sha in both["sha256"].items() if manifest["sha256"].get(p) != sha],
        "title": [manifest["pretty_name"], manifest["languages"]],
        "parts": [[part["dataset"], part["commit"] == first] for part in manifest["parts"]],
        "rows": [len(rows[tag]["train"]) for tag in rows],
        "expected": [len({*rows["v1.0"]["train"]["id"]}), both["counts"]["preferences"]["train"]],
        "again": visrl(*second)[1],
        "no tag": visrl("push", "user/line@v9", str(runs[1])),
        "no repository": visrl("push", "user/nothing@v1.0", str(runs[1])),
        "damaged": _damaged(world, runs[1]),
        "other way": _other_way(world),
    }


def _damaged(world: World, run: Path) -> tuple[int, str, str]:
    """Somebody changed a file of the version on the Hub without its manifest."""
    from tests.helpers.loopback_git import Blob

    held = world.hub.dataset("user/line")
    head = held.resolve("main")
    report = b"{}"
    held.commit("heads/main", {**head.files, "report.json": Blob(report, len(report))}, "by hand", head.oid)
    held.refs["tags/hand"] = held.refs["heads/main"]
    return visrl("push", "user/line@hand", str(run), "--hub-id", "user/elsewhere")


def _other_way(world: World) -> tuple[int, str, str]:
    run = make_run(world.folder / "line-warm", photos(world.folder / "warm", **SHIPPED), temperature=1.0, box_win=0.5)
    return visrl("push", "user/line@v1.0", str(run.path), "--tag", "v1.9")


def put_back(world: World) -> dict:
    """A set is published without its pictures; a user who has them makes it whole, by name and tag."""
    from datasets import load_dataset

    from visrl_data.publishing.dataset import build_dataset

    source = photos(world.folder / "own", license="CC-BY-4.0")
    run = make_run(world.folder / "own-run", source, box_win=0.5).path
    visrl("push", str(run), "--hub-id", "user/bare", "--tag", "v1.0")
    bare = load_dataset("user/bare", revision="v1.0", split="train", cache_dir=world.cache())
    whole = build_dataset([run], world.folder / "own-whole", ship_images=True)
    target, wrong = world.folder / "own-complete", world.folder / "wrong"
    wrong.mkdir()
    for file in source.parent.glob("*.*g"):
        data = bytearray(file.read_bytes())
        data[-20] ^= 1
        (wrong / file.name).write_bytes(data)
    command = ["rebuild", "user/bare@v1.0", "--images"]
    refused = visrl(*command, str(wrong), "-o", str(target))
    nothing_written = not target.exists()
    world.hub.faults = [Fault("resolve_get", "cut")]
    code, out, err = visrl(*command, str(source.parent), "-o", str(target), "--json")
    world.hub.faults = []
    files, expected = file_bytes(target) if not code else {}, file_bytes(whole.folder)
    trained = load_dataset(str(target), "rl1", split="train", cache_dir=world.cache()) if files else []
    return {
        "published": [len(bare), sum(row["image"] is not None for row in bare)],
        "pixels on the Hub": [p for p in world.hub.dataset("user/bare").resolve("v1.0").files if "images" in p],
        "refused": refused,
        "nothing written": nothing_written,
        "rebuilt": [code, json.loads(out)["found"] if not code else err],
        "other files": sorted(p for p in {*files, *expected} if files.get(p) != expected.get(p)),
        "rl1": [len(trained), whole.counts["rl1"]["train"]],
        "pushed": visrl("push", str(target), "--hub-id", "user/bare"),
        "no tag": visrl("rebuild", "user/bare@v7", "--images", str(source.parent)),
        "no token": _unseen(world, source.parent),
    }


def _unseen(world: World, images: Path) -> tuple[int, str, str]:
    """A private set, for somebody whose token may not read it."""
    from tests.helpers.hub_world import environment

    world.hub.create("datasets", "user/hidden", private=True)
    with environment({"HF_TOKEN": "hf_" + "x" * 34}):
        return visrl("rebuild", "user/hidden@v1.0", "--images", str(images))


def leaked(world: World) -> list[str]:
    """Whatever lies on the Hub by now and holds the token or the folder of all that was published. Comes last."""
    words = (TOKEN.encode(), str(world.folder).encode())
    files = {(blob.oid, path): blob for repo in world.hub.repos.values() for commit in repo.commits.values()
             for path, blob in commit.files.items()}  # fmt: skip
    found = []
    for (_, path), blob in files.items():
        data = world.hub.large[blob.sha256] if blob.sha256 else blob.data
        if data.startswith(b"PAR1") and len(data) > 4:
            data = _plain(data)
        found += [path] if any(word in data for word in words) else []
    return found


def _plain(shard: bytes) -> bytes:
    """A parquet file's values as they are in memory, since the file is compressed."""
    table = pq.read_table(io.BytesIO(shard))
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


JOURNEYS: tuple[Callable[[World], Any], ...] = (
    model, with_base, from_the_command_line, exported, merged, put_back, *SPACES, leaked,
)  # fmt: skip
