"""Training shows pictures as the actor of the pairs was shown them; at another size, boxes in pixels are rewritten."""

import dataclasses
import json

import pytest
from PIL import Image

from tests.helpers.command import visrl
from tests.helpers.dataset_runs import SHIPPED, photos
from tests.helpers.processor_engine import ProcessorEngine
from tests.helpers.tiny_families import save
from tests.helpers.tiny_llava import llava
from tests.helpers.tiny_parts import stand_in_for_videos
from tests.helpers.tiny_qwen import qwen
from tests.train.test_helpers import QUICK
from visrl_data.core import images
from visrl_data.core.boxes import Box, make_frame
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.image_processing import picture_size
from visrl_data.engines.loading import load_processor
from visrl_data.engines.protocol import Role
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_models import find_eval_models
from visrl_data.executors import generation
from visrl_data.models.families import family_of
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline.model_pair import resolve_max_pixels
from visrl_train import rl1
from visrl_train.config import Rl1Config
from visrl_train.image_settings import choose_images, fit_boxes
from visrl_train.launch import load_train_config
from visrl_train.pairs import read_pairs

SMALL = 56 * 56  # the photos are 120 x 90: shown as 84 x 56 by default, as 56 x 28 with this bound


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    stand_in_for_videos(monkeypatch)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stand_in_for_videos(patch)
        return save(qwen, tmp_path_factory.mktemp("models") / "qwen")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Pairs of a model that is shown pictures without --max-pixels, and writes boxes in their pixels."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in_for_videos(patch)
        engine = ProcessorEngine(qwen()[0], family_of("qwen2_5_vl"))
        source = photos(tmp_path_factory.mktemp("source") / "photos", 12, **SHIPPED)
        config = GenConfig(source=str(source), box_space="resized_pixels", box_win=0.5, box_lose=0.4)
        roles = (Role(engine, True), Role(engine, False))
        return generation.generate(config, tmp_path_factory.mktemp("runs") / "pixels", roles=roles).path


def trained(base, folder, **record):
    """A full model that its record says was trained here."""
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "visrl.json").write_text(json.dumps({"box_space": "resized_pixels", **record}))
    return find_model(str(folder))


def test_the_run_says_how_its_pictures_were_shown(run):
    settings = json.loads((run / "run.json").read_text())["image_settings"]
    assert settings == {
        "family": "Qwen2.5-VL",
        "resize": "resized",
        "center_crop": False,
        "bounds": {"min_pixels": 784, "max_pixels": 7056, "multiple_of": 28},
        "max_pixels": None,
    }
    assert read_pairs(str(run)).image_settings == settings


def test_the_default_is_how_the_data_was_made(run, base, capsys):
    pairs, folder = read_pairs(str(run)), find_model(str(base))
    assert load_train_config("rl1", "qwen2.5-vl-7b", {}).max_pixels is None, "no preset has a bound of its own"
    assert choose_images("rl1", Rl1Config(), pairs, folder) == pairs.image_settings
    bounded = dataclasses.replace(pairs, max_pixels=SMALL, image_settings=None)
    assert choose_images("rl1", Rl1Config(), bounded, folder)["bounds"]["max_pixels"] == SMALL
    assert "does not record how its pictures were shown" in capsys.readouterr().err


def test_boxes_of_another_size_are_refused_by_the_records(run, base, tmp_path):
    pairs = read_pairs(str(run))
    model = trained(base, tmp_path / "model", max_pixels=SMALL)
    with pytest.raises(
        VisRLError, match=rf"model was shown pictures differently: .*Give --max-pixels {SMALL}, its own"
    ):
        choose_images("rl1", Rl1Config(), pairs, model)
    other = save(lambda: qwen(max_pixels=112 * 112), tmp_path / "other")
    with pytest.raises(VisRLError, match=r"pixels was shown .*max_pixels 7056 -> 12544.*give --max-pixels"):
        choose_images("rl1", Rl1Config(), pairs, find_model(str(other)))
    assert choose_images("dpo-answers", Rl1Config(), pairs, find_model(str(other))), "no box, nothing to move"


@pytest.mark.parametrize("has_record", [True, False])
def test_boxes_of_another_size_are_refused_by_what_they_are(run, has_record):
    pairs = read_pairs(str(run))
    pairs = pairs if has_record else dataclasses.replace(pairs, image_settings=None)
    assert fit_boxes(pairs, qwen()[0], may_rewrite=False) == pairs
    with pytest.raises(VisRLError, match="in pixels of pictures of another size than this model is shown"):
        fit_boxes(pairs, qwen(max_pixels=SMALL)[0], may_rewrite=False)


def test_a_rewritten_box_lies_on_the_same_pixels_of_the_original(run, base, capsys):
    pairs, folder = read_pairs(str(run)), find_model(str(base))
    settings = choose_images("rl1", Rl1Config(max_pixels=SMALL), pairs, folder)
    assert settings["bounds"]["max_pixels"] == settings["max_pixels"] == SMALL
    assert "The boxes are rewritten for the new size." in capsys.readouterr().err
    processor = load_processor(folder, SMALL, False)
    fitted = fit_boxes(pairs, processor, may_rewrite=True)
    for old, new in zip(pairs.pairs, fitted.pairs, strict=True):
        width, height = images.upright_size(pairs.read_image(old.image))
        shown = picture_size(processor, Image.new("RGB", (width, height)))
        assert shown != picture_size(qwen()[0], Image.new("RGB", (width, height)))
        frame = make_frame("resized_pixels", (width, height), shown)
        for side in ("win", "lose"):
            before, text = Box(*getattr(old, f"{side}_unit")), getattr(new, f"{side}_box")
            assert text != getattr(old, f"{side}_box")
            cells, state = frame.parse(text)
            assert state == "ok"
            cell = (width / shown[0], height / shown[1])  # pixels of the original in one of the shown picture
            for a, b, side_length, step in zip(
                frame.to_unit(cells).xyxy, before.xyxy, (width, height) * 2, cell * 2, strict=True
            ):
                assert abs(a - b) * side_length <= step / 2 + 1e-6


def test_a_stage_trains_on_rewritten_boxes_and_records_their_size(run, base, tmp_path):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**QUICK, "batch_size": 16}.items()]
    command = ("train", "rl1", "--data", run, "--model", base, "--config", "qwen2.5-vl-7b", *flags)
    code, _, err = visrl(*command, "--max-pixels", SMALL, "-o", tmp_path / "small")
    assert code == 0, err
    record = json.loads((tmp_path / "small" / "visrl.json").read_text())
    assert (record["max_pixels"], record["image_settings"]["bounds"]["max_pixels"]) == (SMALL, SMALL)
    again, small = {**QUICK, "batch_size": 16, "data": str(run)}, str(tmp_path / "small")
    with pytest.raises(VisRLError, match=f"Give --max-pixels {SMALL}, its own"):
        rl1.train(Rl1Config(model=small, **again), tmp_path / "next")
    code, _, err = visrl(*command, "-o", tmp_path / "whole")
    assert code == 0, err
    assert json.loads((tmp_path / "whole" / "visrl.json").read_text())["max_pixels"] is None


def test_generation_shows_pictures_as_the_model_was_trained(base, tmp_path, caplog):
    model = trained(base, tmp_path / "model", max_pixels=SMALL)
    config = GenConfig(box_space="resized_pixels")
    assert resolve_max_pixels(config, model, "resized_pixels") == SMALL
    larger = dataclasses.replace(config, max_pixels=70 * 70)
    with pytest.raises(VisRLError, match="Leave --max-pixels out: the model's own bound is the default"):
        resolve_max_pixels(larger, model, "resized_pixels")
    assert resolve_max_pixels(larger, model, "per_mille_json") == 70 * 70
    assert "Boxes in per_mille_json mean the same either way" in caplog.text


def test_pairs_of_the_padded_square_do_not_train_a_model_that_does_not_pad(run, base):
    pairs = read_pairs(str(run))
    padded = pairs.image_settings | {"resize": "padded", "bounds": {"size": {"height": 336, "width": 336}}}
    pairs = dataclasses.replace(pairs, box_space="unit_padded_square", image_settings=padded)
    for config in (Rl1Config(), Rl1Config(max_pixels=SMALL)):
        with pytest.raises(VisRLError, match="The actor of .* padded -> resized.*make new pairs with this one"):
            choose_images("rl1", config, pairs, find_model(str(base)))


def test_an_evaluation_shows_pictures_as_each_model_was_trained(base, tmp_path):
    """The original model beside it too, so that the two are compared on the same pictures."""
    origin = {"id": str(base), "digest": find_model(str(base)).digest}
    trained(base, tmp_path / "small", max_pixels=SMALL, origin_base=origin)
    trained(base, tmp_path / "whole", max_pixels=None, origin_base=origin)
    names = [str(tmp_path / name) for name in ("small", "whole")]
    rows = find_eval_models(names, EvalConfig(), PromptSet())
    assert [(row.name, row.max_pixels) for row in rows] == [
        ("small", SMALL), ("whole", None), ("qwen, no box", SMALL)
    ]  # fmt: skip
    with pytest.raises(VisRLError, match="In training, .*small was shown pictures differently.*Leave --max-pixels out"):
        find_eval_models(names, EvalConfig(max_pixels=70 * 70), PromptSet())


def test_a_squashed_picture_is_refused_for_boxes_of_the_padded_square(tmp_path):
    model = find_model(str(save(llava, tmp_path / "llava")))
    record = {"family": "LLaVA-1.5", "resize": "padded", "center_crop": False, "max_pixels": None}
    record |= {"bounds": {"do_resize": True, "size": {"height": 56, "width": 56}}}
    model = dataclasses.replace(model, box_space="unit_padded_square", image_settings=record)
    with pytest.raises(VisRLError, match="resize padded -> squashed"):
        resolve_max_pixels(GenConfig(), model, "unit_padded_square")
