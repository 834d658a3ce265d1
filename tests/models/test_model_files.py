"""Model folders that are damaged, or not what they seem: one message, before anything is loaded."""

import json
import shutil

import pytest
import torch

from tests.helpers.command import visrl
from visrl_data.core.errors import VisRLError
from visrl_data.engines.loading import load_model, load_processor
from visrl_data.models.model_folder import fetch_model, find_model
from visrl_data.spotlight import ACTOR


@pytest.fixture
def folder(untrained, tmp_path):
    return shutil.copytree(untrained, tmp_path / "model")


def shard(folder, name):
    """Name the weights in an index, as those of large models are."""
    weights = folder / "model.safetensors"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    weights.rename(folder / name)
    index = {"metadata": {}, "weight_map": {"x": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_of_weights_beside_it_is_followed(folder):
    shard(folder, "model-00001-of-00001.safetensors")
    find_model(str(folder))


@pytest.mark.parametrize("name", ["sub/w.safetensors", "../w.safetensors", "w.dat", "./w.safetensors"])
def test_weights_elsewhere_are_refused(name, folder):
    """They would not be in the model's digest."""
    shard(folder, name)
    with pytest.raises(
        VisRLError, match=r"model\.safetensors\.index\.json names the weights .*w\..*no safetensors file"
    ):
        find_model(str(folder))


def test_an_index_that_names_what_is_not_there_is_refused(folder):
    shard(folder, "w.safetensors")
    (folder / "w.safetensors").unlink()
    with pytest.raises(VisRLError, match=r"names the weights w\.safetensors"):
        find_model(str(folder))


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', "{"])
def test_an_index_of_another_shape_is_refused(content, folder):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(VisRLError, match=r"index\.json"):
        find_model(str(folder))


def test_weights_that_the_config_names_elsewhere_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "../other.safetensors"}))
    with pytest.raises(VisRLError, match=r"config\.json names the weights \.\./other"):
        find_model(str(folder))


@pytest.mark.parametrize("size", [0, 3, 8, 100, -1])
def test_weights_that_were_cut_short_are_refused(size, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(VisRLError, match=r"model\.safetensors .*Copy or download it again"):
        find_model(str(folder))


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"x": 1}', b'{"x": {"data_offsets": []}}', b'{"x": {}}'])
def test_weights_with_a_damaged_header_are_refused(header, folder):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(VisRLError, match=r"model\.safetensors has a damaged header"):
        find_model(str(folder))


@pytest.mark.parametrize("base", ["itself", "each other"])
def test_an_adapter_on_an_adapter_is_refused(base, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, other in ((one, one if base == "itself" else two), (two, one)):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(other)}))
        (folder / "adapter_model.safetensors").write_bytes(b"\x02" + 7 * b"\x00" + b"{}")
    for use in (find_model, fetch_model):
        with pytest.raises(VisRLError, match="which is itself an adapter"):
            use(str(one))


@pytest.mark.parametrize("name", [7, ["a"], {"a": 1}, None, ""])
def test_the_name_of_a_base_is_a_text(name, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
    with pytest.raises(VisRLError, match="names no base_model_name_or_path"):
        find_model(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "null", "7", '"llava"', "{", "[" * 100_000, '{"model_type": ["llava"]}', '{"auto_map": [1]}'),
        *('{"model_type": "llava", "text_config": {"hidden_size": "x"}}', "{}"),
    ],
)
def test_a_config_of_another_shape_is_one_message(content, folder):
    (folder / "config.json").write_text(content)
    with pytest.raises(VisRLError) as error:
        model = find_model(str(folder))
        load_processor(model, None, False)
        load_model(model, torch.float32, False)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("box_space", "leagues"), ("box_space", []), ("steps", 3), ("steps", "2"), ("crop_rule", [1])),
        *(("crop_rule", {"min_side": "x", "max_aspect": 2}), ("crop_rule", {"side": 1}), ("prompts", ["x"])),
        *(("crop_rule", {"min_side": float("nan")}), ("prompts", {"focus@1": 7}), ("origin_base", "x")),
        *(("origin_base", {}), ("origin_base", {"id": 7}), ("base", [1]), ("base", {"id": "x", "digest": 7})),
    ],
)
def test_a_record_that_training_did_not_write_is_refused(name, value, folder):
    (folder / "visrl.json").write_text(json.dumps({name: value}))
    with pytest.raises(VisRLError, match=rf"visrl\.json: {name} is not as training writes it"):
        find_model(str(folder))


def test_an_empty_field_of_a_record_is_as_if_it_were_not_there(folder):
    (folder / "visrl.json").write_text(json.dumps({"prompts": None, "steps": None, "box_space": None}))
    model = find_model(str(folder))
    assert (model.prompts, model.steps, model.box_space) == ({}, 2, None)


def test_a_base_that_is_recorded_without_a_digest_may_be_any(tmp_path):
    adapter = shutil.copytree(ACTOR, tmp_path / "actor")
    (adapter / "visrl.json").write_text(json.dumps({"base": {"id": "spotlight-base"}}))
    assert find_model(str(adapter)).weights.id == "spotlight-base"


def test_a_damaged_adapter_is_one_message(untrained, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    about = {"base_model_name_or_path": str(untrained), "peft_type": "NO_SUCH", "r": "x"}
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    (adapter / "adapter_model.safetensors").write_bytes(b"\x02" + 7 * b"\x00" + b"{}")
    with pytest.raises(VisRLError, match="adapter could not be loaded"):
        load_model(find_model(str(adapter)), torch.float32, False)


def test_the_command_line_says_it_in_one_line(folder):
    (folder / "config.json").write_text("[]")
    code, _, err = visrl("doctor", "--model", str(folder))
    assert code == 1 and err.count("\n") == 1 and "holds no JSON object" in err
