"""Beside an export lie settings that train as they stand; other programs show pictures as the actor was shown them."""

import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.helpers.dataset_runs import SHIPPED, file_bytes, photos
from tests.helpers.processor_engine import ProcessorEngine
from tests.helpers.tiny_llava import llava
from tests.helpers.tiny_parts import stand_in_for_videos
from tests.helpers.tiny_qwen import qwen
from visrl_data.core import images
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError
from visrl_data.engines.image_processing import limit_pixels, show_whole
from visrl_data.engines.protocol import Role
from visrl_data.executors import generation
from visrl_data.models.families import FAMILIES, family_of
from visrl_data.models.model_folder import ALIASES
from visrl_data.publishing import export_settings
from visrl_data.publishing.dataset import build_dataset
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.publishing.export import export
from visrl_data.publishing.export_settings import llamafactory_settings, start_model
from visrl_data.publishing.rebuild import rebuild
from visrl_data.runs.run_folder import Run

SMALL = 56 * 56  # the photos, 120 x 90, are shown as 56 x 28


def clip_llava():
    from transformers import CLIPImageProcessorPil

    processor, model = llava()
    processor.image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, do_center_crop=True
    )
    return processor, model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """pixels: of Qwen, with a bound; padded: of LLaVA. Both with their source's pictures."""
    folder = tmp_path_factory.mktemp("runs")
    source = photos(folder / "photos", 16, **SHIPPED)
    made = {"source": source.parent}
    with pytest.MonkeyPatch.context() as patch:
        stand_in_for_videos(patch)
        for name, family, build, space in (
            ("pixels", family_of("qwen2_5_vl"), qwen, "resized_pixels"),
            ("padded", family_of("llava"), clip_llava, "unit_padded_square"),
        ):
            processor, _ = build()
            show_whole(processor, family)
            if name == "pixels":
                limit_pixels(processor, family, SMALL, name)
            engine = ProcessorEngine(processor, family, SMALL if name == "pixels" else None)
            config = GenConfig(source=str(source), box_space=space, box_win=0.5, box_lose=0.4)
            roles = (Role(engine, True), Role(engine, False))
            made[name] = generation.generate(config, folder / name, roles=roles).path
    return made


def whole_pictures(folder):
    """The first picture of each row of rl1, as an export of either format has it."""
    if (folder / "rl1.json").is_file():
        return [folder / row["images"][0] for row in json.loads((folder / "rl1.json").read_text())]
    return [json.loads(line)["images"][0] for line in (folder / "rl1.jsonl").read_text().splitlines()]


def test_llamafactorys_settings_bound_pictures_as_the_actor_was_shown_them(runs, tmp_path):
    folder = tmp_path / "out"
    export(runs["pixels"], "llamafactory", folder)
    settings = yaml.safe_load((folder / "rl1.yaml").read_text())
    assert (settings["image_max_pixels"], settings["image_min_pixels"]) == (SMALL, 784)
    assert (settings["stage"], settings["dataset"], settings["template"]) == ("dpo", "visrl-rl1", "qwen2_vl")
    assert settings["dataset_dir"] == str(folder.resolve())
    names = {settings["dataset"], settings.get("eval_dataset", "visrl-rl1")}
    assert names <= set(json.loads((folder / "dataset_info.json").read_text()))
    assert isinstance(settings["learning_rate"], float)
    text = (folder / "rl2.yaml").read_text()
    assert yaml.safe_load(text)["dataset"] == "visrl-rl2"
    assert (
        "# Boxes: resized_pixels. Pictures, as the actor was shown them: resized, min_pixels 784, max_pixels 3136"
        in text
    )


@pytest.mark.parametrize(
    ("family", "line"),
    [
        ("Pixtral", 'template: "pixtral"'),
        ("LLaVA-NeXT", "template:  # llava_next (Vicuna), llava_next_mistral, "),
        ("SmolVLM", "template:  # LLaMA-Factory 0.9.5 has none for this family: train with ms-swift or TRL"),
        ("GLM-4V", "template:  # the one of this model, by https://"),
    ],
)
def test_llamafactorys_template_is_named_where_it_is_known(runs, family, line):
    run = Run(runs["pixels"]).manifest()
    run["run"]["image_settings"] = {**run["run"]["image_settings"], "family": family}
    text = llamafactory_settings(run, "rl1", Path("/out"), ["rl1"])
    assert f"\n{line}" in text


def test_every_family_with_a_template_or_a_hint_is_in_the_table():
    named = {**export_settings._TEMPLATES, **export_settings._TEMPLATE_HINTS}
    assert named.keys() <= {family.name for family in FAMILIES}


def test_ms_swifts_script_bounds_pictures_by_the_environment(runs, tmp_path):
    folder = tmp_path / "out"
    export(runs["pixels"], "swift", folder)
    text = (folder / "rl1.sh").read_text()
    words = shlex.split(text.replace("\\\n", ""), comments=True)
    assert words[:4] == [f"MAX_PIXELS={SMALL}", "MIN_PIXELS=784", "swift", "rlhf"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options["--dataset"] == str(folder.resolve() / "rl1.jsonl")
    assert (options["--rlhf_type"], options["--tuner_type"]) == ("dpo", "lora")


@pytest.mark.parametrize("form", ["llamafactory", "swift"])
def test_pictures_are_of_the_size_whose_pixels_the_boxes_name(runs, form, tmp_path):
    export(runs["pixels"], form, tmp_path / "out")
    assert {Image.open(path).size for path in whole_pictures(tmp_path / "out")} == {(56, 28)}


@pytest.mark.parametrize("form", ["llamafactory", "swift"])
def test_pictures_of_the_padded_square_are_padded_unless_not_wanted(runs, form, tmp_path):
    assert export(runs["padded"], form, tmp_path / "out").padded
    pictures = [Image.open(path) for path in (tmp_path / "out" / "images").iterdir()]
    assert all(picture.width == picture.height for picture in pictures), "crops too"
    assert not export(runs["padded"], form, tmp_path / "plain", pad_square=False).padded
    assert {Image.open(path).size for path in whole_pictures(tmp_path / "plain")} == {(120, 90)}


def test_the_papers_layout_takes_pictures_as_they_are(runs, tmp_path):
    with pytest.raises(UsageError, match="--pad-square: the layout visrl takes pictures as they are"):
        export(runs["padded"], "visrl", tmp_path / "out", pad_square=True)
    assert not export(runs["padded"], "visrl", tmp_path / "out").padded


def test_a_published_set_holds_the_same_pictures_and_says_so(runs, tmp_path):
    built = build_dataset([runs["padded"]], tmp_path / "set")
    check_dataset(built.folder)
    assert built.manifest["pad_square"] is True
    assert any("padded to squares" in note for note in built.notes)
    card = (built.folder / "README.md").read_text()
    assert "The pictures are padded to squares" in card and "TRL 0.29 or later" in card
    plain = build_dataset([runs["padded"]], tmp_path / "plain", pad_square=False)
    check_dataset(plain.folder)
    assert any("--pad-square" in note for note in plain.notes)
    assert "Stock processors of LLaVA-1.5 cut the ends" in (plain.folder / "README.md").read_text()
    pixels = build_dataset([runs["pixels"]], tmp_path / "pixels")
    check_dataset(pixels.folder)
    assert f"`MAX_PIXELS={SMALL} MIN_PIXELS=784`" in (pixels.folder / "README.md").read_text()
    for folder, sizes in ((built.folder, {(120, 120)}), (plain.folder, {(120, 90)}), (pixels.folder, {(56, 28)})):
        [file] = (folder / "data" / "rl1").glob("train-*")
        rows = pq.read_table(file, columns=["images"])["images"].to_pylist()
        assert {images.upright_size(picture["bytes"]) for row in rows for picture in row} == sizes


@pytest.mark.parametrize("name", ["padded", "pixels"])
def test_a_rebuilt_set_has_the_same_rows(runs, name, tmp_path):
    whole = build_dataset([runs[name]], tmp_path / "whole").folder
    without = build_dataset([runs[name]], tmp_path / "without", ship_images=False).folder
    rebuild(str(without), runs["source"], tmp_path / "rebuilt")
    again = {path: data for path, data in file_bytes(tmp_path / "rebuilt").items() if path.startswith("data/rl")}
    assert again and again.items() <= file_bytes(whole).items()


def test_a_training_of_others_starts_from_the_actor():
    base, adapter = {"id": "org/base@abc", "digest": "b"}, {"digest": "a", "weights_digest": "b", "adapter": True}
    run = {"run": {"actor": adapter, "origin_base": base}, "config": {"model": "models/rl1"}}
    start = start_model(run)
    assert (start.model, start.revision, start.adapter) == ("org/base", "abc", "models/rl1")
    run["run"]["actor"] = {"digest": "c", "weights_digest": "c", "adapter": False, "revision": "def"}
    run["config"]["model"] = "org/tuned"
    assert (start_model(run).model, start_model(run).revision, start_model(run).adapter) == ("org/tuned", "def", "")
    run["config"]["model"] = "spotlight-base"
    assert start_model(run).model == str(ALIASES["spotlight-base"]) and re.match("/", start_model(run).model)
