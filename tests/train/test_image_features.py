"""A picture that several rows show is encoded once: the same losses and gradients, fewer pictures in the tower."""

import copy
import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import add_fused_lm_head

from tests.helpers.tiny_families import stand_ins
from tests.helpers.tiny_gemma import gemma3n, gemma4, paligemma
from tests.helpers.tiny_llava import llava, llava_next, mistral3, pixtral
from tests.helpers.tiny_native import ernie, glm4v, kimi
from tests.helpers.tiny_qwen import qwen, qwen3_5, qwen3_vl, qwen3_vl_moe, qwen4_exp
from tests.helpers.tiny_tiled import idefics3
from visrl_data.engines.quantization import language_linears
from visrl_train.collator import PairCollator
from visrl_train.image_features import encoded_once, shares
from visrl_train.pairs import read_pairs
from visrl_train.tokenization import Turns

pytest_plugins = ["tests.train.test_helpers"]


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    stand_ins(monkeypatch)


def watch(model, monkeypatch):
    """How many pictures each call of the tower gets."""
    inner, seen = model.get_base_model().model, []
    encode = type(inner).get_image_features

    def counting(self, pixel_values, *args, **options):
        found = encode(self, pixel_values, *args, **options)
        seen.append(len(found.pooler_output))
        return found

    counting.__signature__ = __import__("inspect").signature(encode)
    monkeypatch.setattr(type(inner), "get_image_features", counting)
    return seen


FAMILIES = [
    llava, llava_next, paligemma, qwen, qwen3_vl, qwen3_vl_moe, qwen3_5, qwen4_exp, pixtral, mistral3, kimi, ernie,
    gemma3n, gemma4, glm4v,
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_equal_and_the_tower_sees_each_picture_once(family, scripted_run, monkeypatch):
    """RL2 on 3 pairs of 3 images: 6 rows of boxes and 6 of responses hold 18 pictures, of which 3 + 3 are distinct."""
    torch.manual_seed(0)
    processor, model = family()
    add_fused_lm_head(model)
    model = get_peft_model(model.eval(), LoraConfig(target_modules=language_linears(model), init_lora_weights=False))
    assert shares(model)
    pairs = read_pairs(str(scripted_run))
    turns = Turns(processor, tell_pictures=True)
    collator = PairCollator(turns, pairs.prompts, pairs.read_image, "win")
    batch = collator([dataclasses.asdict(pair) for pair in pairs.pairs[:3]])
    batch.pop("has_response")
    pictures = batch.pop("pictures")
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    seen = watch(model, monkeypatch)

    def loss(shared):
        given = copy.deepcopy(batch)
        model.zero_grad()
        with encoded_once(model, shared):
            made = model(**given, labels=labels, fused_lm_head=True).log_probs.sum(dim=1)
            with torch.no_grad():
                again = model(**given, labels=labels, fused_lm_head=True).log_probs.sum(dim=1)
        assert torch.equal(made, again)
        win, lose = made.chunk(2)
        (-torch.nn.functional.logsigmoid(win - lose).mean()).backward()
        return made.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain, once = loss(None), loss(pictures)
    assert seen == [18, 18, 6], "every picture in both forwards; then each distinct one, once for both"
    assert torch.allclose(plain[0], once[0], atol=1e-5)
    assert torch.allclose(plain[1], once[1], atol=1e-5)


def test_a_tower_that_learns_is_asked_in_each_forward(scripted_run, monkeypatch):
    """An adapter on the tower: the reference must not get the policy's features."""
    torch.manual_seed(0)
    processor, model = llava()
    model = get_peft_model(model, LoraConfig(target_modules=r".*(vision|language).*q_proj"))
    pairs = read_pairs(str(scripted_run))
    collator = PairCollator(Turns(processor, tell_pictures=True), pairs.prompts, pairs.read_image)
    batch = collator([dataclasses.asdict(pair) for pair in pairs.pairs[:2]])
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    seen = watch(model, monkeypatch)
    with encoded_once(model, batch["pictures"]), torch.no_grad():
        model(**given)
        model(**given)
    assert seen == [2, 2]


def test_other_families_encode_every_picture():
    _, model = idefics3()
    assert not shares(model)
    with encoded_once(model, torch.tensor([0, 0])), encoded_once(None, torch.tensor([0])):
        assert "get_image_features" not in vars(model.model)
