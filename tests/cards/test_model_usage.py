"""The code on a model's card for people without visrl: its boxes, crops and answers are those of visrl."""

import ast
import dataclasses
import json
import os
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw_photo
from visrl_cards.model_usage import HEADING, describe_usage, usage_code
from visrl_data.core.boxes import SPACES, make_frame, needs_resized_size
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.image_processing import picture_size
from visrl_data.sources.spotlight import SpotlightSource
from visrl_data.spotlight import ACTOR, BASE

RULE = {"min_side": 0.08, "max_aspect": 2.0}


def record(**facts):
    prompts = {prompt.id: prompt.template for prompt in (PromptSet().focus, PromptSet().answer)}
    return {"box_space": "unit", "crop_rule": RULE, "base": None, "steps": 2, "prompts": prompts} | facts


def functions(code):
    """The imports that need no model, and the functions, of a card's code."""
    tree = ast.parse(code)
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    kept += [node for node in tree.body if isinstance(node, ast.Import) and node.names[0].name in ("math", "re")]
    names = {}
    exec(compile(ast.Module(kept, []), "card", "exec"), names)
    return names


@pytest.fixture(scope="module")
def processor():
    from types import SimpleNamespace

    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return SimpleNamespace(image_processor=Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=200_000))


@pytest.mark.parametrize("space", SPACES)
def test_boxes_and_crops_are_those_of_visrl(space, processor):
    """Also of texts whose box reaches into the padding, is reversed, or has no area."""
    names, dice = functions(usage_code(record(box_space=space), "me/model", "v1.0")), random.Random(space)
    names["processor"] = processor
    read = 0
    for _ in range(300):
        size = (dice.randrange(60, 600), dice.randrange(60, 600))
        image = Image.new("RGB", size)
        frame = make_frame(space, size, picture_size(processor, image) if needs_resized_size(space) else None)
        cells = tuple(dice.randrange(axis.top + 1) for axis in (frame.x, frame.y, frame.x, frame.y))
        text = f"The region: {frame.text(cells)}."
        found, _ = frame.parse(text)
        if found is None:
            with pytest.raises(ValueError, match="no box"):
                names["read_box"](text, image)
            continue
        read += 1
        box = frame.to_unit(found)
        assert names["read_box"](text, image) == box.xyxy
        image.putpixel((dice.randrange(size[0]), dice.randrange(size[1])), (255, 0, 0))
        expected = image.crop(crop_pixels(box, size, CropRule(**RULE)))
        assert names["crop_of"](box.xyxy, image).tobytes() == expected.tobytes()
    assert read > 30


@pytest.mark.parametrize("rule", [(0.0, 1.0), (0.3, 1.0), (0.08, 3.5)])
def test_every_crop_rule(rule):
    rule = CropRule(*rule)
    names, dice = functions(usage_code(record(crop_rule=rule.as_dict()), "me/model", None)), random.Random(0)
    for _ in range(200):
        size, (x1, x2), (y1, y2) = (
            (dice.randrange(8, 400), dice.randrange(8, 400)),
            *(sorted(dice.sample(range(1001), 2)) for _ in "xy"),
        )
        box, image = tuple(n / 1000 for n in (x1, y1, x2, y2)), Image.new("RGB", size)
        frame = make_frame("unit", size)
        expected = crop_pixels(frame.to_unit((x1, y1, x2, y2)), size, rule)
        assert names["crop_of"](box, image).size == (expected[2] - expected[0], expected[3] - expected[1])


def test_a_reply_without_a_box_is_an_error():
    with pytest.raises(ValueError, match="no box in 'nothing'"):
        functions(usage_code(record(), "me/model", None))["read_box"]("nothing", draw_photo(0))


def test_prompts_are_those_of_the_training():
    """Any text, as a literal; no other line depends on it."""
    text = 'Where?"""\n\\ {question} \' {question}'
    code = usage_code(
        record(prompts={"focus@1": f"<image>\n{text}", "answer@1": "<image>\n<crop>\n{question}"}), "m", ""
    )
    calls = [
        [ast.unparse(argument) for argument in node.args]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ask"
    ]
    assert sorted(calls) == [
        ["image", '\'Where?"""\\n\\\\ \' + question + " \' " + question'],
        ["image", "crop", "question"],
    ]


def test_a_model_that_answers_at_once_has_one_step():
    code = usage_code(record(steps=1), "me/model", "v1.0")
    assert "read_box" not in code and "crop" not in code and code.count("ask(") == 2
    compile(code, "card", "exec")


def test_an_adapter_that_only_visrl_can_load_says_so_and_offers_what_others_can():
    for base in ("spotlight-base", "/home/me/models/base"):
        section = describe_usage(record(base={"id": base, "digest": "0"}), "me/model", "v1.0")
        assert section.startswith(HEADING) and "```" not in section and "/home/me" not in section
        assert Path(base).name in section and "visrl merge" in section and "--with-base" in section


def run_card(code, folder, picture):
    """Run a card's code as it stands, in a folder with the picture that it opens; returns its two lines."""
    picture.save(folder / "photo.jpg", quality=95)
    (folder / "use.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    box, answer = done.stdout.splitlines()[-2:]
    return ast.literal_eval(box.removeprefix("box: ")), answer.removeprefix("answer: ")


def own_output(folder, scene, picture):
    """Box and answer of visrl on the same file and question."""
    from visrl_data.core.config import GenConfig
    from visrl_data.engines.protocol import Role
    from visrl_data.engines.transformers import TransformersEngine
    from visrl_data.evaluation.inference import PromptingMode, generate_outputs
    from visrl_data.models.model_folder import find_model

    model = find_model(str(folder))
    mode = PromptingMode(2, model.box_space, model.crop_rule, PromptSet())
    question = dataclasses.replace(scene, question="What is written on the sign?", image=picture.read_bytes())
    role = Role(TransformersEngine(model, device="cpu"), True)
    (output,) = generate_outputs([question], role, mode, GenConfig(temperature=0.0))
    return output.box.xyxy, output.response


def test_the_code_gives_the_boxes_and_answers_of_visrl(tmp_path):
    """Spotlight's actor, as if its base were on the Hub, and a scene of its world; visrl is not imported."""
    for name, folder in {"org/base": BASE, "me/model": ACTOR}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(folder)
    facts = json.loads((ACTOR / "visrl.json").read_text()) | {"base": {"id": "org/base@main", "digest": ""}}
    code = usage_code(record(**facts), "me/model", "v1.0")
    assert "visrl" not in code
    scene = SpotlightSource("test", 1).read(0)
    printed = run_card(code, tmp_path, Image.open(BytesIO(scene.image)))
    assert printed == own_output(ACTOR, scene, tmp_path / "photo.jpg")
