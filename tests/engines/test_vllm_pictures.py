"""The pictures that vLLM shows, on a stand-in that reads the folder: its links, our settings, and the refusal."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import draw_photo
from tests.helpers import fake_vllm
from tests.helpers.tiny_families import save
from tests.helpers.tiny_llava import llava_next
from visrl_data.core.errors import VisRLError
from visrl_data.engines import vllm_pictures
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.loading import load_processor
from visrl_data.engines.vllm import VLLMEngine
from visrl_data.engines.vllm_pictures import ModelInput, compare, link_model
from visrl_data.models.model_folder import find_model


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("VISRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vllm"


def say_nothing(parts: Any, images: Any, seed: int, adapter: str | None) -> str:
    return ""


def cropped(folder: Path) -> Path:
    """Copy the shipped base, with a center crop as LLaVA-1.5's folders on the Hub have one."""
    shutil.copytree(find_model("spotlight-base").path, folder)
    file = folder / "processor_config.json"
    record = json.loads(file.read_text())
    record["image_processor"] |= {
        "do_center_crop": True, "size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}
    }  # fmt: skip
    file.write_text(json.dumps(record))
    return folder


def test_the_folder_links_the_weights_and_holds_our_settings(cache, tmp_path):
    folder = cropped(tmp_path / "model")
    before = (folder / "processor_config.json").read_bytes()
    model = find_model(str(folder))
    links = link_model(model, load_processor(model, None, False))
    assert (links / "model.safetensors").readlink() == folder / "model.safetensors"
    assert not (links / "processor_config.json").is_symlink()
    settings = json.loads((links / "processor_config.json").read_text())["image_processor"]
    assert (settings["do_center_crop"], settings["do_pad"]) == (False, True)
    assert (folder / "processor_config.json").read_bytes() == before, "the model itself stays as it is"
    assert sorted(path.name for path in cache.iterdir()) == [links.name], "nothing else is left"


def test_the_folder_is_the_same_for_the_same_settings_and_made_anew_where_links_lead_nowhere(cache, tmp_path):
    model = find_model(str(cropped(tmp_path / "model")))
    processor = load_processor(model, None, False)
    links = link_model(model, processor)
    made = links.stat().st_ino
    assert link_model(model, processor) == links and links.stat().st_ino == made
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert link_model(model, processor) != links
    (links / "model.safetensors").unlink()
    (links / "model.safetensors").symlink_to(tmp_path / "gone")
    again = link_model(model, load_processor(model, None, False))
    assert again == links and (again / "model.safetensors").exists()


def test_code_that_was_fetched_later_is_linked_too(cache, tmp_path):
    folder = cropped(tmp_path / "model")
    processor = load_processor(find_model(str(folder)), None, False)
    link_model(find_model(str(folder)), processor)
    (folder / "modeling_x.py").write_text("")  # which --trust-remote-code alone downloads
    assert (link_model(find_model(str(folder)), processor) / "modeling_x.py").is_file()


def test_a_cache_that_can_not_be_written_is_named(cache, tmp_path):
    cache.parent.write_text("no folder")
    model = find_model("spotlight-base")
    with pytest.raises(VisRLError, match="could not be written.*Set VISRL_CACHE"):
        link_model(model, load_processor(model, None, False))


def test_pinpoints_are_in_the_configuration_too(cache, tmp_path):
    model = find_model(str(save(llava_next, tmp_path / "model")))
    links = link_model(model, load_processor(model, 112 * 56, False))
    assert json.loads((links / "config.json").read_text())["image_grid_pinpoints"] == [[56, 112], [112, 56]]


def test_a_model_that_crops_the_center_is_shown_whole_pictures(cache, monkeypatch, tmp_path):
    fake_vllm.install(monkeypatch, say_nothing)
    model = find_model(str(cropped(tmp_path / "model")))
    engine = VLLMEngine(model)
    image = draw_photo(1, (300, 100))
    assert engine.resized_size(image) == picture_size(load_processor(model, None, False), image) == (96, 32)


def test_other_pictures_are_refused_before_anything_is_generated(cache, monkeypatch, tmp_path):
    fake_vllm.install(monkeypatch, say_nothing)
    monkeypatch.setattr("visrl_data.engines.vllm.link_model", lambda model, processor: model.path)
    with pytest.raises(VisRLError, match="640 x 480 and 50 x 40 pixels .* other pixels .* --engine transformers"):
        VLLMEngine(find_model(str(cropped(tmp_path / "model"))))


def test_a_processor_of_vllm_that_fails_is_refused(cache, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("Failed to apply XProcessor")

    fake_vllm.install(monkeypatch, say_nothing)
    monkeypatch.setattr(fake_vllm.Renderer, "render_cmpl", fail)
    with pytest.raises(VisRLError, match="Failed to apply XProcessor.*--engine transformers"):
        VLLMEngine(find_model("spotlight"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"pixels": torch.full((4,), 0.5004)}, ""),
        ({"pixels": torch.full((4,), 0.51)}, "other pixels"),
        ({"pixels": torch.full((6,), 0.5)}, "other sizes"),
        ({"ids": [1, 2]}, "other tokens"),
    ],
)
def test_inputs_differ_by_tokens_sizes_or_pixels(changes, words):
    own = ModelInput([1, 2, 3], torch.full((4,), 0.5))
    difference = compare(own, dataclasses.replace(own, **changes))
    assert words in difference and bool(words) == bool(difference)


def test_pixels_are_compared_in_the_dtype_that_the_model_gets():
    own = ModelInput([1], torch.rand(100))
    assert compare(own, ModelInput([1], own.pixels.bfloat16())) == ""
    assert "other pixels" in compare(own, ModelInput([1], (own.pixels + 0.02).bfloat16()))


def test_padding_and_bytes_are_read_as_what_they_stand_for():
    images = load_processor(find_model("spotlight-base"), None, False).image_processor
    patches = torch.randint(0, 256, (5, 12), dtype=torch.uint8)
    normalized = (patches.float() * images.rescale_factor - 0.5) / 0.5
    pixels = [vllm_pictures._pixels({"pixel_values": values}, images) for values in (patches, normalized)]
    assert torch.allclose(*pixels, atol=1e-6)
    tiles = torch.rand(2, 3, 3, 4, 4) + 0.1
    tiles[1, 2] = 0
    flat = vllm_pictures._pixels({"pixel_values": [tiles[0], tiles[1, :2]]}, images)
    assert torch.equal(vllm_pictures._pixels({"pixel_values": tiles}, images), flat)
    narrow, wide = torch.rand(3, 4, 5) + 0.1, torch.rand(3, 4, 8) + 0.1
    padded = torch.stack([torch.nn.functional.pad(narrow, (0, 3)), wide])
    side_by_side = torch.cat([narrow, wide], dim=-1)[None]
    fused, apart = (vllm_pictures._pixels({"pixel_values": values}, images) for values in (side_by_side, padded))
    assert torch.equal(fused, apart)
