"""What a release would change: files, schema, counts, names. No Hub."""

import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.release_folders import make_dataset, make_model
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.publishing import model_release, release_plan
from visrl_data.publishing.release_plan import CardFacts, compare_cards, plan_files


def paths(files):
    return [file.path for file in files]


def test_digests_are_those_of_the_hub(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert release_plan.git_blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a", "git hash-object"
    files = release_plan.local_files(make_dataset(tmp_path / "d"), "dataset")
    for file in files:
        assert file.blob == release_plan.git_blob(file.source.read_bytes())
        assert release_plan.is_same(file, file.sha256) and release_plan.is_same(file, file.blob)
        assert not release_plan.is_same(file, "0" * 64)


def test_git_agrees(tmp_path):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    (tmp_path / "x").write_bytes(b"\0" * 100_000)
    found = subprocess.run(["git", "hash-object", tmp_path / "x"], capture_output=True, text=True, check=True)
    assert release_plan.git_blob(b"\0" * 100_000) == found.stdout.strip()


def test_a_dataset_is_sent_whole_but_for_work_files(tmp_path):
    folder = make_dataset(tmp_path / "d")
    for stray in (".lock", "data/x.tmp", ".cache/x", "data/.hidden"):
        (folder / stray).parent.mkdir(exist_ok=True)
        (folder / stray).write_text("x")
    assert paths(release_plan.local_files(folder, "dataset")) == [
        "README.md",
        "data/candidates/train-00000-of-00001.parquet",
        "data/preferences/train-00000-of-00001.parquet",
        "data/preferences/validation-00000-of-00001.parquet",
        "manifest.json",
        "report.json",
    ]


def test_the_template_of_a_new_space_is_nobodys(tmp_path):
    for name in ("README.md", "index.html", "report.json"):
        (tmp_path / name).write_text(name)
    there = {"README.md": "1", "index.html": "2", "style.css": "3"}
    plan = plan_files(release_plan.local_files(tmp_path, "space"), there, "space")
    assert (paths(plan.add), paths(plan.change), plan.delete) == (
        ["report.json"], ["README.md", "index.html"], ("style.css",),
    )  # fmt: skip
    assert release_plan.unknown_files(plan, there, "space", untouched=True) == []
    assert release_plan.unknown_files(plan, there, "space") == ["index.html", "style.css"]
    assert release_plan.unknown_files(plan, there | {"report.json": "4"}, "space") == [], "an earlier release of ours"


@pytest.mark.parametrize(("kind", "gone"), [("dataset", "README.md"), ("dataset", "manifest.json"),
                                            ("model", "visrl.json"), ("model", "model.safetensors")])  # fmt: skip
def test_a_folder_that_is_not_finished_is_refused(tmp_path, kind, gone):
    folder = make_dataset(tmp_path / "d") if kind == "dataset" else make_model(tmp_path / "m")
    (folder / gone).unlink()
    with pytest.raises(VisRLError, match=rf"no {kind} to publish: it has no .*{gone.partition('.')[2]}"):
        release_plan.local_files(folder, kind)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("model.safetensors", True),
        ("adapter_model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("adapter_config.json", True),
        ("visrl.json", True),
        ("tokenizer.model", True),
        ("merges.txt", True),
        ("LICENSE", True),
        ("README.md", True),
        ("additional_chat_templates/tools.jinja", True),
        ("pytorch_model.bin", False),
        ("training_args.bin", False),
        ("optimizer.pt", False),
        ("optimizer.safetensors", False),
        ("scheduler.pt", False),
        ("rng_state_0.pth", False),
        ("trainer_state.json", False),
        ("checkpoint-10/model.safetensors", False),
        ("weights.pkl", False),
        ("train.py", False),
        ("curves.svg", True),
        ("metrics.jsonl", True),
        ("config.toml", True),
        ("work/begun.json", False),
    ],
)
def test_of_a_model_goes_out(path, sent):
    assert model_release.is_model_file(path) == sent


def test_notes_on_a_model_folder(tmp_path):
    folder = make_model(tmp_path / "m")
    (folder / "README.md").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/home/me/base"}))
    notes = " ".join(model_release.notes(folder))
    assert "optimizer.pt, training_args.bin" in notes and "no README.md" in notes and "/home/me/base" in notes
    assert "spotlight-base" not in notes


def test_the_plan_of_a_commit(tmp_path):
    files = release_plan.local_files(make_dataset(tmp_path / "d"), "dataset")
    there = {file.path: file.sha256 if file.path.endswith("parquet") else file.blob for file in files}
    same = plan_files(files, there, "dataset")
    assert same.is_empty and same.unchanged == len(files)
    there |= {"README.md": "0" * 40, "data/old.parquet": "1" * 64, ".gitattributes": "2" * 40, "notes.txt": "3" * 40}
    del there["report.json"]
    plan = plan_files(files, there, "dataset")
    assert (paths(plan.add), paths(plan.change), plan.delete) == (["report.json"], ["README.md"], ("data/old.parquet",))
    assert plan.lines()[-2:] == ["- data/old.parquet", "= 4 files are the same"]


def test_files_of_others_are_not_replaced(tmp_path):
    files = release_plan.local_files(make_model(tmp_path / "m"), "model")
    there = {"README.md": "0" * 40, "model.safetensors": "1" * 64, "old.safetensors": "2" * 64, "x.md": "3" * 40}
    plan = plan_files(files, there, "model")
    assert release_plan.unknown_files(plan, there, "model") == ["model.safetensors", "old.safetensors"]
    assert release_plan.unknown_files(plan, there | {"visrl.json": "4" * 40}, "model") == []
    new = {".gitattributes": "0" * 40, "README.md": "1" * 40}
    assert release_plan.unknown_files(plan_files(files, new, "model"), new, "model") == []


def test_a_file_that_was_not_written_since_is_not_read_again(tmp_path, monkeypatch):
    folder = make_dataset(tmp_path / "d")
    (folder / "data/large.parquet").write_bytes(b"\0" * 2**20)
    first = release_plan.local_files(folder, "dataset")
    reads = []
    monkeypatch.setattr(release_plan, "file_digest", lambda file: reads.append(file.name))
    release_plan.local_files(folder, "dataset")
    assert len(reads) == len(first) - 1 and "large.parquet" not in reads, "small ones can change within a tick"


OLD = CardFacts({"pairs": {"id": "string", "score": "float64"}, "pool": {"q": "string"}}, {"pairs/train": 10})


def test_a_card_states_schema_and_counts(tmp_path):
    facts = release_plan.card_facts((make_dataset(tmp_path / "d") / "README.md").read_text())
    assert facts.features == {
        "preferences": {"id": "string", "images": '{"list": "image"}', "score": "float64"},
        "candidates": {"question": "string", "box": '{"list": "float64"}'},
    }
    assert facts.rows == {"preferences/train": 6, "preferences/validation": 2, "candidates/train": 18}
    assert release_plan.card_facts("# no head").features == {}


def test_one_config_may_stand_alone():
    head = (
        "---\ndataset_info:\n  features: [{name: x, dtype: int64}]\n  splits: [{name: train, num_examples: 3}]\n---\n"
    )
    assert release_plan.card_facts(head) == CardFacts({"default": {"x": "int64"}}, {"default/train": 3})


def test_nested_columns_are_flat():
    features = [
        {"name": "a", "struct": [{"name": "b", "dtype": "string"}, {"name": "c", "list": "float64"}]},
        {"name": "d", "list": [{"name": "e", "dtype": "int32"}]},
        {"name": "f", "dtype": {"class_label": {"names": {"0": "x"}}}},
    ]
    assert release_plan.flat_features(features) == {
        "a.b": "string",
        "a.c": '{"list": "float64"}',
        "d[].e": "int32",
        "f": '{"dtype": {"class_label": {"names": {"0": "x"}}}}',
    }


@pytest.mark.parametrize(
    ("new", "lines", "breaking"),
    [
        (OLD, [], 0),
        (CardFacts(OLD.features, {"pairs/train": 12}), ["pairs/train: 10 -> 12 rows"], 0),
        (CardFacts(OLD.features, {}), ["split pairs/train is gone; it had 10 rows"], 1),
        (CardFacts({"pool": {"q": "string"}}, {}), ["config pairs is gone"], 1),
        (
            CardFacts({**OLD.features, "pool": {"q": "int64", "r": "string"}}, OLD.rows),
            ["pool: column q was string, is int64", "pool: column r (string) is new"],
            1,
        ),
        (
            CardFacts({**OLD.features, "pairs": {"score": "float64"}}, OLD.rows),
            ["pairs: column id is gone"],
            1,
        ),
        (
            CardFacts({**OLD.features, "rl1": {"x": "int64"}}, {**OLD.rows, "rl1/train": 4}),
            ["config rl1 is new, with 1 columns", "rl1/train: 4 rows"],
            0,
        ),
    ],
)
def test_differences_between_versions(new, lines, breaking):
    change = compare_cards(OLD, new)
    assert list(change.lines) == lines
    assert list(change.breaking) == lines[:breaking]


def test_a_first_version_breaks_nothing_and_an_unknown_schema_might():
    assert compare_cards(None, OLD).breaking == ()
    assert "states no schema" in compare_cards(CardFacts({}, {}), OLD).breaking[0]


@pytest.mark.parametrize(
    ("tags", "breaking", "expected"),
    [
        ([], False, "v1.0"),
        (["iter0", "v1"], True, "v1.0"),
        (["v1.0"], False, "v1.1"),
        (["v1.9", "v1.10", "v0.3"], False, "v1.11"),
        (["v1.9", "v1.10"], True, "v2.0"),
    ],
)
def test_the_next_tag(tags, breaking, expected):
    assert release_plan.next_tag(tags, breaking) == expected


@pytest.mark.parametrize("tag", ["v1.0", "iter0", "2024-01-02", "a/b"])
def test_tags(tag):
    release_plan.check_tag(tag)


@pytest.mark.parametrize(
    "tag", ["", "main", "a b", "-x", "a..b", "x.lock", "refs/tags/x", "a//b", "deadbeef", "vé", "x/"]
)
def test_no_tags(tag):
    with pytest.raises(UsageError, match="--tag"):
        release_plan.check_tag(tag)


@pytest.mark.parametrize(
    "name", ["", "pairs", "a/b/c", "a/", "/b", "a/b--c", "a/b..c", "a/-b", "a b/c", "a/b.git", "a/bé"]
)
def test_no_hub_ids(name):
    with pytest.raises(UsageError, match="user/name"):
        release_plan.check_hub_id(name)


@given(st.text(max_size=120))
def test_any_folder_has_a_name_on_the_hub(text):
    release_plan.check_hub_id(f"user/{release_plan.repo_name(text)}")


def test_names_are_kept_where_they_can_be():
    assert release_plan.repo_name("questions-train-1a2b3c4d") == "questions-train-1a2b3c4d"
    assert release_plan.repo_name("my photos (2)") == "my-photos-2"


def test_sizes():
    assert [release_plan.size_text(n) for n in (0, 999, 1000, 2.5e6, 7e9, 2e12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "2.5 MB", "7.0 GB", "2000.0 GB"
    ]  # fmt: skip
