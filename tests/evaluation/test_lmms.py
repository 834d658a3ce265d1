"""The plug-in for lmms-eval: what each pass is asked, what a task gets back, and the real command on Spotlight."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import types
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw_photo
from tests.evaluation.test_eval import kind_of, model
from tests.helpers.command import visrl
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import FOCUS_REQUEST
from visrl_data.engines.refusals import RequestRefused
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.pipeline import model_pair
from visrl_data.sources.spotlight import SpotlightSource

INSTALLED = importlib.util.find_spec("lmms_eval") is not None
ENDING = "\nAnswer with the option's letter from the given choices directly."
RECORD = "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the region this sentence describes: the cat"  # noqa: E501
LOCATE = (
    'Locate every object that matches the description "the cat" in the image. Report bbox coordinates in JSON format.'
)


class Task:
    """What lmms-eval's tasks have that the plug-in reads: the messages of a row, and the post-prompt."""

    def __init__(self, post_prompt: str = "") -> None:
        self.lmms_eval_specific_kwargs = {"pre_prompt": "", "post_prompt": post_prompt}

    def doc_to_messages(self, doc):
        pictures = [{"type": "image", "url": picture} for picture in doc["pictures"]]
        return [{"role": "user", "content": [*pictures, {"type": "text", "text": doc["text"]}]}]


@pytest.fixture
def plugin(monkeypatch):
    """The plug-in's module; where lmms-eval is not installed, on stand-ins of the four names that it imports."""
    if not INSTALLED:

        class Base:
            def __init__(self):
                self.task_dict = {}

        stands = {"lmms_eval.api.model": {"lmms": Base}, "lmms_eval.api.instance": {"Instance": object},
                  "lmms_eval.models.registry_v2": {"ModelManifest": types.SimpleNamespace},
                  "loguru": {"logger": types.SimpleNamespace(warning=print)}}  # fmt: skip
        for name, content in stands.items():
            for parent in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
            stand = types.ModuleType(name)
            vars(stand).update(content)
            monkeypatch.setitem(sys.modules, name, stand)
        monkeypatch.delitem(sys.modules, "visrl_data.evaluation.lmms", raising=False)
    from visrl_data.evaluation import lmms

    yield lmms
    if not INSTALLED:
        sys.modules.pop("visrl_data.evaluation.lmms", None)


@pytest.fixture
def asked(plugin, monkeypatch, tmp_path):
    """asked(rows, says, task name, ...): the replies to a task's rows, and the requests that the engine got."""
    folders = iter(range(100))

    def run(rows, says, name="mme", task=None, options=None, record=None, **arguments):
        seen = []

        def script(request, seed):
            seen.append(request)
            return says(request) if callable(says) else says[kind_of(request)]

        monkeypatch.setattr(model_pair, "load_engine", lambda config, folder, logprobs: ScriptedEngine(script))
        made = plugin.VisRL(model(tmp_path / f"m{next(folders)}", record), batch_size="2", **arguments)
        task = task or Task(ENDING)
        made.task_dict = {name: {"test": rows}}
        requests = [
            types.SimpleNamespace(args=("", task.doc_to_messages, options or {}, row, name, "test"))
            for row in range(len(rows))
        ]
        return made.generate_until(requests), seen

    return run


def row(text="Which?\nA. one\nB. two" + ENDING, *pictures):
    return {"text": text, "pictures": pictures or (draw_photo(1),)}


def words(request):
    return "\n".join(part.text for part in request.parts)


def test_two_passes_the_ending_is_left_out_of_the_first_and_comes_last_in_the_second(asked):
    rows = [row(), row("Who?" + ENDING), row("Where?" + ENDING)]
    says = {"focus": "[0.100, 0.100, 0.500, 0.500]", "answer": " B "}
    replies, seen = asked(rows, says, options={"max_new_tokens": 16}, crop_min_side=0.0)
    assert replies == ["B", "B", "B"]
    focus = next(r for r in seen if kind_of(r) == "focus")
    answer = next(r for r in seen if kind_of(r) == "answer")
    assert words(focus) == f"\nWhich?\nA. one\nB. two\n{FOCUS_REQUEST}", "the question, without the post-prompt"
    assert words(answer).startswith(words(focus)) and words(answer).endswith("sub-image." + ENDING)
    assert (focus.sampling.max_new_tokens, answer.sampling.max_new_tokens) == (64, 16)
    assert focus.sampling.temperature == 0 and answer.images[1].size == (48, 36)  # 0.4 x 0.4 of 120 x 90
    assert [kind_of(r) for r in seen] == ["focus", "focus", "answer", "answer", "focus", "answer"], "batches of two"


def test_a_text_without_the_post_prompt_stays_whole(asked):
    _, seen = asked([row("Which?")], {"focus": "[0.1, 0.1, 0.5, 0.5]", "answer": "B"})
    assert words(seen[1]).endswith("this sub-image.") and "letter" not in words(seen[1])


def test_one_step_asks_once_as_visrl_eval_does_and_ends_as_the_task_does(asked):
    for record, arguments in (({}, {"steps": 1}), ({"steps": 1}, {})):
        replies, seen = asked([row("Which?" + ENDING)], {"direct": "A"}, record=record, **arguments)
        assert replies == ["A"] and len(seen) == 1
        assert words(seen[0]) == "\nWhich?\nPlease answer with a word or a short phrase." + ENDING


def test_an_unreadable_box_or_a_refused_picture_gives_an_empty_answer_and_the_others_go_on(asked):
    def says(request):
        if "bad" in words(request):
            raise RequestRefused("too long a picture")
        if kind_of(request) == "focus":
            return "nothing" if "none" in words(request) else "[0.1, 0.1, 0.5, 0.5]"
        return "yes"

    replies, _ = asked([row("one"), row("bad"), row("none"), row("two")], says)
    assert replies == ["yes", "", "", "yes"]


def test_an_answer_ends_where_the_task_says(asked):
    says = {"focus": "[0.1, 0.1, 0.5, 0.5]", "answer": "B\n\nbecause"}
    assert asked([row()], says, options={"until": ["\n\n", "ASSISTANT:"]})[0] == ["B"]
    assert asked([row()], says, options={"until": "because"})[0] == ["B"]


@pytest.mark.parametrize("steps", [1, 2])
def test_for_refcoco_the_focus_box_is_the_answer_in_fractions_of_the_picture(asked, steps):
    """120 x 90 padded to a square: 15 of 120 lie above. y 0.250 of the square is (30 - 15) / 90 of the picture."""
    rows = [row(RECORD), row(RECORD.replace("cat", "dog"))]
    replies, seen = asked(
        rows,
        lambda request: "[0.100, 0.250, 0.500, 0.500]" if "cat" in words(request) else "no",
        name="refcoco+_bbox_rec_testA",
        task=Task(),
        box_space="unit_padded_square",
        steps=steps,
    )
    assert replies == ["[0.100000, 0.166667, 0.500000, 0.500000]", ""]
    assert all(kind_of(r) == "focus" for r in seen) and len(seen) == 2
    assert words(seen[0]).startswith("\nPlease provide the bounding box coordinate of the region this sentence")
    assert "floating point" not in words(seen[0])


def test_for_refcoco_grounding_it_is_in_pixels(asked):
    replies, seen = asked([row(LOCATE)], {"focus": "[0.1, 0.2, 0.5, 0.6]"}, name="refcoco_grounding_test", task=Task())
    assert json.loads(replies[0]) == [12, 18, 60, 54]
    assert words(seen[0]).startswith('\nLocate every object that matches the description "the cat" in the image.\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stepz": 1}, "stepz=: expected pretrained, steps, box_space"),
        ({"steps": 3}, "steps=3: expected 1 or 2"),
        ({"steps": 2, "record": {"steps": 1}}, "steps=2: expected 1 for"),
        ({"crop_min_side": 7}, "crop-min-side 7"),
        ({"dtype": 16}, "dtype = 16: expected str"),
    ],
)
def test_a_wrong_argument_is_named(asked, arguments, message):
    with pytest.raises(UsageError, match=message):
        asked([row()], {}, **arguments)


def test_the_crop_rule_of_the_model_binds(asked):
    with pytest.raises(VisRLError, match="trained with crop rule"):
        asked([row()], {}, record={"crop_rule": {"min_side": 0.3, "max_aspect": 1.0}}, crop_min_side=0.1)


def test_a_task_with_several_pictures_is_refused(asked):
    with pytest.raises(VisRLError, match="Task mme, row 0: image, image, text"):
        asked([row("Which?", draw_photo(1), draw_photo(2))], {})


# What lmms-eval's own tasks say

NEEDS = pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed (pip install '.[lmms]')")
OPTIONS = {
    "A": "one",
    "B": "two",
    "hint": "nan",
    "category": "c",
    "L2-category": "c",
    "index": 0,
    "source": "s",
    "split": "dev",
}
GENERAL = {
    "mme": ("mme.yaml", "mme.utils", "mme_doc_to_text", {"question": "Is it? Please answer yes or no."}, "Is it?"),
    "pope": ("pope.yaml", "pope.utils", "pope_doc_to_text", {"question": "Is it?"}, "Is it?"),
    "mmbench": ("_default_template_mmbench_en_yaml", "mmbench.en_utils", "mmbench_doc_to_text",
                {"question": "Which?", **OPTIONS}, "Which? "),
    "vstar_bench": ("_default_template_yaml", "vstar_bench.utils", "vstar_doc_to_text",
                    {"text": "Which? (A) one (B) two"}, "Which?\nA. one\nB. two"),
}  # fmt: skip


def real_task(folder: str, file: str):
    """The folder of a task of lmms-eval, with what its file says in place of the functions that it names."""
    import lmms_eval.tasks
    import yaml

    text = (Path(lmms_eval.tasks.__file__).parent / folder / file).read_text()
    return yaml.safe_load("".join(line for line in text.splitlines(True) if "!function" not in line))


@NEEDS
@pytest.mark.parametrize("name", GENERAL)
def test_the_endings_of_the_general_benchmarks_are_cut(plugin, name):
    file, module, function, doc, question = GENERAL[name]
    said = real_task(name, file)["lmms_eval_specific_kwargs"]["default"]
    text = getattr(importlib.import_module(f"lmms_eval.tasks.{module}"), function)(doc, said)
    found, ending = plugin.cut_ending(text, said["post_prompt"])
    assert found.startswith(question) and ending == said["post_prompt"].strip() and ending not in found


@NEEDS
@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_the_forms_of_refcoco_are_those_that_are_cut(plugin, name):
    utils = importlib.import_module(f"lmms_eval.tasks.{name}.utils_rec")
    assert utils.refcoco_bbox_rec_doc_to_text({"answer": "the cat"}) == RECORD
    assert utils.parse_float_sequence_within("[0.100000, 0.166667, 0.500000, 0.500000]") == [0.1, 0.166667, 0.5, 0.5]
    grounding = importlib.import_module("lmms_eval.tasks.refcoco_grounding.utils")
    assert grounding.refcoco_grounding_doc_to_text({"answer": ["the cat"]}) == LOCATE
    assert grounding._parse_pred_boxes("[12.000000, 18.000000, 60.000000, 54.000000]") == [[12, 18, 60, 54]]


# The real command


UTILS = """
def pictures(doc):
    return [doc["image"].convert("RGB")]

from lmms_eval.tasks.refcoco.utils_rec import *
"""
GLYPHS = """
task: glyphs
dataset_path: {folder}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.pictures
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 16}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
REC = """
task: refcoco_bbox_rec_glyphs
dataset_path: {folder}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
process_docs: !function utils.refcoco_bbox_rec_preprocess_dataset
doc_to_visual: !function utils.refcoco_bbox_rec_doc_to_visual
doc_to_text: !function utils.refcoco_bbox_rec_doc_to_text
doc_to_target: bbox
process_results: !function utils.refcoco_bbox_rec_process_result
metric_list:
  - metric: refcoco_IoU
    aggregation: !function utils.refcoco_bbox_rec_iou
    higher_is_better: true
  - metric: refcoco_ACC@0.5
    aggregation: !function utils.refcoco_bbox_rec_acc05
    higher_is_better: true
"""
N = 24


@pytest.fixture
def tasks(tmp_path):
    """A folder of two tasks on the same drawn pictures: glyphs to read, and glyphs to find (RefCOCO's own code)."""
    from datasets import Dataset, DatasetDict, Features, Value
    from datasets import Image as Picture

    source = SpotlightSource("test", N)
    rows, found = [], []
    for i, question in enumerate(source.read(i) for i in range(N)):
        picture = Image.open(BytesIO(question.image))
        x1, y1, x2, y2 = question.gold_boxes[0].xyxy
        width, height = picture.size
        rows.append({"image": picture, "question": question.question, "answer": question.answers[0]})
        box = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
        found.append({"image": picture, "question_id": str(i), "answer": [question.question], "bbox": box})
    texts = {"image": Picture(), "question": Value("string"), "answer": Value("string")}
    DatasetDict(test=Dataset.from_list(rows, Features(texts))).save_to_disk(tmp_path / "glyphs")
    DatasetDict(test=Dataset.from_list(found)).save_to_disk(tmp_path / "found")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "utils.py").write_text(UTILS)
    (folder / "glyphs.yaml").write_text(GLYPHS.format(folder=tmp_path / "glyphs"))
    (folder / "rec.yaml").write_text(REC.format(folder=tmp_path / "found"))
    return folder


def lmms_eval(folder: Path, model_args: str, names: str, output: Path) -> dict:
    """The results of a run of the real command."""
    command = [
        str(Path(sys.executable).parent / "lmms-eval"),
        *("--model", "visrl", "--model_args", model_args, "--tasks", names, "--include_path", str(folder)),
        *("--batch_size", "8", "--output_path", str(output), "--verbosity", "DEBUG"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    files = [*output.rglob("*results.json")]
    assert done.returncode == 0 and len(files) == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(files[0].read_text())["results"]


def on(results: dict, task: str, metric: str) -> float:
    return next(value for name, value in results[task].items() if name.split(",")[0] == metric)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@NEEDS
def test_the_real_command_finds_the_model_by_name_and_scores_it_as_visrl_eval_does(tasks, tmp_path):
    shown = tmp_path / "shown.jsonl"
    lines = []
    for question in (SpotlightSource("test", N).read(i) for i in range(N)):
        (tmp_path / f"{question.source_id}.png").write_bytes(question.image)
        text = RECORD.partition("0 and 1. ")[2].replace("the cat", question.question)
        boxes = [box.xyxy for box in question.gold_boxes]
        lines.append({"question": text, "answers": ["?"], "image": f"{question.source_id}.png", "boxes": boxes})
    shown.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = lmms_eval(tasks, "pretrained=spotlight", "glyphs,refcoco_bbox_rec_glyphs", tmp_path / "two")
    plain = lmms_eval(tasks, "pretrained=spotlight-base,steps=1", "glyphs", tmp_path / "one")

    command = ("eval", "--model", "spotlight", "--limit", str(N), "--score", "exact", "--json")
    _, out, _ = visrl(*command, "-o", tmp_path / "e1")
    read, base = (m["figures"] for m in json.loads(out)["models"])
    questions = [read[group] for group in read if group != "all"]
    rows = sum(of["questions"] for of in questions)
    assert on(found, "glyphs", "exact_match") == pytest.approx(
        sum(f["answer"] * f["questions"] for f in questions) / rows
    )
    assert 0 < on(found, "glyphs", "exact_match") < 1, "so that equal figures say something"
    flat = sum(of["answer"] * of["questions"] for group, of in base.items() if group != "all") / rows
    assert on(plain, "glyphs", "exact_match") == pytest.approx(flat)

    _, out, _ = visrl(
        "eval", "--model", "spotlight", "--source", shown, "--json", "--no-baseline", "-o", tmp_path / "e2"
    )
    [boxes] = (m["figures"]["all"] for m in json.loads(out)["models"])
    assert on(found, "refcoco_bbox_rec_glyphs", "refcoco_IoU") == pytest.approx(boxes["mean_iou"], abs=1e-5)
    assert on(found, "refcoco_bbox_rec_glyphs", "refcoco_ACC@0.5") == pytest.approx(boxes["box_accuracy"])
    assert boxes["mean_iou"] > 0
