"""Other architectures, tiny and untrained: a row's log-probability is the same alone and in a batch with other rows,
and each family goes through all stages.

It fails when a mask, a tile or a cross-attention is cut, shifted or padded wrongly. Mllama fails in TRL's own
collators, whose cross_attention_mask covers the prompt alone; PaliGemma's processor wants the reply apart.
"""

import io
import json

import pytest
import torch
from PIL import Image
from trl.trainer.utils import add_fused_lm_head

from tests.conftest import draw_photo
from tests.helpers.tiny_families import TINY, stand_ins
from tests.helpers.tiny_gemma import paligemma
from tests.helpers.tiny_llama import mllama
from tests.helpers.tiny_llava import llava, llava_next
from tests.helpers.tiny_qwen import qwen
from tests.train.test_helpers import QUICK
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.loading import scale_logits
from visrl_data.engines.quantization import language_linears
from visrl_data.engines.refusals import RequestRefused
from visrl_data.models.model_folder import find_model
from visrl_train import rl1, rl2, sft
from visrl_train.collator import SFTCollator
from visrl_train.launch import load_train_config
from visrl_train.metrics_log import read_metrics
from visrl_train.models import give_backbone
from visrl_train.tokenization import Turn, Turns

pytest_plugins = ["tests.train.test_helpers"]

# tests/models/test_families.py takes these through the stages; for training each is like another one here.
ALIKE = {"llava_onevision", "qwen2_vl", "qwen3_vl", "qwen3_5", "gemma3", "smolvlm", "internvl", "minicpmv4_6"}
FAMILIES = [build for name, build in TINY.items() if name not in ALIKE]


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    stand_ins(monkeypatch)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_the_same_alone_and_in_a_batch(family):
    torch.manual_seed(0)
    processor, model = family()
    scale_logits(model.eval())
    give_backbone(model)
    add_fused_lm_head(model)
    turns, prompts = Turns(processor), PromptSet()
    wide, tall, small = draw_photo(1, (100, 60)), draw_photo(2, (60, 100)), draw_photo(3, (30, 30))
    rows = [
        Turn("a", prompts.focus.parts(question="which?"), (wide,), "[0.100, 0.200, 0.300, 0.400]"),
        Turn("b", prompts.answer.parts(question="what a thing?"), (tall, small), "7"),
    ]

    def log_probs(some):
        batch = turns.encode(some)
        learnt = batch.pop("completion_mask")
        labels = batch["input_ids"].masked_fill(learnt == 0, -100)
        with torch.no_grad():
            fused = model(**batch, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1)
            logits = model(**batch, use_cache=False).logits[:, :-1].log_softmax(dim=-1)
        plain = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * learnt[:, 1:]
        assert fused.tolist() == pytest.approx(plain.sum(dim=1).tolist(), abs=1e-4)
        return fused.tolist()

    together = log_probs(rows)
    assert together == pytest.approx([log_probs([row])[0] for row in rows], abs=1e-4)
    swapped = Turn("c", rows[1].parts, (small, tall), "7")
    assert abs(log_probs([swapped])[0] - together[1]) > 1e-4, "the pictures must be seen"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_is_what_generation_sees(family):
    processor, _ = family()
    turns = Turns(processor)
    turn = Turn("a", PromptSet().answer.parts(question="which?"), (draw_photo(1), draw_photo(2, (30, 30))), "7")
    prompt, bos = turns.prompt(turn), processor.tokenizer.bos_token
    special = not (bos and prompt.startswith(bos))
    asked = processor(text=[prompt], images=[list(turn.images)], add_special_tokens=special, return_tensors="pt")
    batch = turns.encode([turn])
    length = asked["input_ids"].shape[1]
    assert batch["input_ids"][0, :length].tolist() == asked["input_ids"][0].tolist()
    learnt = batch["input_ids"][0, length:]
    assert batch["completion_mask"][0].tolist() == [0] * length + [1] * len(learnt)
    assert processor.tokenizer.decode(learnt).startswith("7")
    assert learnt[-1] == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_put_on_the_language_model_alone(family):
    import re

    _, model = family()
    pattern = language_linears(model)
    hit = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
    assert len(hit) >= 12 and not any("vision" in name or "projector" in name or "lm_head" in name for name in hit)


@pytest.mark.parametrize(
    ("preset", "family"),
    [
        ("llava-1.5-7b", llava),
        ("llava-next-7b", llava_next),
        ("llama-3.2-vision-11b", mllama),
        ("paligemma2-10b", paligemma),
        ("qwen2.5-vl-7b", qwen),
    ],
)
def test_a_preset_takes_its_family_through_all_stages(preset, family, scripted_run, tmp_path):
    """A step each, from a saved folder: RL starts at log 2, and each stage leaves another model."""
    base = save(family, tmp_path / "base")
    quick = {**QUICK, "batch_size": 64}
    warm = load_train_config("sft", preset, {"model": str(base), "limit": 2, **quick})
    learnt = sft.train(warm, tmp_path / "sft")
    assert json.loads((learnt / "visrl.json").read_text())["box_space"] == warm.box_space
    folder, digests = base, set()
    for stage, name in ((rl1, "rl1"), (rl2, "rl2")):
        options = {"model": str(folder), "data": str(scripted_run), **quick}
        folder = stage.train(load_train_config(name, preset, options), tmp_path / name)
        records = read_metrics(folder / "metrics.jsonl")
        assert records[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
        digests.add(find_model(str(folder)).digest)
    assert len(digests) == 2
    assert json.loads((folder / "visrl.json").read_text())["origin_base"]["digest"] == find_model(str(base)).digest


def save(family, folder):
    torch.manual_seed(0)
    processor, model = family()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", ["minicpmo", "yi_vl"])
def test_a_family_that_transformers_lacks_is_named(model_type, scripted_run, tmp_path):
    """MiniCPM-o and Yi-VL: one message, no traceback."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": model_type}))
    config = load_train_config("rl1", None, {"model": str(tmp_path / "m"), "data": str(scripted_run)})
    with pytest.raises(VisRLError, match="could not be loaded"):
        rl1.train(config, tmp_path / "out")


@pytest.mark.parametrize("space", ["unit", "resized_pixels"])
def test_rows_that_the_model_does_not_take_are_drops(photo_source, tmp_path, capsys, space):
    """Pictures beyond an aspect of 200, which Qwen's processor refuses, and a question beyond the context."""
    base = save(qwen, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 512
    (base / "config.json").write_text(json.dumps(config))
    rows = [json.loads(line) for line in photo_source.read_text().splitlines()][:4]
    for row, size in zip(rows, ((8, 3000), (3000, 8)), strict=False):
        Image.new("RGB", size, "red").save(photo_source.parent / f"{size[0]}.png")
        row["image"] = f"{size[0]}.png"
    rows[2]["question"] = "What is the number? " * 500
    photo_source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model": str(base), "source": str(photo_source), "box_space": space}
    folder = sft.train(load_train_config("sft", None, options | QUICK), tmp_path / "sft")
    data = json.loads((folder / "visrl.json").read_text())["data"]
    assert (data["train"], data["left_out"]) == (2, {"model_refused": 2, "too_long": 1})
    console = capsys.readouterr().err
    assert "Dropped, model_refused: q0 " in console and "aspect ratio" in console and "too_long: q2 " in console


def test_a_row_that_is_refused_in_a_batch_is_left_out_of_it():
    processor, _ = qwen()
    thin, good = Image.new("RGB", (8, 3000)), draw_photo(0)
    buffers = {"thin": thin, "good": good}
    rows = [{"id": name, "question": "What?", "image": name, "crop": None, "reply": "7"} for name in ("thin", "good")]
    collator = SFTCollator(Turns(processor), PromptSet(), lambda sha: png(buffers[sha]))
    assert torch.equal(collator(rows)["input_ids"], collator(rows[1:])["input_ids"])
    with pytest.raises(RequestRefused, match="Row thin: absolute aspect ratio"):
        collator(rows[:1])


def png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
