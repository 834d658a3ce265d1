"""Losses against values derived by hand: each completion's log-probability from the model's own logits, one row
at a time, without TRL, without a collator; then Eq. 6, 7 and 8 in plain Python.
"""

import dataclasses
import math

import pytest
import torch
from accelerate.state import GradientState
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer

from visrl_data.core import images
from visrl_data.models.model_folder import find_model
from visrl_train.collator import PairCollator
from visrl_train.config import Rl1Config
from visrl_train.pairs import read_pairs
from visrl_train.preference import LossConfig, PreferenceTrainer, reference_key
from visrl_train.rl1 import prepare
from visrl_train.tokenization import Turns

pytest_plugins = ["tests.train.test_helpers"]


@pytest.fixture(scope="module")
def pairs(scripted_run):
    """Four pairs; the third one's responses are the same."""
    found = read_pairs(str(scripted_run))
    kept = list(found.pairs[:4])
    kept[2] = dataclasses.replace(kept[2], lose_response=kept[2].win_response, has_response=False)
    return dataclasses.replace(found, pairs=tuple(kept))


@pytest.fixture(scope="module")
def world(untrained, sft_model, pairs, tmp_path_factory):
    """A trainer whose policy has left its reference, and the adapters of both as plain models."""
    processor = AutoProcessor.from_pretrained(untrained)
    base = AutoModelForImageTextToText.from_pretrained(untrained)
    model = PeftModel.from_pretrained(base, sft_model, is_trainable=True)
    collator = PairCollator(Turns(processor), pairs.prompts, pairs.read_image)
    from datasets import Dataset

    trainer = PreferenceTrainer(
        loss=LossConfig(0.1),
        model=model,
        args=DPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trainer")), bf16=False, use_cpu=True, max_length=None,
            remove_unused_columns=False, gradient_checkpointing=False, report_to=[], beta=0.25,
        ),
        data_collator=collator,
        train_dataset=Dataset.from_list([dataclasses.asdict(pair) for pair in pairs.pairs]),
        processing_class=processor,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return trainer, processor


def log_prob(trainer, processor, adapter, prompt_parts, pictures, reply):
    """log pi(reply, end of turn | prompt), from the logits of one unpadded row."""
    words = {"image": "<|sl_image|>", "crop": "<|sl_image|>"}
    prompt = "<|sl_user|>" + "".join(words.get(part.kind, part.text) for part in prompt_parts)
    prompt += "<|sl_end|><|sl_assistant|>"
    reply_ids = processor.tokenizer(reply + "<|sl_end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs = processor(text=prompt, images=pictures, return_tensors="pt")
    inputs["input_ids"] = torch.cat([inputs["input_ids"], reply_ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    model = trainer.model
    model.set_adapter(adapter)
    with torch.no_grad():
        logits = model(**inputs).logits.double()
    model.set_adapter("default")
    n = reply_ids.shape[1]
    chosen = torch.log_softmax(logits[0, -n - 1 : -1], dim=-1).gather(-1, reply_ids[0, :, None])
    return chosen.sum().item()


def expected(trainer, processor, pairs, terms):
    """Eq. 6-8 over the pairs; with win_nll, the win's mean negative log-likelihood a token beside each term."""

    def term(pair, prompt, win, lose, beta):
        h = []
        for pictures, reply in (win, lose):
            parts = prompt.parts(question=pair.question)
            now, then = (log_prob(trainer, processor, a, parts, pictures, reply) for a in ("default", "ref"))
            h.append((now, then))
        margin = beta * ((h[0][0] - h[0][1]) - (h[1][0] - h[1][1]))
        tokens = len(processor.tokenizer(win[1] + "<|sl_end|>", add_special_tokens=False)["input_ids"])
        return math.log1p(math.exp(-margin)) - terms.win_nll * h[0][0] / tokens

    total = 0.0
    for pair in pairs.pairs:
        picture = images.decode(pairs.read_image(pair.image))
        win_crop = picture.crop(tuple(pair.win_crop))
        lose_crop = picture.crop(tuple(pair.lose_crop)) if terms.response_crop == "own" else win_crop
        boxes = ([picture], pair.win_box), ([picture], pair.lose_box)
        total += terms.lambda_b * term(pair, pairs.prompts.focus, *boxes, terms.beta_b)
        if terms.response_crop and pair.win_response != pair.lose_response:
            replies = ([picture, win_crop], pair.win_response), ([picture, lose_crop], pair.lose_response)
            total += terms.lambda_r * term(pair, pairs.prompts.answer, *replies, terms.beta_r)
    return total / len(pairs.pairs)


def computed(trainer, pairs, terms, reference=None):
    old = trainer.data_collator
    collator = PairCollator(old.turns, pairs.prompts, pairs.read_image, terms.response_crop, reference)
    trainer.loss_config = terms
    rows = [dataclasses.asdict(pair) for pair in pairs.pairs]
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, collator(rows)).item()


@pytest.mark.parametrize(
    "terms",
    [
        LossConfig(beta_b=0.25),
        LossConfig(0.25, 0.6, 0.3, 0.7, "win"),
        LossConfig(0.6, 0.25, 0.3, 0.7, "own"),
        LossConfig(0.1, 0.1, 0.5, 0.5, "win"),
        LossConfig(0.25, 0.6, 0.3, 0.7, "win", win_nll=0.5),
    ],
    ids=["rl1", "rl2-win", "rl2-own", "rl2-defaults", "rl2-nll"],
)
def test_losses_are_those_of_the_paper(world, pairs, terms):
    trainer, processor = world
    by_hand = expected(trainer, processor, pairs, terms)
    assert abs(by_hand - (terms.lambda_b + terms.lambda_r) * math.log(2)) > 1e-3, "the policy must have moved"
    assert computed(trainer, pairs, terms) == pytest.approx(by_hand, abs=1e-4)


def test_rl1_is_trls_own_loss(world, pairs):
    trainer, _ = world
    batch = trainer.data_collator([dataclasses.asdict(pair) for pair in pairs.pairs])
    batch.pop("has_response")
    with torch.no_grad():
        trls = DPOTrainer.compute_loss(trainer, trainer.model, batch).item()
    assert computed(trainer, pairs, LossConfig(beta_b=trainer.beta)) == pytest.approx(trls, abs=1e-6)


def test_a_table_of_reference_values_gives_the_same_loss(world, pairs, monkeypatch, tmp_path):
    from visrl_train import reference_cache

    monkeypatch.setenv("VISRL_CACHE", str(tmp_path))
    trainer, _ = world
    terms = LossConfig(0.25, 0.6, 0.3, 0.7, "win")
    collator = dataclasses.replace(trainer.data_collator, response_crop="win")
    rows = [dataclasses.asdict(pair) for pair in pairs.pairs]
    table = reference_cache.load_table(trainer, collator, rows, ("a", "key"))
    assert len(table) == 4 + 3
    monkeypatch.setattr(trainer, "compute_ref_log_probs", None)  # neither is asked again
    assert reference_cache.load_table(trainer, collator, rows, ("a", "key")) == table
    cached = computed(trainer, pairs, terms, table)
    monkeypatch.undo()
    assert cached == pytest.approx(computed(trainer, pairs, terms), abs=1e-6)
    monkeypatch.setenv("VISRL_CACHE", str(tmp_path))
    (file,) = tmp_path.rglob("*.json")
    for text in (file.read_text().replace('"focus",\n', '"focus",\n1'), file.read_text()[:-9], "[]"):
        file.write_text(text)
        again = reference_cache.load_table(trainer, collator, rows, ("a", "key"))
        assert again.keys() == table.keys(), "damaged: computed again"
        assert all(again[row] == pytest.approx(table[row], abs=1e-4) for row in table)


def test_two_trainings_that_start_together_fill_one_table(world, pairs, monkeypatch, tmp_path):
    from visrl_data.core import files
    from visrl_train import reference_cache

    monkeypatch.setenv("VISRL_CACHE", str(tmp_path))
    (trainer, _), rows = world, [dataclasses.asdict(pair) for pair in pairs.pairs]
    fsync, others = files.fsync, []

    def load() -> reference_cache.Table:
        return reference_cache.load_table(trainer, trainer.data_collator, rows, ("key",))

    def load_meanwhile(path):
        if not others:
            others.append(path)
            others.append(load())
        fsync(path)

    monkeypatch.setattr(files, "fsync", load_meanwhile)
    assert load() == others[1] == load()


def test_a_reference_in_four_bits_is_another_one(pairs, sft_model, tmp_path):
    config = Rl1Config(model=str(sft_model))
    stages = [
        prepare("rl1", dataclasses.replace(config, quantize=quantize), pairs, find_model(str(sft_model)), tmp_path)
        for quantize in (False, True)
    ]
    keys = [reference_key(stage, pairs, LossConfig(0.1)) for stage in stages]
    assert keys[0] != keys[1]


def recorded(trainer, pairs, terms, monkeypatch, batches, mode="eval"):
    """The loss of each batch, and the metrics that are logged after them."""
    monkeypatch.setattr(DPOTrainer, "log", lambda self, logs, start_time=None: None)
    # The state is the process's: a training that another test interrupted left its data loader there.
    monkeypatch.setattr(GradientState, "end_of_dataloader", False)
    trainer.model.train(mode == "train")
    trainer.metric_sums.clear()
    losses = [computed(trainer, dataclasses.replace(pairs, pairs=batch), terms) for batch in batches]
    logs = {}
    trainer.log(logs)
    return losses, logs


def test_the_loss_is_the_mean_of_its_terms(world, pairs, monkeypatch):
    trainer, _ = world
    terms = LossConfig(0.25, 0.6, 0.3, 0.7, "win", win_nll=0.5)
    (loss,), logs = recorded(trainer, pairs, terms, monkeypatch, [pairs.pairs], mode="train")
    assert loss == pytest.approx(0.3 * logs["focus/loss"] + 0.7 * logs["response/loss"] * 3 / 4, abs=1e-5)
    for step in ("focus", "response"):
        assert logs[f"{step}/loss"] == pytest.approx(logs[f"{step}/dpo"] + 0.5 * logs[f"{step}/nll"], abs=1e-5)
        rewards = logs[f"{step}/reward_chosen"] - logs[f"{step}/reward_rejected"]
        assert logs[f"{step}/margin"] == pytest.approx(rewards, abs=1e-5)
    assert 0 <= logs["response/accuracy"] <= 1
    assert not trainer.metric_sums, "the next log starts anew"


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_metrics_are_means_over_pairs_whatever_the_batches(world, pairs, monkeypatch, mode):
    """Batches of other sizes, and with other numbers of response rows, give the same means."""
    trainer, _ = world
    terms = LossConfig(0.25, 0.6, 0.3, 0.7, "win")
    four = pairs.pairs
    _, whole = recorded(trainer, pairs, terms, monkeypatch, [four], mode)
    _, parts = recorded(trainer, pairs, terms, monkeypatch, [four[:3], four[3:]], mode)
    assert parts == pytest.approx(whole, abs=1e-5)
    assert "eval_response/margin" in parts or mode == "train"
    assert not [name for name in parts if "nll" in name], "plain DPO has one term"


def test_ties_are_reported_beside_the_accuracy(world, pairs, monkeypatch):
    trainer, _ = world
    monkeypatch.setattr(trainer, "compute_ref_log_probs", lambda model, inputs: trainer._log_probs(model, inputs))
    _, logs = recorded(trainer, pairs, LossConfig(0.25), monkeypatch, [pairs.pairs])
    assert (logs["eval_focus/accuracy"], logs["eval_focus/ties"]) == (0, 1)
