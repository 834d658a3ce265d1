"""What is published of a model folder names no folder of the machine, and no token."""

import json
import tomllib

import pytest

from tests.helpers.dataset_runs import file_bytes
from tests.helpers.release_folders import make_model
from visrl_data.core.errors import VisRLError
from visrl_data.models.model_folder import find_model
from visrl_data.publishing import model_release, release_plan

pytest_plugins = ["tests.train.test_helpers"]

HOME = "/home/me/my work"
CARD = f"""---
license: apache-2.0
---
# rl1

| Data | name {HOME}/runs/cars, pairs 11 |

visrl gen --model {{}} --source questions.jsonl    # the next round
visrl merge {{}} -o DIR
visrl train rl1 --config {{}}/config.toml -o DIR

data = "{HOME}/runs/cars"
"""


def local_model(folder):
    """A model folder as a stage leaves it, started from folders of this machine."""
    make_model(folder)
    record = {
        "origin_base": {"id": f"{HOME}/base"},
        "data": {"name": f"{HOME}/runs/cars"},
        "trained_from": {"id": "~/m"},
    }
    (folder / "visrl.json").write_text(json.dumps(record))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": f"{HOME}/base", "r": 16}))
    (folder / "config.toml").write_text(f'model = "{HOME}/base"\ndata = "{HOME}/runs/cars"\nepochs = 5\n')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": ["/usr/bin"]}}')
    (folder / "README.md").write_text(CARD.replace("{}", str(folder)))
    return folder


def test_paths_are_cut_to_their_last_part(tmp_path):
    folder = local_model(tmp_path / "private" / "rl1")
    before = file_bytes(folder)
    model_release.copy(folder, tmp_path / "copy")
    model_release.stamp(folder, tmp_path / "copy", "me/cars-rl1@v1.0")
    sent = {file.path: file.source.read_bytes() for file in release_plan.local_files(tmp_path / "copy", "model")}
    assert not any(word in data for data in sent.values() for word in (b"/home/", b"~/", str(tmp_path).encode()))
    assert json.loads(sent["visrl.json"]) == {
        "origin_base": {"id": "base"}, "data": {"name": "cars"}, "trained_from": {"id": "m"}
    }  # fmt: skip
    assert json.loads(sent["adapter_config.json"]) == {"base_model_name_or_path": "base", "r": 16}
    assert tomllib.loads(sent["config.toml"].decode()) == {"model": "base", "data": "cars", "epochs": 5}
    assert sent["tokenizer.json"] == before["tokenizer.json"], "words of a tokenizer are no paths"
    assert sent["model.safetensors"] == b"weights"
    assert file_bytes(folder) == before, "the folder itself is not changed"


def test_the_card_says_how_to_use_it_from_the_hub(tmp_path):
    folder, copy = local_model(tmp_path / "rl1"), tmp_path / "copy"
    model_release.copy(folder, copy)
    for tag in ("v1.0", "v1.1"):  # a release may be stamped twice
        model_release.stamp(folder, copy, f"me/cars@{tag}")
    card = (copy / "README.md").read_text()
    assert (
        "visrl gen --model me/cars@v1.1 --source questions.jsonl" in card and "visrl merge me/cars@v1.1 -o DIR" in card
    )
    assert "visrl train rl1 --config config.toml -o DIR" in card, "the stage keeps its name, which is the folder's too"
    assert "name cars, pairs 11" in card and "# rl1" in card


def test_a_model_that_was_trained_here(sft_model, untrained, tmp_path):
    """The real stage, on a base in a folder: the published adapter holds none of its paths, and still opens."""
    model_release.copy(sft_model, tmp_path / "copy")
    model_release.stamp(sft_model, tmp_path / "copy", "me/sft@v1.0")
    everything = b"".join(file_bytes(tmp_path / "copy").values())
    assert str(sft_model.parent).encode() not in everything and str(untrained.parent).encode() not in everything
    assert b"visrl gen --model me/sft@v1.0" in everything
    record, settings = (json.loads((tmp_path / "copy" / f).read_text()) for f in ("visrl.json", "adapter_config.json"))
    assert settings["base_model_name_or_path"] == record["origin_base"]["id"] == untrained.name
    assert record["origin_base"]["digest"] == find_model(str(untrained)).digest, "by which the base is known again"


def test_settings_that_cannot_be_read(tmp_path):
    folder = local_model(tmp_path / "rl1")
    (folder / "config.toml").write_text("model =")
    with pytest.raises(VisRLError, match=r"config\.toml cannot be read.*Nothing was sent"):
        model_release.copy(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("token: hf_" + "a" * 34, ["README.md, line 2: a Hub token"]),
        ("see {home}/notes.txt", ["README.md, line 2: the folder {home}/"]),
        ("log in with hf_..., see /home of the Hub", []),
    ],
)
def test_what_is_left_is_found_before_anything_is_sent(tmp_path, monkeypatch, text, found):
    home = str(tmp_path / "home" / "me")
    monkeypatch.setenv("HOME", home)
    folder = make_model(tmp_path / "m")
    (folder / "README.md").write_text("# A model\n" + text.format(home=home))
    leaks = release_plan.leaks(release_plan.local_files(folder, "model"))
    assert leaks == [line.format(home=home) for line in found]


def test_a_root_folder_that_is_the_home_is_in_no_web_address(tmp_path, monkeypatch):
    """In a container whose user has no home, HOME is /."""
    monkeypatch.setenv("HOME", "/")
    folder = make_model(tmp_path / "m")
    (folder / "README.md").write_text("# A model\nSee https://huggingface.co.\n")
    assert release_plan.leaks(release_plan.local_files(folder, "model")) == []


def test_the_users_own_token_is_found_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "s3cret-of-a-mirror")
    folder = make_model(tmp_path / "m")
    (folder / "metrics.jsonl").write_text('{"url": "https://x:s3cret-of-a-mirror@hub"}\n')
    leaks = release_plan.leaks(release_plan.local_files(folder, "model"))
    assert leaks == ["metrics.jsonl, line 1: a Hub token"]
