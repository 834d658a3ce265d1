"""`visrl doctor --model`: what it says of a model is so, and it says it without the weights."""

import dataclasses
import json
import shutil

import pytest
from transformers import AutoConfig

from tests.helpers.command import visrl
from tests.helpers.tiny_families import TINY, VARIANTS, qwen2_vl, save, stand_ins
from tests.helpers.tiny_parts import stand_in_for_videos
from visrl_cli import doctor_model
from visrl_data.core.config import GenConfig
from visrl_data.models.families import FAMILIES, family_of
from visrl_data.models.model_folder import ALIASES, find_model
from visrl_train import memory
from visrl_train.config import SftConfig

GIB = 2**30


def numbers(path):
    """Parameters in a safetensors file, from its header."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, about in header.items():
        if name != "__metadata__":
            count = 1
            for side in about["shape"]:
                count *= side
            total += count
    return total


def test_the_shipped_model_is_described_without_its_weights(tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(ALIASES["spotlight-base"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    code, out, _ = visrl("doctor", "--model", folder, "--json", "--dtype", "float32")
    facts = json.loads(out)
    assert code == 0
    assert (facts["family"], facts["box_space"], facts["box_space_from"]) == ("LLaVA-1.5", "unit", "its own record")
    assert (facts["resized_size"], facts["picture_tokens"], facts["picture"]) == ([96, 96], 36, "squashed")
    assert facts["chat_template"] and facts["prefill_shared"]
    assert facts["parameters"] == numbers(ALIASES["spotlight-base"] / "model.safetensors")
    adapter = numbers(ALIASES["spotlight"] / "adapter_model.safetensors")
    assert facts["lora_parameters"] == adapter, "of rank 16, as the shipped one"
    code, out, _ = visrl("doctor", "--model", folder)
    assert code == 0 and "sft" in out and "96x96 (squashed), 36 tokens; --max-pixels has no effect" in out


def test_an_untuned_model_gets_its_familys_box_space(tmp_path, monkeypatch):
    stand_in_for_videos(monkeypatch)
    folder = save(qwen2_vl, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    facts = json.loads(visrl("doctor", "--model", folder, "--json")[1])
    assert (facts["family"], facts["box_space"], facts["box_space_from"]) == (
        "Qwen2-VL",
        "per_mille_points",
        "its family",
    )
    smaller = json.loads(visrl("doctor", "--model", folder, "--max-pixels", 28 * 28, "--json")[1])
    assert smaller["picture_tokens"] < facts["picture_tokens"]


@pytest.mark.parametrize("name", TINY | VARIANTS)
def test_each_family_is_described(name, tmp_path, monkeypatch):
    stand_ins(monkeypatch)
    folder = save((TINY | VARIANTS)[name], tmp_path / name)
    facts = doctor_model.describe_model(str(folder), None, "float32", False)
    family = family_of(name)
    assert (facts["family"], facts["box_space"]) == (family.name, family.box_space)
    assert facts["picture"] == (family.resize_mode if name != "llava" else "squashed"), "the tiny LLaVA pads nothing"
    assert facts["picture_tokens"] > 0 and facts["parameters"] > facts["language_parameters"] > 0
    assert all(size > 0 for size in facts["resized_size"])


@pytest.mark.parametrize("model_type", [name for family in FAMILIES if not family.unsupported for name in family.types])
def test_the_real_configurations_have_the_sizes_that_memory_takes(model_type):
    text = AutoConfig.for_model(model_type.partition(":")[0]).get_text_config()
    assert memory._intermediate(text) > 0 and text.hidden_size > 0 and text.num_hidden_layers > 0
    assert text.num_attention_heads > 0 and text.vocab_size > 0


def test_a_missing_processor_is_reported_with_the_rest(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stand_in_for_videos(patch)
        folder = save(qwen2_vl, tmp_path / "m")
    monkeypatch.setattr("visrl_data.engines.loading.AutoProcessor.from_pretrained", _needs_torchvision)
    code, out, _ = visrl("doctor", "--model", folder)
    assert code == 0 and "pip install torchvision" in out and "parameters" in out


def _needs_torchvision(*_, **__):
    raise ImportError("VideoProcessor requires the Torchvision library")


def test_a_model_that_cannot_be_used_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "minicpmo"}')
    code, _, err = visrl("doctor", "--model", tmp_path)
    assert code == 1 and "MiniCPM-o" in err


@pytest.fixture(scope="module")
def shape():
    return memory.shape_of(find_model("spotlight-base"), SftConfig().lora_rank)


def test_memory_by_hand(shape):
    """The terms of the docstring for float32, whose numbers have 4 bytes; this model keeps every layer."""
    layers = 4 * shape.layers * (10 * shape.hidden + 3 * shape.intermediate)
    rows, tokens = 2, 2 * 36 + memory.WORDS + memory.REPLY
    step = rows * tokens * layers + 8 * rows * memory.REPLY * shape.vocabulary
    assert memory.training(shape, 4, 36, "sft", "full") == 4 * shape.parameters + 12 * shape.language + step
    assert memory.training(shape, 4, 36, "sft", "lora") == 4 * shape.parameters + 16 * shape.adapter + step
    saved = memory.training(shape, 4, 36, "sft", "lora") - memory.training(shape, 4, 36, "sft", "4 bits")
    assert saved == round(3.45 * shape.linears)


def test_memory_of_generation_by_hand(shape):
    """Two questions of 3 attempts in a batch of 13: 12 responses. Spotlight is a LLaVA: its prefixes are shared."""
    config = GenConfig(batch_size=13, chunk_size=20, attempts=3, max_new_tokens=10)
    words = memory.WORDS
    cache = 12 * (36 + 9 + words + 10) * shape.cache
    work = 12 * (9 + words) * (2 * shape.hidden + 3 * shape.intermediate)
    kept = 20 * (36 + 6 * 9) * shape.hidden
    assert shape.cache == 5 * 2 * 256, "layers, keys and values, heads"
    assert shape.features == shape.hidden and shape.state == 0
    assert memory.generation(shape, 4, 36, 9, config) == 4 * (shape.parameters + cache + work + kept)
    apart = dataclasses.replace(shape, shares_prefix=False)
    work = 12 * (36 + 9 + words) * (2 * shape.hidden + 3 * shape.intermediate)
    assert memory.generation(apart, 4, 36, 9, config) == 4 * (shape.parameters + cache + work + kept)
    few = dataclasses.replace(config, chunk_size=1)
    assert memory.generation(shape, 4, 36, 9, few) < memory.generation(shape, 4, 36, 9, config), "6 responses fill it"


def test_linear_attention_keeps_a_state_and_few_keys(tmp_path, monkeypatch):
    stand_ins(monkeypatch)
    shape = memory.shape_of(find_model(str(save(TINY["qwen3_5"], tmp_path / "m"))), 16)
    assert shape.cache == 2 * 2 * 16, "one layer of two has keys and values: two heads of 16"
    assert shape.state == 2 * 64 * 64 + 4 * (2 * 2 * 64 + 2 * 64), "heads of 64 x 64, and four tokens before the next"
    deep = memory.shape_of(find_model(str(save(TINY["qwen3_vl"], tmp_path / "deep"))), 16)
    assert deep.features == 2 * deep.hidden, "one layer of deepstack features"


def test_rl2_takes_more_than_rl1(shape):
    for way in memory.TUNINGS:
        assert memory.training(shape, 2, 576, "rl2", way) > memory.training(shape, 2, 576, "rl1", way)


def test_what_a_stranger_wrote_into_a_config_does_not_act_on_the_terminal(monkeypatch, capsys):
    facts = {
        **dict.fromkeys(("model", "family", "box_space", "focus_prompt", "processor", "lever"), "x"),
        **dict.fromkeys(("parameters", "language_parameters", "lora_parameters"), 1),
        **dict.fromkeys(("prefill_shared", "beginnings_shared", "chat_template", "resized_size"), False),
        **{"model_type": "\x1b]0;owned\x07llava", "box_space_from": "the default"},
    }
    monkeypatch.setattr(doctor_model, "_print_memory", lambda _: None)
    doctor_model.print_model(facts)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and "llava" in shown
