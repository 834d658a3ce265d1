"""A merged model shows pictures as the adapter was trained, to programs that read no visrl.json too; it has a card."""

import json

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil

from tests.helpers.tiny_families import save
from tests.helpers.tiny_llava import llava
from tests.helpers.tiny_parts import stand_in_for_videos
from tests.helpers.tiny_qwen import qwen
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.loading import load_image_settings, load_model
from visrl_data.engines.quantization import language_linears
from visrl_data.models.model_folder import find_model
from visrl_data.publishing.model_release import notes
from visrl_train.merge import merge
from visrl_train.models import save_adapter

WIDE = Image.new("RGB", (480, 240), "white")
WIDE.paste("red", (0, 0, 96, 240))
WIDE.paste("red", (384, 0, 480, 240))


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    stand_in_for_videos(monkeypatch)


def clip_llava():
    """LLaVA-1.5 as the Hub has it: its processor cuts the ends off."""
    processor, model = llava()
    processor.image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, do_center_crop=True
    )
    return processor, model


def adapter_of(family, folder, space, max_pixels):
    """An adapter, and the visrl.json that a training would write beside it."""
    from peft import LoraConfig, get_peft_model

    base = find_model(str(save(family, folder / "base")))
    model = load_model(base, torch.float32, False)
    adapter = get_peft_model(model, LoraConfig(r=1, target_modules=language_linears(model)))
    save_adapter(adapter, base, folder / "adapter")
    prompts = PromptSet()
    record = {
        "box_space": space,
        "crop_rule": {"min_side": 0.08, "max_aspect": 2.0},
        "origin_base": {"id": str(base.path), "digest": base.digest},
        "base": {"id": str(base.path), "digest": base.digest},
        "stage": "rl2",
        "steps": 2,
        "prompts": {prompt.id: prompt.template for prompt in (prompts.focus, prompts.answer)},
        "max_pixels": max_pixels,
        "image_settings": load_image_settings(base, max_pixels, False),
    }
    (folder / "adapter" / "visrl.json").write_text(json.dumps(record))
    return folder / "adapter", record


def red_share(processor):
    """The share of the shown picture that is red, of what is red or white."""
    pixels = processor.image_processor(images=[WIDE], return_tensors="np")["pixel_values"][0]
    mean, std = (
        torch.tensor(getattr(processor.image_processor, f"image_{name}"))[:, None, None] for name in ("mean", "std")
    )
    red, green, _ = torch.tensor(pixels) * std + mean
    reds, whites = ((red > 0.9) & (green < 0.1)).sum(), ((red > 0.9) & (green > 0.9)).sum()
    return float(reds / (reds + whites))


def test_a_merged_llava_pads_as_it_was_trained(tmp_path):
    adapter, record = adapter_of(clip_llava, tmp_path, "unit_padded_square", None)
    assert red_share(AutoProcessor.from_pretrained(tmp_path / "base")) == 0.0, "the base's own cuts the red ends off"
    merged = merge(str(adapter), tmp_path / "merged")
    stock = AutoProcessor.from_pretrained(merged)
    assert red_share(stock) == pytest.approx(0.4, abs=0.05)
    assert picture_size(stock, WIDE) == (56, 28)
    folder = find_model(str(merged))
    assert folder.image_settings == record["image_settings"] == load_image_settings(folder, None, False)


def test_a_merged_qwen_is_bounded_as_it_was_trained(tmp_path):
    adapter, record = adapter_of(qwen, tmp_path, "resized_pixels", 56 * 56)
    merged = merge(str(adapter), tmp_path / "merged")
    sizes = [picture_size(AutoProcessor.from_pretrained(folder), WIDE) for folder in (tmp_path / "base", merged)]
    assert sizes == [(112, 56), (56, 28)]
    folder = find_model(str(merged))
    assert folder.max_pixels == 56 * 56
    assert (
        folder.image_settings
        == record["image_settings"]
        == load_image_settings(folder, None, False) | {"max_pixels": 56 * 56}
    )


def test_it_has_a_card_that_says_so(tmp_path):
    adapter, _ = adapter_of(qwen, tmp_path, "resized_pixels", 56 * 56)
    merged = merge(str(adapter), tmp_path / "merged")
    card = (merged / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head == {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": ["visrl", "rl2"]}
    assert "| Pictures | resized, min_pixels 784, max_pixels 3136, multiple_of 28 |" in card.replace("\\_", "_")
    assert f"visrl gen --model {merged} " in card and "AutoModelForImageTextToText.from_pretrained(MODEL" in card
    assert not any("no README" in note for note in notes(merged))


def test_an_adapter_of_others_merges_too(tmp_path):
    adapter, _ = adapter_of(qwen, tmp_path, "resized_pixels", None)
    (adapter / "visrl.json").unlink()
    card = (merge(str(adapter), tmp_path / "merged") / "README.md").read_text()
    assert "Boxes" not in card and "| Pictures | resized" in card


def test_other_pictures_than_those_of_the_training_are_refused(tmp_path):
    adapter, record = adapter_of(qwen, tmp_path, "resized_pixels", None)
    bounds = record["image_settings"]["bounds"] | {"multiple_of": 32}
    (adapter / "visrl.json").write_text(
        json.dumps(record | {"image_settings": {**record["image_settings"], "bounds": bounds}})
    )
    with pytest.raises(
        VisRLError, match=r"multiple_of 32 -> 28\. Boxes in resized_pixels would lie elsewhere\. Merge it"
    ):
        merge(str(adapter), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
