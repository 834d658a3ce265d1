"""Datasets that were made before, merged with runs: the same rows as all their runs would give, licenses kept."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.dataset_runs import SHIPPED, file_bytes, make_run, photos
from visrl_data.core.errors import VisRLError
from visrl_data.core.files import file_digest
from visrl_data.pipeline import finalize
from visrl_data.publishing.dataset import Stamp, build_dataset
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.publishing.rebuild import rebuild
from visrl_data.runs.dataset_folder import open_dataset, tables
from visrl_data.runs.hub_fetch import HubDataset


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of the drawn world: the second repeats the first's 20 questions and has 10 more."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"a": {"limit": 20}, "b": {"limit": 30}, "c": {"limit": 20, "seed": 1}}
    return {name: make_run(folder / name, **given).path for name, given in options.items()}


@pytest.fixture(scope="module")
def first(runs, tmp_path_factory):
    return build_dataset([runs["a"]], tmp_path_factory.mktemp("first") / "set", Stamp("v1.0", "me/spot"))


def rows_of(dataset, config):
    files = sorted((dataset.folder / "data" / config).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def apart_from_origin(dataset):
    """Every file but those that tell where the parts came from."""
    return {
        name: data for name, data in file_bytes(dataset.folder).items() if name not in ("README.md", "manifest.json")
    }


def test_a_dataset_stands_for_its_runs(runs, first, tmp_path):
    merged = build_dataset([first.folder, runs["b"]], tmp_path / "merged")
    both = build_dataset([runs["a"], runs["b"]], tmp_path / "both")
    assert apart_from_origin(merged) == apart_from_origin(both)
    assert {k: v for k, v in merged.manifest.items() if k not in ("parts", "sha256")} == {
        k: v for k, v in both.manifest.items() if k not in ("parts", "sha256")
    }
    assert merged.manifest["repeated_questions"] == 20
    check_dataset(merged.folder)


def test_versions_of_versions(runs, first, tmp_path):
    """v1.0 and a run give v1.1; v1.1 and a run give what all runs give, whichever runs are named again."""
    second = build_dataset([first.folder, runs["b"]], tmp_path / "second")
    third = build_dataset([second.folder, runs["a"], runs["c"]], tmp_path / "third")
    at_once = build_dataset([runs["a"], runs["b"], runs["c"]], tmp_path / "at_once")
    assert apart_from_origin(third) == apart_from_origin(at_once)
    assert third.manifest["repeated_questions"] == 40, "those of b, and those of a, named twice"


def test_where_the_parts_came_from(runs, first, tmp_path):
    fetched = HubDataset(first.folder, "me/spot@v1.0", "c" * 40)
    merged = build_dataset([fetched, runs["b"]], tmp_path / "merged")
    published, run = merged.manifest["parts"]
    assert (published["dataset"], published["commit"]) == ("me/spot@v1.0", "c" * 40)
    assert published["runs"] == [first.manifest["runs"][0]["id"]]
    assert (run["dataset"], run["commit"]) == (None, None)
    assert (published["questions"], run["questions"]) == (20, 10), "what both have counts in the first"
    rows = rows_of(merged, "preferences")
    for part in (published, run):
        assert sum(row["run"] in part["runs"] for row in rows) == part["pairs"] > 0
    card = (merged.folder / "README.md").read_text()
    assert f"| me/spot@v1.0 | `{'c' * 12}` | `{published['runs'][0]}` | 20 | {published['pairs']} |" in card
    assert f"| a run | - | `{run['runs'][0]}` | 10 | {run['pairs']} |" in card
    assert merged.notes[0] == f"me/spot@v1.0: 20 questions, {published['pairs']} pairs in the dataset."


def test_a_single_run_lists_no_parts(first):
    assert "Merged from" not in (first.folder / "README.md").read_text()


def test_licenses_are_kept(tmp_path):
    """The first version's answer to "which license?" stays with its rows; the new run is asked about its own alone."""
    silent = make_run(tmp_path / "silent", photos(tmp_path / "p1", ship_image=True)).path
    stated = make_run(tmp_path / "stated", photos(tmp_path / "p2", rows=12, **SHIPPED), seed=1).path
    first = build_dataset([silent], tmp_path / "first", license="CC-BY-4.0")
    merged = build_dataset([first.folder, stated], tmp_path / "merged")
    of_run = {row["run"]: row["license"] for row in rows_of(merged, "candidates")}
    assert list(of_run.values()) == ["CC-BY-4.0", "CC0-1.0"]
    assert (merged.manifest["license"]["id"], merged.manifest["license"]["name"]) == ("other", "mixed")
    more = make_run(tmp_path / "more", photos(tmp_path / "p3", rows=8, ship_image=True), seed=2).path
    with pytest.raises(VisRLError, match=r"8 of 32 questions state none"):
        build_dataset([first.folder, more], tmp_path / "none")


def test_pictures_that_were_published_stay_and_those_that_were_not_are_not_there(tmp_path):
    """v1.0 left out six of its twelve pictures; another run, on the first six of the twelve, brings three of them."""
    source = photos(tmp_path / "p1", license="CC0-1.0", ship_image=lambda i: i // 2 % 2 == 0)
    run = make_run(tmp_path / "run", source, box_win=0.5).path
    other = make_run(tmp_path / "other", photos(tmp_path / "p2", rows=12, license="CC0-1.0"), seed=1, box_win=0.5).path
    part, whole = build_dataset([run], tmp_path / "part"), build_dataset([run], tmp_path / "whole", ship_images=True)

    def pictures(dataset):
        return {row["sha256"] for row in rows_of(dataset, "images")}

    merged = build_dataset([whole.folder, other], tmp_path / "merged")
    assert pictures(merged) == pictures(whole) and len(pictures(whole)) == 12, "the user's word for v1.0 holds on"
    merged = build_dataset([part.folder, other], tmp_path / "merged", ship_images=True)
    assert len(pictures(part)) == 6 and len(pictures(merged)) == 9
    assert merged.manifest["unavailable"] == 3, "all else goes out, but of these there are no pixels"
    assert "3 of them were left out by a dataset that is merged here" in " ".join(merged.notes)
    assert "3 of them were left out by an earlier dataset" in (merged.folder / "README.md").read_text()
    assert check_dataset(merged.folder) > 0
    merged = build_dataset([part.folder, run], tmp_path / "merged", ship_images=True)
    assert pictures(merged) == pictures(whole) and merged.manifest["unavailable"] == 0, "the run brings the pixels"


def test_what_cannot_be_merged_is_told(runs, first, tmp_path):
    other = make_run(tmp_path / "warm", limit=10, temperature=1.5).path
    with pytest.raises(
        VisRLError, match=r"set, run \w{12} and .*warm started with different options:\n  temperature: 2"
    ):
        build_dataset([first.folder, other], tmp_path / "none")
    changed = shutil.copytree(first.folder, tmp_path / "changed")
    (changed / "runs" / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(VisRLError, match=r"changed: runs/pairs\.parquet is missing or was changed"):
        build_dataset([changed, runs["b"]], tmp_path / "none")
    manifest = json.loads((changed / "manifest.json").read_text())
    del manifest["sha256"]["runs/drops.parquet"]
    (changed / "runs" / "drops.parquet").unlink()
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VisRLError, match=r"no runs/drops\.parquet.*Merge the runs"):
        build_dataset([changed, runs["b"]], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_how_a_server_was_used_makes_no_other_pairs(runs, tmp_path):
    options = {"in_flight": 4, "vllm_options": {"gpu_memory_utilization": 0.5}}
    other = make_run(tmp_path / "run", limit=10, seed=2, **options)
    assert len(build_dataset([runs["a"], other.path], tmp_path / "set").manifest["runs"]) == 2


def test_a_dataset_of_an_earlier_version_has_no_likelihoods(runs, first, tmp_path):
    old = shutil.copytree(first.folder, tmp_path / "old")
    manifest = json.loads((old / "manifest.json").read_text())
    for file in old.glob("data/candidates/*.parquet"):
        pq.write_table(pq.read_table(file).drop(["box_logprob"]), file)
        manifest["sha256"][file.relative_to(old).as_posix()] = file_digest(file)
    (old / "manifest.json").write_text(json.dumps(manifest))
    read = pa.concat_tables(tables(open_dataset(old), "candidates"))
    assert read["box_logprob"].null_count == read.num_rows > 0
    merged = build_dataset([old, runs["b"]], tmp_path / "merged")
    assert check_dataset(merged.folder) > 0
    assert {row["box_logprob"] for row in rows_of(merged, "candidates")} == {None}
    assert merged.counts["candidates"] == build_dataset([first.folder, runs["b"]], tmp_path / "m").counts["candidates"]


def test_runs_whose_ties_were_broken_otherwise_are_not_merged(runs, tmp_path):
    other = make_run(tmp_path / "actor-first", limit=10, seed=4, lose="actor-first").path
    with pytest.raises(VisRLError, match=r"filter\.lose: uniform -> actor-first\n.*visrl filter"):
        build_dataset([runs["b"], other], tmp_path / "none")
    finalize.filter_run(other, {}, lose="uniform")
    assert build_dataset([runs["b"], other], tmp_path / "both").counts["preferences"]


def test_a_rebuilt_dataset_is_no_part(tmp_path):
    run = make_run(tmp_path / "run", photos(tmp_path / "photos", license="CC0-1.0")).path
    made = rebuild(build_dataset([run], tmp_path / "part").folder, tmp_path / "photos", tmp_path / "rebuilt")
    with pytest.raises(VisRLError, match="rebuilt with images that its sources do not let others publish"):
        build_dataset([made.dataset.folder, run], tmp_path / "none")


def test_rows_that_were_dropped_do_not_name_folders(tmp_path):
    source = photos(tmp_path / "photos", **SHIPPED)
    row = {"id": "gone", "question": "q", "answers": ["a"], "image": str(tmp_path / "private" / "x.png")}
    source.write_text(source.read_text() + json.dumps(row) + "\n")
    run = make_run(tmp_path / "run", source)
    assert any(str(tmp_path) in drop["detail"] for drop in run.table("drops").to_pylist()), "the run says which file"
    made = build_dataset([run.path], tmp_path / "set")
    drops = pq.read_table(made.folder / "runs" / "drops.parquet").to_pylist()
    assert [d["reason"] for d in drops if d["stage"] == "source"] and not re.search("private", json.dumps(drops))
