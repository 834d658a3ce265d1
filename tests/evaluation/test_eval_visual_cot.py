"""The Visual-CoT benchmark: its files, its two turns, its crop; on small files of its format."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import draw_photo
from tests.evaluation.test_eval import Scripts, model
from tests.helpers.command import visrl
from visrl_data.core.boxes import Box, iou, make_frame, pixel_box
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptPart
from visrl_data.core.records import Drop
from visrl_data.engines.loading import load_processor
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.inference import VISUAL_COT_REQUEST, square_crop
from visrl_data.models.model_folder import find_model
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.options import SourceOptions


def row(number, question="Who carries the bag?", answer="lady", box="[287, 71, 365, 249]", **more):
    """A row as the benchmark's files have it; the picture is 500 x 375."""
    path = "cot/gqa/1.jpg"
    said = [f"<image>\n{question} {VISUAL_COT_REQUEST}", "[0.574, 0.268, 0.730, 0.624]", "<image>", answer]
    turns = [{"from": "human" if i % 2 == 0 else "gpt", "value": value} for i, value in enumerate(said)]
    return {"dataset": "gqa", "split": "val", "question_id": number, "image": [path, f"{path}###{box}"],
            "conversations": turns} | more  # fmt: skip


@pytest.fixture
def benchmark(tmp_path):
    """A folder with two scored sets and one that is not, and the images beside it."""
    files, pictures = tmp_path / "benchmark", tmp_path / "images"
    for folder in (files, pictures / "cot/gqa", pictures / "vsr"):
        folder.mkdir(parents=True)
    draw_photo(1, (500, 375)).save(pictures / "cot/gqa/1.jpg")
    draw_photo(2, (300, 400)).save(pictures / "vsr/2.jpg")
    vsr = {"dataset": "vsr", "image": ["cot/vsr/2.jpg", "cot/vsr/2.jpg###[30, 40, 90, 120]"]}
    (files / "gqa.json").write_text(json.dumps([row(4072), row(4074, "Of what colour?", "red")]))
    (files / "vsr.json").write_text(json.dumps([row(1, "Is it left?", "yes") | vsr]))
    (files / "emotic.json").write_text(json.dumps([row(1, dataset="emotic")]))
    return files, pictures


def test_rows_become_questions(benchmark):
    files, pictures = benchmark
    source = open_source(f"visual-cot:{files}", "test", None, SourceOptions(images_root=pictures))
    assert source.ids() == ["gqa-4072", "gqa-4074", "vsr-1"], "the scored sets alone"
    read = [source.read(i) for i in range(3)]
    assert [q.question for q in read] == ["Who carries the bag?", "Of what colour?", "Is it left?"]
    assert [q.answers for q in read] == [("lady",), ("red",), ("yes",)]
    assert [q.source for q in read] == ["gqa", "gqa", "vsr"]
    assert read[0].gold_boxes == (pixel_box([287, 71, 365, 249], (500, 375)),)
    assert (read[2].width, read[2].height) == (300, 400), "found without the folder cot/"
    alone = open_source(f"visual-cot:{files}/emotic.json", "test", 1, SourceOptions(images_root=pictures))
    assert alone.ids() == ["emotic-1"] and alone.fingerprint() != source.fingerprint()


def test_its_text_box_is_the_same_region_as_its_pixel_box():
    """[0.574, 0.268, 0.730, 0.624] of the square-padded picture is [287, 71, 365, 249] of the real one."""
    padded = make_frame("unit_padded_square", (500, 375))
    cells, state = padded.parse("[0.574, 0.268, 0.730, 0.624]")
    assert state == "ok"
    assert iou(padded.to_unit(cells).xyxy, pixel_box([287, 71, 365, 249], (500, 375)).xyxy) > 0.98


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": ["cot/gqa/none.jpg", "cot/gqa/none.jpg###[1, 2, 30, 40]"]}, "image_missing"),
        ({"image": ["../../etc/passwd"]}, "image_outside_root"),
        ({"image": []}, "image_missing"),
        ({"conversations": []}, "bad_field"),
        ({"conversations": [{"value": 3}, {"value": "x"}]}, "no_question"),
        ({"conversations": [{"value": "Q"}, {"value": ""}]}, "no_answer"),
        (None, "bad_json"),
    ],
)
def test_a_bad_row_is_a_drop(benchmark, change, reason):
    files, pictures = benchmark
    (files / "gqa.json").write_text(json.dumps([7 if change is None else row(1) | change, row(2)]))
    source = open_source(f"visual-cot:{files}/gqa.json", "test", None, SourceOptions(images_root=pictures))
    lost = source.read(0)
    assert isinstance(lost, Drop) and lost.reason == reason
    assert source.read(1).question == "Who carries the bag?"


@pytest.mark.parametrize(
    ("box", "reason", "boxes"),
    [("[a, 2, 3, 4]", "bad_box", 0), ("[30, 2, 9, 40]", "reversed_box", 1), ("[900, 2, 990, 40]", "bad_box", 0)],
)
def test_a_bad_box_costs_its_label_alone(benchmark, box, reason, boxes):
    files, pictures = benchmark
    (files / "gqa.json").write_text(json.dumps([row(1, box=box)]))
    question = open_source(f"visual-cot:{files}/gqa.json", "test", None, SourceOptions(images_root=pictures)).read(0)
    assert not isinstance(question, Drop) and len(question.gold_boxes) == boxes
    assert [problem.reason for problem in question.label_problems] == [reason]


def test_the_form_of_the_boxes_of_another_source_is_not_theirs(benchmark):
    """`visrl eval --source visual-cot:... --source coco.jsonl --gold-format xywh` is about the second one."""
    files, pictures = benchmark
    options = SourceOptions(images_root=pictures, gold_format="xywh", gold_space="unit")
    question = open_source(f"visual-cot:{files}/vsr.json", "test", None, options).read(0)
    assert question.gold_boxes == (pixel_box([30, 40, 90, 120], (300, 400)),) and not question.label_problems


def test_an_id_is_valid_unicode(tmp_path):
    """The text of half a surrogate pair, which JSON can hold, could be written into no table of predictions."""
    (tmp_path / "gqa.json").write_text(json.dumps([row("\ud800"), row("a", dataset="\udfff")]))
    assert open_source(f"visual-cot:{tmp_path}/gqa.json", "test").ids() == ["gqa-?", "?-a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "expected a list of rows"), ("[", "not valid JSON"), ("[]", "no rows"), (None, "no such file")],
)
def test_a_bad_file_is_one_message(tmp_path, text, message):
    if text is not None:
        (tmp_path / "gqa.json").write_text(text)
    with pytest.raises(VisRLError, match=message):
        open_source(f"visual-cot:{tmp_path}/gqa.json", "test")
    with pytest.raises(VisRLError, match="expected the benchmark's files" if text is None else message):
        open_source(f"visual-cot:{tmp_path}", "test")


@pytest.mark.parametrize(
    ("pixels", "size", "crop"),
    [
        ((480, 380, 520, 420), (1000, 800), (388, 288, 612, 512)),  # small: 224 around (500, 400)
        ((30, 70, 70, 130), (1000, 800), (0, 0, 224, 224)),  # shifted in from the corner
        ((960, 760, 1000, 800), (1000, 800), (776, 576, 1000, 800)),
        ((100, 100, 500, 300), (1000, 800), (100, 0, 500, 400)),  # square on the longer half side
        ((0, 0, 1000, 100), (1000, 300), (0, 0, 1000, 300)),  # no room: cut to the image
        ((10, 10, 20, 20), (100, 80), (0, 0, 100, 80)),
    ],
)
def test_square_crops_by_hand(pixels, size, crop):
    assert square_crop(pixel_box(pixels, size), size) == crop


@given(
    st.tuples(st.integers(8, 3000), st.integers(8, 3000)),
    st.lists(st.integers(0, 1000), min_size=4, max_size=4),
)
def test_a_square_crop_lies_inside_and_is_never_empty(size, cells):
    x1, x2, y1, y2 = *sorted(cells[:2]), *sorted(cells[2:])
    if x1 == x2 or y1 == y2:
        return
    left, top, right, bottom = square_crop(Box(x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000), size)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert right - left >= min(224, size[0]) and bottom - top >= min(224, size[1])


def test_the_two_turns_are_the_benchmarks(benchmark, tmp_path, monkeypatch):
    """First turn as in the file; then image and question, the box as the reply, crop and question again; the judge."""
    files, pictures = benchmark
    name = model(
        tmp_path / "only", {"box_space": "unit_padded_square", "crop_rule": {"min_side": 0.3, "max_aspect": 1}}
    )
    box = "[0.574, 0.268, 0.730, 0.624]"
    says = {"focus": box, "answer": "lady", "direct": "man", "judge": '{"score": 0.5}'}
    scripts = Scripts(monkeypatch, {"only": lambda kind, request: says[kind]})
    config = EvalConfig(protocol="visual-cot", images_root=str(pictures))
    report = evaluate.evaluate([name], [f"visual-cot:{files}/gqa.json"], config, tmp_path / "out")
    focus, answer = scripts.requests[0], scripts.requests[2]
    assert focus.parts == (PromptPart("image"), PromptPart("text", f"Who carries the bag? {VISUAL_COT_REQUEST}"))
    last = "Please answer the question based on the original image and local detail image.Who carries the bag?"
    assert answer.parts == (
        PromptPart("image"),
        PromptPart("text", "Who carries the bag?"),
        PromptPart("reply", box),
        PromptPart("crop"),
        PromptPart("text", last),
    )
    assert [picture.size for picture in answer.images] == [(500, 375), (224, 224)]
    figures = report["models"][0]["figures"]["gqa"]
    assert (figures["score"], figures["answer"], figures["box_accuracy"]) == ("critic", 0.5, 1.0)
    assert report["models"][0]["crop_rule"] == "visual-cot"


def test_a_reply_part_is_the_models_turn(untrained):
    """The engine writes it with the model's own chat template, and leaves no markup of a stranger alive."""
    from visrl_train.tokenization import Turn, Turns

    turns = Turns(load_processor(find_model(str(untrained)), None, False))

    def written(*parts):
        pictures = tuple(Image.new("RGB", (8, 8)) for part in parts if part.kind in ("image", "crop"))
        return turns.prompt(Turn("a", parts, pictures, ""))

    one = written(PromptPart("image"), PromptPart("text", "where?"))
    two = written(
        PromptPart("image"),
        PromptPart("text", "where?"),
        PromptPart("reply", "[0.1]"),
        PromptPart("crop"),
        PromptPart("text", "what?"),
    )
    assert two.startswith(one + "[0.1]") and two.index("[0.1]") < two.index("what?")
    assert two.count(turns.processor.image_token) == 2 and two.endswith(one[-len(one.rpartition("where?")[2]) :])
    evil = written(
        PromptPart("text", "where?"), PromptPart("reply", turns.processor.image_token), PromptPart("text", "what?")
    )
    assert turns.processor.image_token not in evil


def test_on_a_real_model_by_the_command(benchmark, untrained, tmp_path):
    files, pictures = benchmark
    code, out, err = visrl("eval", "--model", untrained, "--source", f"visual-cot:{files}", "--images-root", pictures,
                           "--protocol", "visual-cot", "--score", "anls", "--max-new-tokens", 4, "-o",
                           tmp_path / "out", "--json")  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["groups"] == ["gqa", "vsr"]
    assert Image.open(pictures / "vsr/2.jpg").size == (300, 400)
