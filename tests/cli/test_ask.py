"""`visrl ask`: pictures and a question in; box, crop and response out, on the terminal, as JSON, as a picture."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw_photo, scripted_reply
from tests.helpers.command import visrl
from visrl_data.core.boxes import Box, iou
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.errors import VisRLError
from visrl_data.engines.protocol import Role
from visrl_data.engines.refusals import RequestRefused
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.evaluation import ask, ask_picture
from visrl_data.evaluation.config import AskConfig, EvalConfig
from visrl_data.evaluation.inference import ModelOutput
from visrl_data.pipeline import model_pair
from visrl_data.spotlight import ACTOR


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two pictures in the working directory, and the script of dice in place of every model."""
    monkeypatch.chdir(tmp_path)
    draw_photo(1).save("a.png")
    draw_photo(2, (300, 200)).save("b.jpg")
    _answer_by(monkeypatch, scripted_reply)
    return tmp_path


def _answer_by(monkeypatch, reply):
    monkeypatch.setattr(model_pair, "load_role", lambda config, model: Role(ScriptedEngine(reply), True))


def test_spotlight_reads_the_drawn_example(tmp_path):
    """The real model: it looks at the shape of the question and reads its digit."""
    target = tmp_path / "scene.png"
    code, out, err = visrl("ask", "-o", target)
    assert code == 0 and f"Picture written: {target}" in err
    example = ask.draw_example()
    assert f"  question  {example.question}\n" in out and f"  response  {example.answers[0]}\n" in out
    box = [float(value) for value in out.split("  box ")[1].split("\n")[0].split(",")]
    unit = [value / side for value, side in zip(box, (example.width, example.height) * 2, strict=True)]
    assert iou(unit, example.gold_boxes[0].xyxy) > 0.5
    with Image.open(target) as picture:
        assert picture.size == (example.width, example.height)


def test_json_has_the_box_in_both_units_and_the_raw_replies(photos):
    code, out, _ = visrl("ask", "b.jpg", "What is it?", "--json")
    assert code == 0
    result = json.loads(out)
    [answer], [model] = result["answers"], result["models"]
    assert (result["question"], result["failed"]) == ("What is it?", [])
    assert (answer["image"], answer["width"], answer["height"], answer["seen"]) == ("b.jpg", 300, 200, "crop")
    assert json.loads(answer["box_reply"]) == answer["box"]
    assert answer["box_pixels"] == [round(v * side, 2) for v, side in zip(answer["box"], (300, 200) * 2, strict=True)]
    assert tuple(answer["crop"]) == crop_pixels(Box(*answer["box"]), (300, 200), CropRule(**model["crop_rule"]))
    assert answer["response"] in "678" and answer["state"] == "ok"
    assert (model["model"], model["box_space"], len(model["digest"])) == ("spotlight", "unit", 64)


def test_a_huge_picture_gets_our_message_alone(photos, recwarn):
    Image.new("1", (10_000, 9_000)).save("huge.png")
    code, _, err = visrl("ask", "huge.png", "What?")
    assert code == 1 and "10000x9000 pixels; at most 80000000 in all" in err
    assert "DecompressionBombWarning" not in err and not recwarn.list


def test_a_box_that_cannot_be_read_is_answered_from_the_whole_image(photos, monkeypatch):
    def reply(request, seed):
        return "I can't" if "bounding box" in request.parts[-1].text else f"{len(request.images)} image"

    _answer_by(monkeypatch, reply)
    code, out, _ = visrl("ask", "a.png", "What?", "-o", "box.png")
    assert code == 0
    assert "box       none: no box could be read from the actor's reply (its reply: \"I can't\")." in out
    assert "Answered from the whole image instead." in out and "response  1 image" in out
    [answer] = json.loads(visrl("ask", "a.png", "What?", "--json")[1])["answers"]
    assert (answer["state"], answer["box"], answer["crop"], answer["seen"]) == ("no_box", None, None, "whole image")
    assert (answer["box_reply"], answer["response"]) == ("I can't", "1 image")
    with Image.open("box.png") as drawn, Image.open("a.png") as original:
        assert drawn.tobytes() == original.tobytes()


def test_a_bad_picture_does_not_stop_the_others(photos):
    (photos / "bad.png").write_bytes((photos / "a.png").read_bytes()[:100])
    code, out, err = visrl("ask", "a.png", "bad.png", "missing.jpg", "b.jpg", "What?")
    assert code == 1
    assert out.count("response") == 2 and "a.png (120 x 90 pixels)" in out and "b.jpg (300 x 200 pixels)" in out
    assert "bad.png: the image file ends too early" in err and "missing.jpg: there is no such image" in err
    assert err.endswith("visrl: 2 of 4 pictures without an answer: bad.png, missing.jpg.\n")
    code, out, _ = visrl("ask", "a.png", "bad.png", "What?", "--json")
    result = json.loads(out)
    assert code == 1 and [answer["image"] for answer in result["answers"]] == ["a.png"]
    assert [failure["image"] for failure in result["failed"]] == ["bad.png"]


def test_several_models_answer_about_several_pictures(photos):
    code, out, err = visrl(
        "ask", "a.png", "b.jpg", "What?", "--model", "spotlight", "--model", "spotlight-base", "-o", "out"
    )
    assert code == 0 and out.count("response") == 4 and "a.png (120 x 90 pixels), spotlight-base\n" in out
    names = {path.name for path in (photos / "out").iterdir()}
    assert names == {f"{stem}-{model}.png" for stem in "ab" for model in ("spotlight", "spotlight-base")}
    assert all(f"out/{name}" in err for name in names)


@pytest.mark.parametrize("suffix", ask_picture.FORMATS)
def test_only_a_picture_of_ours_is_replaced(photos, suffix):
    target = photos / f"out{suffix}"
    for _ in range(2):
        assert visrl("ask", "a.png", "What?", "-o", target)[0] == 0
    with Image.open(target) as picture:
        assert picture.format == ask_picture.FORMATS[suffix]
    before = (photos / "b.jpg").read_bytes()
    (photos / "link.png").symlink_to(target)
    for other in ("b.jpg", "link.png"):
        code, out, err = visrl("ask", "a.png", "What?", "-o", other)
        assert (code, out) == (1, "") and "not a picture that visrl wrote" in err
    assert (photos / "b.jpg").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.png"], 2, 'visrl ask photo.jpg "'),
        (["a.png", "b.jpg"], 2, "b.jpg: expected pictures, and after them a question"),
        (["a.png", " "], 2, "The question is empty"),
        (["missing.png", "What?"], 1, "missing.png: there is no such image"),
        (["text.png", "What?"], 1, "text.png: the file is not an image that can be read"),
        (["huge.png", "What?"], 1, "huge.png: the image is beyond the limits"),
        (["folder", "What?"], 1, "folder is a folder. Expected pictures, such as folder/*.jpg"),
        (["a.png", "What?", "-o", "out.txt"], 2, "expected a file that ends in .png, .jpg, .jpeg, .webp"),
        (["a.png", "What?", "-o", "none/out.png"], 1, "there is no folder none"),
        (["a.png", "b.jpg", "What?", "-o", "out.png"], 2, "Expected a folder"),
        (["a.png", "What?", "--with-crop"], 2, "--with-crop needs -o"),
        (["a.png", "What?", "--model", "no/such/model"], 1, "no/such/model"),
        (["a.png", "What?", "--model", "spotlight", "--model", "spotlight"], 2, "given twice"),
        (["a.png", "What?", "--max-new-tokens", "0"], 2, "--max-new-tokens 0: expected at least 1"),
        (["a.png", "What?", "--base-url", "http://localhost:1/v1"], 2, "--base-url needs --engine openai"),
    ],
)
def test_what_the_user_can_fix_is_one_message(arguments, code, message, photos, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (photos / "text.png").write_text("no picture")
    Image.new("1", (10_000, 9_000)).save("huge.png")
    (photos / "folder").mkdir()
    before = sorted(path.name for path in photos.iterdir())
    got, out, err = visrl("ask", *arguments)
    assert (got, out) == (code, "")
    assert message in err and "Traceback" not in err and err.count("visrl:") == 1
    assert sorted(path.name for path in photos.iterdir()) == before


@pytest.mark.parametrize(("suffix", "width"), [("webp", 16_500), ("jpg", 66_000)])
def test_a_format_that_holds_no_such_picture_is_one_message(tmp_path, suffix, width):
    with pytest.raises(VisRLError, match=rf"can't hold {width}x10 pixels .* Expected a name that ends in \.png"):
        ask_picture.write_picture(tmp_path / f"a.{suffix}", Image.new("RGB", (width, 10)))
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_picture_is_followed(photos):
    (photos / "sub").mkdir()
    (photos / "sub" / "link.png").symlink_to(photos / "a.png")
    assert visrl("ask", "sub/link.png", "What?")[0] == 0


@pytest.mark.parametrize("ground", ["black", "white", (53, 208, 107), "gray"])
def test_the_frame_is_seen_on_any_background(photos, ground):
    """Around the box, outside of it: the green frame between dark ones. Inside, the picture is untouched."""
    Image.new("RGB", (200, 100), ground).save("plain.png")
    question = ask.read_question(photos / "plain.png", "What?")
    output = ModelOutput(box=Box(0.25, 0.2, 0.75, 0.8), crop=(50, 20, 150, 80), response="7")
    picture = ask_picture.draw_answer(question, output)
    frame = {picture.getpixel((x, 50)) for x in range(40, 50)}
    assert {ask_picture.BOX_COLOR, ask_picture.DARK} <= frame
    inside = picture.crop((50, 20, 150, 80))
    assert inside.getcolors() == [(100 * 60, Image.new("RGB", (1, 1), ground).getpixel((0, 0)))]


def test_a_box_of_the_whole_image_and_a_crop_beside_it(photos):
    question = ask.read_question(photos / "b.jpg", "What?")
    whole = ModelOutput(box=Box(0, 0, 1, 1), crop=(0, 0, 300, 200), response="7")
    picture = ask_picture.draw_answer(question, whole)
    assert picture.size == (300, 200)
    for column in (range(10), range(290, 300)):
        assert ask_picture.BOX_COLOR in {picture.getpixel((x, 100)) for x in column}
    part = ModelOutput(box=Box(0.1, 0.1, 0.2, 0.4), crop=(30, 20, 60, 80), response="7")
    sheet = ask_picture.draw_answer(question, part, with_crop=True)
    assert sheet.size == (300 + 6 + 100, 200), "a crop of 30 x 60, as high as the picture"


def test_a_model_is_shown_pictures_as_in_its_training(photos, monkeypatch):
    """The bound that its folder records is the engine's, and is in the JSON."""
    shutil.copytree(ACTOR, "bounded")
    record = json.loads(Path("bounded/visrl.json").read_text())
    Path("bounded/visrl.json").write_text(json.dumps(record | {"max_pixels": 4321}))
    bounds = []

    def load_role(config, model):
        bounds.append(config.max_pixels)
        return Role(ScriptedEngine(scripted_reply), True)

    monkeypatch.setattr(model_pair, "load_role", load_role)
    for option, bound in ((), 4321), (("--max-pixels", 99), 99):
        code, out, _ = visrl("ask", "a.png", "What?", "--model", "bounded", "--json", *option)
        assert code == 0 and json.loads(out)["models"][0]["max_pixels"] == bound
    assert bounds == [4321, 99]


def test_a_model_that_answers_at_once_is_asked_once(photos, monkeypatch):
    shutil.copytree(ACTOR, "direct")
    record = json.loads(Path("direct/visrl.json").read_text())
    Path("direct/visrl.json").write_text(json.dumps(record | {"steps": 1}))
    requests = []

    def reply(request, seed):
        requests.append(request)
        return "seven"

    _answer_by(monkeypatch, reply)
    code, out, _ = visrl("ask", "a.png", "What?", "--model", "direct")
    assert (code, out, len(requests)) == (0, "a.png (120 x 90 pixels)\n  response  seven\n", 1)


def test_a_request_that_the_model_refuses_has_no_answer(photos, monkeypatch):
    def reply(request, seed):
        if request.images[0].size == (120, 90):
            raise RequestRefused("no such pictures")
        return "7"

    _answer_by(monkeypatch, reply)
    code, out, err = visrl("ask", "a.png", "b.jpg", "What?")
    assert code == 1 and "none: the model's processor or server does not take the request (no such pictures)." in out
    assert out.count("response") == 1 and "There is no answer." in out
    assert err.endswith("visrl: 1 of 2 pictures without an answer: a.png.\n")


def test_options_are_those_of_an_evaluation():
    config = AskConfig(max_pixels=5000, device="cpu")
    resolved = config.eval_config()
    assert resolved == EvalConfig(max_pixels=5000, device="cpu", baseline=False)
    assert ask.gen_config(config).temperature == 0
