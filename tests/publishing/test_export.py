"""Layouts of other trainers, checked against what those trainers document and do when they read such files."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.test_cli import visrl
from tests.helpers.dataset_runs import SHIPPED, file_bytes, make_run, photos
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.publishing.dataset import build_dataset
from visrl_data.publishing.export import export
from visrl_data.runs import pair_set
from visrl_data.runs.run_folder import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Questions that hold the trainers' own picture marker as text."""
    folder = tmp_path_factory.mktemp("export")
    source = photos(folder / "photos", rows=40, question=lambda i: f"Is <image> thing {i}?", license="mit")
    return make_run(folder / "run", source).path


def read_llamafactory(folder):
    """What LLaMA-Factory's parser and sharegpt converter take from a folder (data/README.md, ranking data):
    name -> rows of (prompt, chosen, rejected, picture files). media_dir is the dataset_dir.
    """
    found = {}
    for name, info in json.loads((folder / "dataset_info.json").read_text()).items():
        assert set(info) <= {"file_name", "formatting", "ranking", "columns", "tags", "subset", "split", "folder"}
        assert info["formatting"] == "sharegpt" and info["ranking"] is True
        columns = info["columns"]
        assert set(columns) <= {"messages", "chosen", "rejected", "images", "system", "tools", "videos", "audios"}
        found[name] = []
        for row in json.loads((folder / info["file_name"]).read_text()):
            turns = row[columns["messages"]]
            assert len(turns) % 2 == 1, "ranking data end with the user's turn"
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2) + ["human"]
            chosen, rejected = row[columns["chosen"]], row[columns["rejected"]]
            assert chosen["from"] == rejected["from"] == "gpt"
            pictures = [folder / path for path in row[columns["images"]]]
            texts = [turn["value"] for turn in turns] + [chosen["value"]]
            assert sum(text.count("<image>") for text in texts) == len(pictures), "checked by its mm_plugin"
            found[name].append((turns[-1]["value"], chosen["value"], rejected["value"], pictures))
    return found


def read_swift(folder):
    """What ms-swift's preprocessor takes from .jsonl files (Custom dataset: DPO, multimodal), by file name."""
    standard = {"messages", "rejected_response", "label", "images", "videos", "audios", "tools", "objects"}
    found = {}
    for file in sorted(folder.glob("*.jsonl")):
        found[file.stem] = []
        for line in file.read_text().splitlines():
            row = json.loads(line)
            assert set(row) - {"id"} <= standard
            user, assistant = row["messages"]
            assert (user["role"], assistant["role"]) == ("user", "assistant")
            assert user["content"] and assistant["content"], "check_messages refuses empty ones"
            assert row["rejected_response"] not in (None, assistant["content"]), "check_rejected_response"
            assert user["content"].count("<image>") == len(row["images"])
            assert all(Path(path).is_absolute() for path in row["images"])
            pictures = [Path(path) for path in row["images"]]
            found[file.stem].append((user["content"], assistant["content"], row["rejected_response"], pictures))
    return found


@pytest.mark.parametrize(("form", "read"), [("llamafactory", read_llamafactory), ("swift", read_swift)])
def test_the_layout_is_what_the_trainer_reads(run, tmp_path, form, read):
    """Rows, order and pixels are those of the dataset's rl1 and rl2."""
    from datasets import load_dataset

    result = export(run, form, tmp_path / "out")
    dataset = build_dataset([run], tmp_path / "set", ship_images=True)
    found = {name.removeprefix("visrl-"): rows for name, rows in read(tmp_path / "out").items()}
    assert {name: len(rows) for name, rows in found.items()} == result.rows
    for config in ("rl1", "rl2"):
        for split in dataset.counts[config]:
            name = config if split == "train" else f"{config}-{split}"
            rows = load_dataset(str(dataset.folder), config, split=split, cache_dir=str(tmp_path / "cache"))
            assert len(rows) == len(found[name])
            for row, (prompt, chosen, rejected, pictures) in zip(rows, found[name], strict=True):
                parts = [part["text"] or "<image>" for part in row["prompt"][0]["content"]]
                assert prompt == "\n".join(parts)
                assert chosen == row["chosen"][0]["content"][0]["text"]
                assert rejected == row["rejected"][0]["content"][0]["text"]
                for file, image in zip(pictures, row["images"], strict=True):
                    assert Image.open(file).tobytes() == image.tobytes()
    assert result.pictures == len(list((tmp_path / "out" / "images").iterdir()))
    assert (result.left_out, result.empty) == (0, 0)


@pytest.mark.parametrize("form", ["llamafactory", "swift"])
def test_a_dataset_exports_as_its_run_does(run, tmp_path, form, monkeypatch):
    """The very same files, given the same place."""
    dataset = build_dataset([run], tmp_path / "set", ship_images=True)
    export(dataset.folder, form, tmp_path / "out")
    from_dataset = file_bytes(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "first")
    export(run, form, tmp_path / "out")
    own = file_bytes(tmp_path / "out")
    assert own.keys() == from_dataset.keys()
    for name, data in own.items():
        rows = [sorted(content.splitlines()) for content in (data, from_dataset[name])]
        assert rows[0] == rows[1]


def test_pairs_without_a_picture_are_left_out_and_counted(tmp_path):
    source = photos(tmp_path / "photos", rows=40, license="mit", ship_image=lambda i: i % 4 < 2)
    run = make_run(tmp_path / "run", source)
    dataset = build_dataset([run.path], tmp_path / "set")
    result = export(dataset.folder, "swift", tmp_path / "out")
    assert result.left_out == sum(dataset.counts["preferences"].values()) - sum(dataset.counts["rl1"].values()) > 0
    assert sum(n for name, n in result.rows.items() if name.startswith("rl1")) == sum(dataset.counts["rl1"].values())
    bare = build_dataset([run.path], tmp_path / "bare", ship_images=False)
    with pytest.raises(VisRLError, match="visrl rebuild"):
        export(bare.folder, "swift", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_empty_win_is_no_row_for_these_trainers(tmp_path):
    from tests.conftest import scripted_reply

    def script(request, seed):
        reply = scripted_reply(request, seed)
        if "Model answer: \n" in "\n".join(part.text for part in request.parts):
            return '{"score": 1.0}'
        return "" if reply == "7" else reply

    run = make_run(tmp_path / "run", photos(tmp_path / "photos", **SHIPPED), script)
    result = export(run.path, "swift", tmp_path / "out")
    assert result.empty > 0 and set(result.rows) >= {"rl1", "rl2"}
    read_swift(tmp_path / "out")


def test_refusals(run, tmp_path):
    with pytest.raises(UsageError, match="expected one of llamafactory, swift, visrl"):
        export(run, "axolotl", tmp_path / "out")
    with pytest.raises(VisRLError, match="no finished run"):
        export(tmp_path, "swift", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("dear")
    with pytest.raises(VisRLError, match="not empty"):
        export(run, "swift", tmp_path / "full")


@pytest.mark.parametrize(("form", "ending"), [("llamafactory", ".yaml"), ("swift", ".sh")])
def test_the_next_command_is_of_a_file_that_trains(run, tmp_path, monkeypatch, form, ending):
    """The first pairs may be those of the validation split."""
    first = Run(run).pairs()["image_sha256"][0].as_py()
    monkeypatch.setattr(pair_set, "split_of", lambda sha: "validation" if sha == first else "train")
    out = visrl("export", run, "--format", form, "-o", tmp_path / "my pairs")[1]
    [command] = re.findall("^Train with: (.*)$", out, re.MULTILINE)
    file = shlex.split(command)[-1]
    assert file == str(tmp_path / "my pairs" / f"rl1{ending}") and Path(file).is_file()


def test_the_command(run, tmp_path):
    code, out, _ = visrl("export", run, "--format", "llamafactory", "-o", tmp_path / "out")
    assert code == 0 and "rl1: " in out and "images in" in out
    code, out, _ = visrl("export", run, "--format", "swift", "-o", tmp_path / "json", "--json")
    assert code == 0 and json.loads(out)["rows"]["rl1"] > 0
    code, out, err = visrl("export", run, "--format", "axolotl", "-o", tmp_path / "none")
    assert (code, out) == (2, "") and "llamafactory, swift, visrl" in err
    _, out, _ = visrl("export", "--help")
    assert "visrl export runs/photos" in out
