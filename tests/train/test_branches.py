"""Rows of a pair joined into one with branches: the same losses and gradients as the rows apart, in fewer tokens.

Everything is compared with the rows apart, which test_train_loss.py compares with the paper.
"""

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import DPOConfig

from tests.conftest import draw_photo
from tests.helpers.tiny_families import stand_ins
from tests.helpers.tiny_gemma import paligemma
from tests.helpers.tiny_llava import llava, llava_next
from tests.helpers.tiny_native import glm4v, glm4v_moe, glm46v, kimi
from tests.helpers.tiny_qwen import qwen, qwen2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe
from tests.helpers.tiny_tiled import idefics3
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.quantization import language_linears
from visrl_data.models.families import FAMILIES as TABLE
from visrl_train import reference_cache
from visrl_train.branches import Branches, branching
from visrl_train.collator import PairCollator
from visrl_train.models import unfreeze_language_model
from visrl_train.pairs import Pair
from visrl_train.preference import LossConfig, PreferenceTrainer
from visrl_train.tokenization import Turns

LINEAR = ("qwen3_5", "qwen3_5_moe")
FAMILIES = [llava, llava_next, qwen2_vl, qwen, qwen3_vl, qwen3_vl_moe, kimi, glm4v, glm46v, glm4v_moe]
SIZES = {"wide": (120, 60), "tall": (50, 130), "small": (40, 40), "large": (150, 140)}
RL1, RL2 = LossConfig(0.3), LossConfig(0.3, 0.7, 0.4, 0.6, "win", win_nll=0.2)
OWN = LossConfig(0.3, 0.7, 0.4, 0.6, "own")


def pair(image, win, lose, question, has_response=True):
    """Crops that differ in size and shape; responses of several lengths, one the beginning of the other."""
    left, top = SIZES[image][0] // 3, SIZES[image][1] // 2
    crops = {"win_crop": (0, 0, left + 5, top + 5), "lose_crop": (left, 0, *SIZES[image])}
    boxes = {"win_box": "[0.000, 0.100, 0.300, 0.500]", "lose_box": "[0.000, 0.100, 0.300, 1.000], no"}
    boxes |= {"win_unit": (0.0, 0.1, 0.3, 0.5), "lose_unit": (0.0, 0.1, 0.3, 1.0)}
    said = {"win_response": win, "lose_response": lose, "has_response": has_response}
    return Pair(id=image, question=question, answers=(win,), image=image, **boxes, **crops, **said)


PAIRS = (
    pair("wide", "seven", "seven of them", "what is it?"),
    pair("tall", "7", "7", "what is on the large red thing?", has_response=False),
    pair("small", "a green circle, I think", "no", "why?"),
    pair("large", "yes", "no", "is there a number in the picture, and which one is it?"),
)
ROWS = [dataclasses.asdict(each) for each in PAIRS]


def test_each_family_that_shares_beginnings_is_tested():
    shared = {name for family in TABLE if family.shares_prefix for name in family.types} - {*LINEAR}
    assert shared == {build()[1].config.model_type for build in FAMILIES}


def read_image(name):
    held = io.BytesIO()
    draw_photo(list(SIZES).index(name), SIZES[name]).save(held, "PNG")
    return held.getvalue()


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    stand_ins(monkeypatch)


def trainer_of(family, folder, full=False, **options):
    """A trainer whose policy has left its reference; weights to which the inputs matter."""
    torch.manual_seed(0)
    processor, model = family()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "lm_head" not in name:
                parameter.mul_(6)
    before = copy.deepcopy(model).requires_grad_(False) if full else None
    if full:
        unfreeze_language_model(model)
    else:
        model = get_peft_model(model, LoraConfig(target_modules=language_linears(model)))
    trainer = PreferenceTrainer(
        loss=RL2, model=model, ref_model=before,
        args=DPOConfig(
            output_dir=str(folder), bf16=False, use_cpu=True, max_length=None, remove_unused_columns=False,
            report_to=[], per_device_train_batch_size=4, **{"gradient_checkpointing": False, **options},
        ),
        data_collator=PairCollator(Turns(processor, tell_pictures=True), PromptSet(), read_image),
        train_dataset=Dataset.from_list(ROWS), processing_class=processor,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += (0.01 if full else 0.1) * torch.randn(parameter.shape)
    return trainer


def collators(trainer, terms):
    """(rows apart, rows joined)"""
    apart = dataclasses.replace(trainer.data_collator, response_crop=terms.response_crop)
    joins = branching(trainer.model, trainer.processing_class)
    assert joins is not None
    return apart, dataclasses.replace(apart, branches=joins)


def loss(trainer, batch):
    """The loss, every gradient as one vector, and the metrics."""
    trainer.model.zero_grad()
    trainer.metric_sums.clear()
    found = trainer.compute_loss(trainer.model.train(), batch)
    found.backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return (
        found.item(),
        torch.cat(gradients),
        trainer.metric_means("train"),
    )


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert torch.allclose(one[1], other[1], atol=1e-5) and other[1].abs().max() > 1e-2
    assert one[2] == pytest.approx(other[2], abs=1e-5)


@pytest.mark.parametrize("terms", [RL1, RL2, OWN], ids=["rl1", "rl2", "own"])
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_gradients_and_metrics_are_those_of_the_rows_apart(family, full, terms, tmp_path):
    trainer = trainer_of(family, tmp_path, full)
    trainer.loss_config = terms
    apart, joined = (collator(ROWS) for collator in collators(trainer, terms))
    assert len(joined["input_ids"]) == len(PAIRS) and joined["input_ids"].numel() < 0.7 * apart["input_ids"].numel()
    expected = loss(trainer, apart)
    assert len(expected[2]) == (6 if terms is RL1 else 16 if terms.win_nll else 12), "dpo and nll stand apart"
    assert_same(loss(trainer, joined), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_mask_or_a_wrong_position_would_be_seen(family, tmp_path):
    trainer = trainer_of(family, tmp_path)
    batch = collators(trainer, RL2)[1](ROWS)
    right = loss(trainer, batch)
    length = batch["input_ids"].shape[1]
    everything = torch.ones(length, length).tril().bool().expand(len(PAIRS), 1, -1, -1)
    running = torch.arange(length).expand(batch["position_ids"].shape)
    for wrong in ({"attention_mask": everything}, {"position_ids": running}):
        with pytest.raises(AssertionError):
            assert_same(loss(trainer, {**batch, **wrong}), right)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_of_the_reference_is_the_same(family, tmp_path, monkeypatch):
    trainer = trainer_of(family, tmp_path)
    tables = []
    for i, collator in enumerate(collators(trainer, RL2)):
        monkeypatch.setenv("VISRL_CACHE", str(tmp_path / str(i)))
        tables.append(reference_cache.load_table(trainer, collator, ROWS, ("key",)))
    apart, joined = tables
    assert len(apart) == 4 + 3 and set(apart) == set(joined)
    for key, values in apart.items():
        assert joined[key] == pytest.approx(values, rel=1e-6, abs=1e-5)  # sums near 100, in float32
    batch = dataclasses.replace(collators(trainer, RL2)[1], reference=joined)(ROWS)
    assert_same(loss(trainer, batch), loss(trainer, collators(trainer, RL2)[0](ROWS)))


def test_with_gradient_checkpointing(tmp_path):
    """As the trainer switches it on: the layers run once more on the way back, with the mask that they had."""
    trainer = trainer_of(qwen, tmp_path)
    apart, joined = (collator(ROWS) for collator in collators(trainer, RL2))
    expected, runs = loss(trainer, apart), []
    trainer.model.get_base_model().model.language_model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: runs.append(1)
    )
    for on in (False, True):
        if on:
            trainer.args.gradient_checkpointing_kwargs = {"use_reentrant": False}
            trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
            trainer.model.enable_input_require_grads()
        assert_same(loss(trainer, joined), expected)
        assert len(runs) == (2 if not on else 2 + 3), "the policy, the reference; and the policy's layer once more"


def test_each_token_sees_its_own_row():
    """Two rows [5 P P 6 | 7 8] and [5 P P 6 | 9], P of one picture: 5 P P once, then 6 7 8 and 6 9."""
    rows = {
        "input_ids": torch.tensor([[5, 3, 3, 6, 7, 8], [5, 3, 3, 6, 9, 0]]),
        "attention_mask": torch.tensor([[1] * 6, [1] * 5 + [0]]),
        "completion_mask": torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 0]]),
        "pictures": torch.tensor([0, 0]),
        "pixel_values": torch.tensor([[1.0], [1.0]]),
    }
    made = Branches(placeholder=3, padding=0).join(rows, [[0, 1]])
    assert made["input_ids"].tolist() == [[5, 3, 3, 6, 7, 8, 6, 9]]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 3, 4]]
    assert made["completion_mask"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 1]]
    assert made["completions"].tolist() == [[0, 4, 6], [0, 7, 8]]
    assert made["pixel_values"].tolist() == [[1.0]] and made["pictures"].tolist() == [0]
    assert made["attention_mask"][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 0, 1, 1],
    ]
    other = Branches(placeholder=3, padding=0).join({**rows, "pictures": torch.tensor([0, 1])}, [[0, 1]])
    assert other["input_ids"].tolist() == [[5, 3, 3, 6, 7, 8, 3, 3, 6, 9]], "another picture is not shared"
    assert other["pixel_values"].tolist() == [[1.0], [1.0]] and other["pictures"].tolist() == [0, 1]


def test_no_picture_is_cut():
    """A prompt that ends with its picture: the token said anew would be half of it, so the branch begins before."""
    rows = {
        "input_ids": torch.tensor([[5, 3, 3, 7], [5, 3, 3, 8]]),
        "attention_mask": torch.ones(2, 4, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1]]),
        "pictures": torch.tensor([0, 0]),
        "pixel_values": torch.tensor([[1.0], [1.0]]),
    }
    made = Branches(placeholder=3, padding=0).join(rows, [[0, 1]])
    assert made["input_ids"].tolist() == [[5, 3, 3, 7, 3, 3, 8]]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 1, 2, 3]]
    assert len(made["pixel_values"]) == 2


def test_pictures_that_can_not_be_told_apart_leave_the_rows_alone():
    rows = {
        "input_ids": torch.tensor([[3, 3, 5, 7], [3, 3, 5, 8]]),
        "attention_mask": torch.ones(2, 4, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1]]),
        "pictures": torch.tensor([0, 1, 0, 2]),  # side by side, a token each
    }
    assert Branches(placeholder=3, padding=0).join(rows, [[0, 1]]) is rows


@pytest.mark.parametrize("family", FAMILIES)
def test_the_collator_goes_to_another_process_without_the_model(family):
    processor, model = family()
    joins = branching(model, processor)
    packed = pickle.dumps(joins)
    assert len(packed) < 20_000
    collator = PairCollator(Turns(processor, tell_pictures=True), PromptSet(), read_image, "win", branches=joins)
    there = dataclasses.replace(collator, branches=pickle.loads(packed))
    one, other = collator(ROWS), there(ROWS)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", [idefics3, paligemma, qwen3_5, qwen3_5_moe])
def test_rows_of_other_families_stay_apart(family):
    processor, model = family()
    assert branching(model, processor) is None


def test_rows_stay_apart_where_attention_takes_no_such_mask():
    processor, model = qwen()
    assert branching(model, processor) is not None
    model.set_attn_implementation("eager")
    assert branching(model, processor) is None
    processor, model = llava()
    model.config.get_text_config().sliding_window = 4
    assert branching(model, processor) is None
