"""Which model plays which part: the critic is the original base, and weights are shared only when digests agree."""

import json
import shutil

import pytest

from visrl_data.core.config import GenConfig
from visrl_data.core.errors import VisRLError
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline import factory


@pytest.fixture
def adapter(untrained, tmp_path):
    """An adapter on a copy of the untrained base, made as training makes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = tmp_path / "base"
    shutil.copytree(untrained, base)
    model = AutoModelForImageTextToText.from_pretrained(base)
    config = LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False)
    folder = tmp_path / "adapter"
    get_peft_model(model, config).save_pretrained(folder)
    record = {"box_space": "unit", "crop_rule": {"min_side": 0.1, "max_aspect": 1.5}, "origin_base": {"id": str(base)}}
    (folder / "visrl.json").write_text(json.dumps(record))
    return folder


def test_an_adapter_knows_its_base_and_its_record(adapter):
    found = find_model(str(adapter))
    assert found.base.path == adapter.parent / "base"
    assert found.weights is found.base
    assert (found.box_space, found.crop_rule.min_side, found.crop_rule.max_aspect) == ("unit", 0.1, 1.5)
    assert found.origin_base == str(adapter.parent / "base")


def test_actor_and_critic_share_weights_when_the_digests_agree(adapter):
    built = factory.build(GenConfig(model=str(adapter), limit=1))
    assert built.actor.engine is built.critic.engine
    assert (built.actor.adapter, built.critic.adapter) == (True, False)
    assert built.identity["origin_base"]["digest"] == find_model(str(adapter.parent / "base")).digest


def test_a_base_that_changed_under_its_adapter_is_refused(adapter):
    record = json.loads((adapter / "visrl.json").read_text())
    record["base"] = {"id": record["origin_base"]["id"], "digest": find_model(str(adapter)).base.digest}
    (adapter / "visrl.json").write_text(json.dumps(record))
    assert find_model(str(adapter)).base.digest == record["base"]["digest"]
    weights = adapter.parent / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VisRLError, match="train the adapter again"):
        find_model(str(adapter))


def test_another_base_is_loaded_apart(adapter, tmp_path):
    """A merged or fully fine-tuned actor: its weights are no longer the critic's."""
    other = tmp_path / "other"
    shutil.copytree(adapter.parent / "base", other)
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)
    built = factory.build(GenConfig(model=str(adapter), critic=str(other), limit=1))
    assert built.actor.engine is not built.critic.engine
    assert built.critic.engine.folder.path == other


def test_a_model_that_was_never_trained_is_its_own_critic(untrained):
    built = factory.build(GenConfig(model=str(untrained), limit=1))
    assert built.actor is built.critic


def test_the_actor_as_critic_keeps_its_adapter(adapter):
    built = factory.build(GenConfig(model=str(adapter), critic=str(adapter), limit=1))
    assert built.critic.adapter


@pytest.mark.parametrize(
    ("options", "message"),
    [({"crop_min_side": 0.2}, "crop rule"), ({"box_space": "per_mille"}, "box space")],
)
def test_what_the_actor_was_trained_with_is_not_overruled(adapter, options, message):
    with pytest.raises(VisRLError, match=f"trained with {message}"):
        factory.build(GenConfig(model=str(adapter), limit=1, **options))


def test_an_adapter_without_a_base_is_named(adapter):
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(VisRLError, match="base_model_name_or_path"):
        find_model(str(adapter))


def test_a_broken_record_is_named(adapter):
    (adapter / "visrl.json").write_text("{")
    with pytest.raises(VisRLError, match=r"visrl\.json is not valid JSON"):
        find_model(str(adapter))
