"""Runs and datasets that are cut, flipped, edited, incomplete or a stranger's: one message each, and nothing changes.

The message names the file, and the command that it advises works.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.command import visrl
from tests.helpers.dataset_runs import SHIPPED, file_bytes, make_run, photos
from visrl_data.core.errors import VisRLError
from visrl_data.pipeline import finalize
from visrl_data.publishing.dataset import build_dataset
from visrl_data.publishing.export import export
from visrl_data.publishing.rebuild import rebuild
from visrl_data.runs.dataset_folder import open_dataset
from visrl_data.runs.opening import open_target
from visrl_data.runs.parts import run_part
from visrl_data.runs.run_folder import Run
from visrl_train.pairs import read_pairs


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A finished run; 24 questions on 12 pictures that may be shipped."""
    folder = tmp_path_factory.mktemp("damage")
    return make_run(folder / "run", photos(folder / "photos", **SHIPPED)).path


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


@pytest.fixture(scope="module")
def published(original, tmp_path_factory):
    return build_dataset([original], tmp_path_factory.mktemp("published") / "set").folder


@pytest.fixture
def dataset(published, tmp_path):
    return shutil.copytree(published, tmp_path / "set")


READERS = {
    "filter": lambda run: finalize.filter_run(run, {"box_win": 0.7}),
    "push": run_part,
    "train": lambda run: read_pairs(str(run)),
    "export": lambda run: export(run, "swift", run.with_name("out")),
    "inspect": lambda run: open_target(str(run)),
}
FILTERED = {"report.json", "pairs.parquet", "unpaired.parquet"}


def spoil(file: Path, kind: str) -> None:
    data = bytearray(file.read_bytes())
    if kind == "gone":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "flipped":
        data[len(data) // 2] ^= 0x81
        file.write_bytes(data)
    else:
        file.write_text(kind)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["gone", "cut", "empty", "flipped", "[]", "null", '{"a": NaN}', "[" * 100_000])
@pytest.mark.parametrize(
    "name", ["manifest.json", "run.json", "config.toml", "report.json", "candidates/part-00000.parquet"]
)
def test_a_damaged_file_is_one_message_and_nothing_is_written(run, name, kind, reader):
    spoil(run / name, kind)
    before = file_bytes(run)
    if reader == "filter" and name in FILTERED:
        READERS[reader](run)
        assert json.loads((run / "report.json").read_text())["settings"]["box_win"] == 0.7, "it is written anew"
        return
    with pytest.raises(VisRLError, match=re.escape(name)) as error:
        READERS[reader](run)
    assert str(error.value).count("\n") == 0 and len(str(error.value)) < 1000
    after = file_bytes(run)
    after.pop(".lock", None)
    before.pop(".lock", None)
    assert after == before


@pytest.mark.parametrize("reader", ["filter", "push", "train", "export"])
@pytest.mark.parametrize("name", ["images", "questions", "candidates", "drops"])
def test_without_one_of_its_folders(run, name, reader):
    shutil.rmtree(run / name)
    before = file_bytes(run)
    with pytest.raises(VisRLError, match=f"{name}/part-00000.parquet is missing"):
        READERS[reader](run)
    assert file_bytes(run) == before


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["part-00000 (1).parquet", "part-00001.parquet", "part-00000 (Conflict).parquet"])
def test_a_copy_beside_a_shard_is_refused(run, name, reader):
    shutil.copy(run / "candidates" / "part-00000.parquet", run / "candidates" / name)
    with pytest.raises(VisRLError, match=re.escape(name)):
        READERS[reader](run)
    assert Run(run).table("candidates").num_rows == Run(run).manifest()["counts"]["candidates"]


def test_filter_makes_no_damage_valid(run):
    """A replaced picture, an edited seed: what filter does not write keeps the digest that was stated."""
    stated = Run(run).manifest()["sha256"]
    finalize.filter_run(run, {"box_win": 0.7})
    kept = {name: digest for name, digest in stated.items() if "/" in name or name in ("config.toml", "run.json")}
    assert kept.items() <= Run(run).manifest()["sha256"].items()
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("seed = 0", "seed = 1"))
    with pytest.raises(VisRLError, match="config.toml is missing or was changed.* a copy of it; manifest.json names"):
        finalize.filter_run(run, {"box_win": 0.6})
    (run / "config.toml").write_text(config)
    images = run / "images" / "part-00000.parquet"
    table = pq.read_table(images)
    pq.write_table(
        table.set_column(1, "bytes", table["bytes"].combine_chunks().take(pa.array([1, 0, *range(2, 12)]))), images
    )
    with pytest.raises(VisRLError, match="images/part-00000.parquet is missing or was changed"):
        finalize.filter_run(run, {"box_win": 0.6})


def test_the_advice_for_a_lost_report_works(run):
    (run / "report.json").unlink()
    code, _, err = visrl("push", run, "--dry-run", "--hub-id", "me/x")
    assert code == 1 and "report.json is missing" in err
    code, _, _ = visrl(*shlex.split(err.split("writes it: visrl ")[1])[:2])
    assert code == 0
    assert visrl("inspect", run)[0] == 0


def test_a_finished_run_without_its_manifest_is_not_made_again_over_what_is_there(run):
    (run / "manifest.json").unlink()
    for command in (["inspect", run], ["filter", run], ["gen", "--config", run / "config.toml", "-o", run]):
        code, _, err = visrl(*command)
        assert code == 1 and "manifest.json is missing, though the run was finished" in err
        assert f"-o {run}-again" in err


@pytest.mark.parametrize("lost", ["data/images/train*", "data/*/train*", "data/candidates/*", "runs/drops.parquet"])
def test_a_partly_copied_dataset_is_not_rebuilt(dataset, tmp_path, lost):
    for file in dataset.glob(lost):
        file.unlink()
    (tmp_path / "pictures").mkdir()
    with pytest.raises(VisRLError, match="is missing or was changed since the dataset was built"):
        rebuild(dataset, tmp_path / "pictures", tmp_path / "out", allow_missing=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("read", ["train", "export", "rebuild", "merge"])
def test_a_copy_beside_a_shard_of_a_dataset_is_refused(dataset, tmp_path, read):
    [shard] = (dataset / "data" / "images").glob("train-*")
    shutil.copy(shard, shard.with_name("train-00001-of-00002.parquet"))
    readers = {
        "train": lambda: read_pairs(str(dataset)),
        "export": lambda: export(dataset, "swift", tmp_path / "out"),
        "rebuild": lambda: rebuild(dataset, tmp_path, tmp_path / "out"),
        "merge": lambda: build_dataset([dataset], tmp_path / "out"),
    }
    with pytest.raises(VisRLError, match="train-00001-of-00002.parquet is not in its manifest"):
        readers[read]()


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["runs"], "[]"),
        (["runs"], '{"a": 1}'),
        (["runs"], '["text"]'),
        (["runs", 0, "run", "prompts"], '{"evil@12345678": "text"}'),
        (["runs", 0, "run", "prompts"], "[]"),
        (["runs", 0, "config", "seed"], '"text"'),
        (["runs", 0, "config"], "[]"),
        (["runs", 0, "run", "versions"], "null"),
        (["runs", 0, "counts"], "{}"),
        (["runs", 0, "filter", "box_win"], '"high"'),
        (["counts"], "[1]"),
        (["counts", "preferences"], '{"train": -1}'),
        (["license"], '"mit"'),
        (["license", "sources"], "[1]"),
        (["sha256"], '{"../../etc/passwd": "0"}'),
        (["sha256"], '{"/etc/passwd": "0"}'),
        (["images"], "1e400"),
        (["images"], "NaN"),
        (["pretty_name"], deep(10_000)),
        (["schema_version"], '"1"'),
        (["example"], "7"),
    ],
)
def test_a_strangers_manifest_is_one_message(dataset, tmp_path, path, value):
    manifest = json.loads((dataset / "manifest.json").read_text())
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "REPLACE"
    text = json.dumps(manifest).replace('"REPLACE"', value)
    (dataset / "manifest.json").write_text(text)
    for read in (
        lambda: open_dataset(dataset),
        lambda: open_target(str(dataset)),
        lambda: rebuild(dataset, tmp_path, tmp_path / "out"),
        lambda: build_dataset([dataset], tmp_path / "out"),
        lambda: read_pairs(str(dataset)),
    ):
        with pytest.raises(VisRLError) as error:
            read()
        assert len(str(error.value)) < 1000


def test_a_table_of_other_columns_is_one_message(run):
    """Digests that fit are no proof: a stranger states them too."""
    from visrl_data.core.files import file_digest

    table = pq.read_table(run / "pairs.parquet")
    for spoilt in (
        table.drop(["win_box_text"]),
        table.set_column(table.column_names.index("question"), "question", pa.array([1] * table.num_rows)),
        table.append_column("question", table["question"]),
        table.set_column(
            table.column_names.index("question"),
            "question",
            pa.array([b"\xff\xfe"] * table.num_rows, pa.binary()).view(pa.string()),
        ),
    ):
        pq.write_table(spoilt, run / "pairs.parquet")
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["sha256"]["pairs.parquet"] = file_digest(run / "pairs.parquet")
        (run / "manifest.json").write_text(json.dumps(manifest))
        for reader in ("push", "train", "export"):
            with pytest.raises(VisRLError, match="pairs.parquet"):
                READERS[reader](run)
