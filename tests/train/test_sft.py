"""The warm-up: which rows are learnt, from which crop, and that it learns them."""

import json

import pytest
import torch

from tests.train.test_helpers import QUICK
from visrl_data.core.boxes import Box
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import VisRLError
from visrl_data.models.model_folder import find_model
from visrl_data.sources.dispatch import open_source
from visrl_train import sft
from visrl_train.config import SftConfig
from visrl_train.metrics_log import read_metrics

pytest_plugins = ["tests.train.test_helpers"]
RULE = CropRule(0.1, 1.0)


def made(source, target="union", turns="both", space="unit"):
    return sft.make_examples(source, space, RULE, target, turns, lambda image: image.size)


def test_each_question_gives_a_focus_and_an_answer_row(photo_source):
    """Boxes [0.1, 0.1, 0.4, 0.5] of 120 x 90 pictures: 36 x 36 pixels, which the crop rule leaves as they are."""
    found, where, dropped = made(open_source(str(photo_source)))
    assert len(found) == 20 and len(where) == 5 and not dropped
    focus, answer = found[:2]
    assert (focus.crop, focus.reply) == (None, "[0.100, 0.100, 0.400, 0.500]")
    assert (answer.crop, answer.reply) == ((12, 9, 48, 45), "7")
    assert focus.question == answer.question == "What is thing 0?"


@pytest.mark.parametrize(("turns", "count"), [("focus", 10), ("answer", 10), ("both", 20)])
def test_either_kind_of_row_can_be_left_out(photo_source, turns, count):
    found, _, _ = made(open_source(str(photo_source)), turns=turns)
    assert len(found) == count
    assert {example.crop is None for example in found} == {"focus": {True}, "answer": {False}, "both": {True, False}}[
        turns
    ]


def test_boxes_are_written_in_the_models_space(photo_source):
    per_mille = made(open_source(str(photo_source)), space="per_mille")[0][0]
    pixels = made(open_source(str(photo_source)), space="resized_pixels")[0][0]
    assert (per_mille.reply, pixels.reply) == ("[100, 100, 400, 500]", "[12, 9, 48, 45]")


def test_several_gold_boxes():
    boxes = [Box(0.1, 0.2, 0.3, 0.4), Box(0.2, 0.1, 0.5, 0.3)]
    assert sft.gold_box(boxes, "union") == Box(0.1, 0.1, 0.5, 0.4)
    assert sft.gold_box(boxes, "first") == boxes[0]


def test_rows_without_a_box_are_counted(photo_source):
    lines = [json.loads(line) for line in photo_source.read_text().splitlines()]
    del lines[3]["boxes"]
    lines[4]["image"] = "gone.png"
    photo_source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, _, dropped = made(open_source(str(photo_source)))
    assert dropped == {"no_gold_box": 1, "image_missing": 1}
    assert len(found) == 2 * (10 - sum(dropped.values()))
    photo_source.write_text("".join(json.dumps({**line, "boxes": []}) + "\n" for line in lines))
    with pytest.raises(VisRLError, match="no_gold_box 9(.|\n)*gold boxes"):
        made(open_source(str(photo_source)))
    photo_source.write_text("".join(json.dumps({**line, "boxes": [[9, 9, 40, 60]]}) + "\n" for line in lines))
    with pytest.raises(VisRLError, match=r"bad_box 9(.|\n)*\. Boxes in pixels need --gold-space pixels"):
        made(open_source(str(photo_source)))


def test_it_learns_what_it_is_taught(untrained, tmp_path, seen):
    """Twelve passes over one question: the loss falls, the base stays, the adapter alone is written."""
    config = SftConfig(model=str(untrained), limit=1, **{**QUICK, "epochs": 12, "batch_size": 2})
    folder = sft.train(config, tmp_path / "sft")
    losses = [r["loss"] for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]
    assert losses[-1] < losses[0] - 1
    assert seen.after["rest"] == seen.before["rest"] and seen.after["trained"] != seen.before["trained"]
    found = find_model(str(folder))
    assert found.base.digest == find_model(str(untrained)).digest
    record = json.loads((folder / "visrl.json").read_text())
    assert record["stage"] == "sft" and record["data"]["rows"] == 1
    assert (record["data"]["train"], record["data"]["validation"], record["data"]["left_out"]) == (2, 0, {})
    assert record["origin_base"]["digest"] == found.base.digest
    assert "visrl train sft --config" in (folder / "README.md").read_text()


def test_the_first_loss_is_the_models_own(untrained, tmp_path, seen):
    """A fresh adapter changes nothing: the first step's loss is the cross-entropy of the base's own logits."""
    from transformers import AutoModelForImageTextToText

    config = SftConfig(model=str(untrained), limit=2, **{**QUICK, "batch_size": 4})
    sft.train(config, tmp_path / "sft")
    trainer = seen.trainer
    batch = trainer.data_collator(list(trainer.train_dataset))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = AutoModelForImageTextToText.from_pretrained(untrained)(**batch).logits
    by_hand = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert seen.logs[0]["loss"] == pytest.approx(by_hand.item(), abs=1e-3)


def test_lora_leaves_the_vision_tower_and_the_projector_alone(untrained, sft_model):
    from safetensors import safe_open

    with safe_open(sft_model / "adapter_model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert names and all(".language_model." in name for name in names)
    layers = {name.split(".language_model.")[1].rpartition(".lora")[0] for name in names}
    assert {name.rpartition(".")[2] for name in layers} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
