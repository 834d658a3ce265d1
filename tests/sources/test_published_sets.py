"""Published sets in their true form: each row read as it should be, each bad one dropped with its reason."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools import source_table as true
from tests.tools.source_table import MAKERS, conversation, jpeg, lines, metadata, parquet, pictures, read_all
from visrl_data.core.boxes import pixel_box
from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop, Question
from visrl_data.sources import published_sets
from visrl_data.sources.dispatch import PUBLISHED, open_source
from visrl_data.sources.identity import halves, interleaved, sft_rows
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.visual_cot_train import TABLE_7


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def reasons(drops: list[Drop]) -> dict[str, str]:
    return {drop.id: drop.reason for drop in drops}


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "spotlight"])
def test_what_holds_for_every_kind(name: str, tmp_path: Path) -> None:
    """Counts add up, ids are unique and stay, no row raises, a source survives being sent to another process."""
    made = MAKERS[name](tmp_path)
    source = made.open()
    questions, drops = read_all(source)
    assert questions and drops and len(questions) + len(drops) == len(source)
    ids = source.ids()
    assert len(set(ids)) == len(ids) and {row.id for row in [*questions, *drops]} == set(ids)
    assert all(drop.stage == "source" and drop.reason for drop in drops)
    again = pickle.loads(pickle.dumps(source))
    assert again.ids() == ids and again.read(0) == source.read(0)
    assert made.open().ids() == ids and made.open().fingerprint() == source.fingerprint()
    short = open_source(made.source, made.split, 1, made.options)
    assert short.ids() == ids[:1] and len(short) == 1
    for index in (-1, len(source)):
        with pytest.raises(IndexError):
            source.read(index)


def test_gqa_joins_its_two_configs(tmp_path: Path) -> None:
    made = true.make_gqa(tmp_path)
    (question,), drops = read_all(made.open())
    assert (question.id, question.question, question.answers) == ("201307251", "Is the sky dark?", ("yes",))
    assert question.image == jpeg(0) and (question.license, question.ship_image) == ("", False)
    assert reasons(drops) == {"2": "image_missing", "3": "no_answer"}
    assert "no image '9' among those of the set" in drops[0].detail
    pictures(tmp_path / "vg", "images/2354786.jpg", "images/9.jpg")
    elsewhere = replace(made, options=SourceOptions(images_root=tmp_path / "vg")).open()
    assert len(read_all(elsewhere)[0]) == 2, "from files, in place of the config of images"


def test_textvqa(tmp_path: Path) -> None:
    (question,), drops = read_all(true.make_textvqa(tmp_path).open())
    assert (question.id, question.answers) == ("0", ("nous les gosses", "dakota") * 5), "all ten annotators"
    assert (question.license, question.ship_image) == ("CC-BY-4.0", None)
    assert question.source_url == "https://farm6.staticflickr.com/1.jpg"
    assert reasons(drops) == {"1": "image_missing"}


def test_docvqa_and_infographicsvqa(tmp_path: Path) -> None:
    (question,), drops = read_all(true.make_docvqa(tmp_path).open())
    assert (question.id, question.answers, question.ship_image) == ("49153", ("0.28",), False)
    assert reasons(drops) == {"49154": "no_answer"}
    (question,), drops = read_all(true.make_infographicsvqa(tmp_path).open())
    assert (question.id, question.answers, question.source) == ("98313", ("3", "three"), "infographicsvqa")
    assert question.source_url == "https://example.org/1.png" and reasons(drops) == {"98314": "no_question"}


def test_vsr_asks_whether_the_caption_is_true(tmp_path: Path) -> None:
    made = true.make_vsr(tmp_path)
    questions, drops = read_all(made.open())
    assert questions[0].question == "Is this true of the picture? The cat is behind the bench."
    assert [question.answers for question in questions] == [("yes",), ("no",)]
    assert questions[0].source_url.endswith("/train2017/000000085637.jpg") and questions[0].ship_image is False
    assert [drop.reason for drop in drops] == ["bad_label", "image_missing", "no_question"]
    row = {"image": "0.jpg", "image_link": "", "caption": "c", "label": 1}
    lines(tmp_path / "dev.jsonl", row, row | {"image": None, "image_link": None})
    development = replace(made, split="validation").open()
    assert development.ids() == ["validation-00000000", "validation-00000001"], "published as dev.jsonl"
    assert [drop.reason for drop in read_all(development)[1]] == ["image_missing", "image_missing"]


def test_visual7w_turns_are_questions(tmp_path: Path) -> None:
    source = true.make_visual7w(tmp_path).open()
    (question,), drops = read_all(source)
    assert source.ids()[:2] == ["train-00000000-0", "train-00000000-1"]
    assert (question.question, question.answers) == ("What is on the table?", ("Books.",))
    assert reasons(drops) == {
        "train-00000000-1": "bad_turn",
        "train-00000001-0": "bad_turn",
        "train-00000002-0": "several_images",
        "train-00000003-0": "bad_turn",
    }


def test_a_license_of_ones_own_fills_only_what_is_open(tmp_path: Path) -> None:
    options = SourceOptions(license="my terms", ship_images=True)
    docvqa = read_all(replace(true.make_docvqa(tmp_path), options=options).open())[0][0]
    assert (docvqa.license, docvqa.ship_image) == ("my terms", False), "a no always wins"
    textvqa = read_all(replace(true.make_textvqa(tmp_path), options=options).open())[0][0]
    assert (textvqa.license, textvqa.ship_image) == ("CC-BY-4.0", True)


def test_native_errors(tmp_path: Path) -> None:
    made = true.make_docvqa(tmp_path)
    with pytest.raises(VisRLError, match=r"expected train.jsonl, train.parquet or train-00000-of-.* in DocVQA/, data/"):
        replace(made, split="train").open()
    with pytest.raises(VisRLError, match="Leave --columns out"):
        replace(made, options=SourceOptions(columns={"id": "x"})).open()
    parquet(tmp_path / "DocVQA/test-00000-of-00001.parquet", {"questionId": ["1"], "question": ["q"]})
    with pytest.raises(VisRLError, match="split 'test' has no column answers, image. Columns there: question, quest"):
        replace(made, split="test").open()
    assert set(PUBLISHED) == set(published_sets.PUBLISHED_SETS)


def test_from_the_hub_by_the_same_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--source gqa@REV` opens both configs at one revision; paths without a place to look are one message."""
    true.make_gqa(tmp_path)
    asked = []

    def fake(text: str, split: str) -> Any:
        asked.append((text, split))
        config = text.partition(":")[2].partition("@")[0] or "."
        files = sorted((tmp_path / config).glob("*.parquet")) or sorted(tmp_path.glob("*.jsonl"))
        table = published_sets.open_files("user/set", files, split)
        return replace(table, files=(), revision=f"{text}:{split}", url="https://huggingface.co/datasets/user/set")

    monkeypatch.setattr(published_sets, "open_hub", fake)
    source = open_source("gqa@abc")
    assert [text for text, _ in asked] == [
        "lmms-lab/GQA:train_balanced_instructions@abc",
        "lmms-lab/GQA:train_balanced_images@abc",
    ]
    question = source.read(0)
    assert isinstance(question, Question) and question.source_url == "https://huggingface.co/datasets/user/set"
    assert source.fingerprint() == "lmms-lab/GQA:train_balanced_instructions@abc:train"
    true.make_vsr(tmp_path)
    with pytest.raises(VisRLError, match="column 'image' holds paths. Name their folder with --images-root"):
        open_source("vsr")
    assert isinstance(open_source("vsr", options=SourceOptions(allow_urls="any")).read(2), Drop)


# --- Visual-CoT's training rows ------------------------------------------------------------------------


def test_conversations(tmp_path: Path) -> None:
    source = true.make_conversations(tmp_path).open()
    questions, drops = read_all(source)
    by_id = {question.id: question for question in questions}
    assert set(by_id) == {"gqa-0", "gqa-1", "gqa-2", "gqa-3", "visual7w-5", "textcap-6", "gqa-8", "gqa-10"}
    one = by_id["gqa-1"]
    assert (one.question, one.answers, one.source, one.ship_image) == ("Who carries bag 1?", ("lady",), "gqa", False)
    assert one.gold_boxes == (pixel_box([287, 71, 365, 249], (500, 375)),)
    assert by_id["visual7w-5"].source == "visual7w", "labelled v7w in the file"
    assert by_id["textcap-6"].ship_image is None
    for name in ("gqa-8", "gqa-10"):
        assert [problem.reason for problem in by_id[name].label_problems] == ["box_mismatch"]
        assert by_id[name].gold_boxes == ()
    assert reasons(drops) == {"gqa-9": "image_missing", "gqa-11": "no_question", "row": "bad_json"}


def test_metadata(tmp_path: Path) -> None:
    made = true.make_metadata(tmp_path)
    questions, drops = read_all(made.open())
    assert sorted(question.source for question in questions) == ["textcap", "visual7w", *["vsr"] * 4]
    many = next(question for question in questions if len(question.answers) == 2)
    assert many.answers == ("tv", "television")
    assert many.gold_boxes == (pixel_box([10, 10, 80, 40], (500, 375)),), "the box around both"
    as_coco = replace(made, options=replace(made.options, gold_format="xywh"))
    assert [q.gold_boxes for q in read_all(as_coco.open())[0]] == [q.gold_boxes for q in questions], "of other sources"
    assert sorted(drop.reason for drop in drops) == ["bad_json", "image_missing", "image_size_mismatch", "no_answer"]
    assert [problem.reason for question in questions for problem in question.label_problems] == ["bad_box"]
    assert [drop.source for drop in drops if drop.reason == "image_size_mismatch"] == ["docvqa"]
    one = replace(made, source=made.source + ":v7w").open()
    assert len(one) == 1 and one.ids()[0].startswith("visual7w-")
    with pytest.raises(VisRLError, match="expected a .json file .* with dude_cot_train.jsonl in it"):
        replace(made, source=made.source + ":dude").open()


@pytest.mark.parametrize("seed", range(3))
def test_sft_and_rl_have_no_question_in_common(tmp_path: Path, seed: int) -> None:
    pictures(tmp_path, "vsr/1.jpg")
    rows = [metadata(i % 90 + 100 * seed, "vsr") for i in range(100)]  # ten questions occur twice
    made = true.Made(f"visual-cot-train:{lines(tmp_path / 'vsr_cot_train.jsonl', *rows)}")
    parts = {split: replace(made, split=split).open() for split in ("sft", "train", "all")}
    asked = {split: {row.question for row in read_all(source)[0]} for split, source in parts.items()}
    assert not asked["sft"] & asked["train"] and asked["sft"] | asked["train"] == asked["all"]
    ids = {split: set(source.ids()) for split, source in parts.items()}
    assert not ids["sft"] & ids["train"] and ids["sft"] | ids["train"] == ids["all"] and len(ids["all"]) == 100
    sft, train = TABLE_7["vsr"]
    assert abs(len(parts["sft"]) - 100 * sft / (sft + train)) <= 2, "the table's proportion"
    assert len({source.fingerprint() for source in parts.values()}) == 3
    shuffled = lines(tmp_path / "other/vsr_cot_train.jsonl", *reversed(rows))
    again = true.Made(f"visual-cot-train:{shuffled}", "sft", SourceOptions(images_root=tmp_path)).open()
    assert {row.question for row in read_all(again)[0]} == asked["sft"], "the order of the file does not matter"


def test_both_published_forms_are_parted_alike(tmp_path: Path) -> None:
    pictures(tmp_path, "cot/gqa/1.jpg")
    talks = [conversation(i) for i in range(60)]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    lines(tmp_path / "gqa_cot_train.jsonl", *(metadata(0, "gqa", question=f"Who carries bag {i}?") for i in range(60)))
    chosen = [
        {row.question for row in read_all(open_source(f"visual-cot-train:{tmp_path}/{name}", "sft"))[0]}
        for name in ("talks.json", "gqa_cot_train.jsonl")
    ]
    assert chosen[0] == chosen[1] and len(chosen[0]) == round(60 * 4000 / 34000)


def test_the_tables_numbers() -> None:
    for sft, train in TABLE_7.values():
        assert sft_rows(sft + train, sft, train) == sft, "a set of the published size gives the paper's counts"
        assert sft_rows(sft + train + 100_000, sft, train) == sft
    assert [sum(column) for column in zip(*TABLE_7.values(), strict=True)] == [30647, 180000]
    assert halves(["a", "a", "a"], 1, 2) == ([0, 1, 2], []), "equal rows are not parted"
    parts = list(interleaved([30, 20, 10]))
    assert len(set(parts)) == 60
    for end in range(1, 61):
        counts = [sum(part == i for part, _ in parts[:end]) for i in range(3)]
        assert all(abs(count - end * share / 6) <= 1 for count, share in zip(counts, (3, 2, 1), strict=True))


@pytest.mark.parametrize(
    ("asked", "split", "message"),
    [
        ("none.json", "train", "expected a .json file of Visual-CoT's training conversations"),
        ("viscot_363k.json", "val", "no split 'val'. Expected one of: sft, train, all"),
        ("viscot_363k.json:flickr30k", "all", "no rows of 'flickr30k' in split 'all'. Sets: gqa, textcap, visual7w."),
    ],
)
def test_training_errors(tmp_path: Path, asked: str, split: str, message: str) -> None:
    true.make_conversations(tmp_path)
    with pytest.raises(VisRLError, match=message.replace(".", r"\.")):
        open_source(f"visual-cot-train:{tmp_path}/{asked}", split)


def test_odd_rows_never_end_a_run(tmp_path: Path) -> None:
    odd: list[Any] = [
        conversation("\ud800"), conversation([1]), conversation(None), conversation(1, dataset=7),
        conversation(1, dataset="a\ud800"), conversation(2, conversations=[1, 2, 3]), conversation(3, image="x"),
        metadata(1, "vsr", width="500"), metadata(1, "vsr", bboxs=[]), metadata(1, "vsr", bboxs=[["a"] * 4]),
        metadata(1, "vsr", image=None), metadata(1, "vsr", bboxs=7), None, [], "text",
    ]  # fmt: skip
    pictures(tmp_path, "cot/gqa/1.jpg", "vsr/1.jpg")
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    source = open_source(f"visual-cot-train:{tmp_path}/odd.json", "all")
    questions, drops = read_all(source)
    assert len(questions) + len(drops) == len(odd) == len(set(source.ids()))
    assert all(name.encode() for name in source.ids())
    assert {drop.reason for drop in drops} >= {"bad_json", "bad_field", "image_missing"}
    assert {problem.reason for question in questions for problem in question.label_problems} == {"bad_box"}


# --- the documentation --------------------------------------------------------------------------------


def test_the_printed_table_is_that_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        true.main()
    assert not left.value.code
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    docs = (Path(__file__).parents[2] / "docs/sources.md").read_text()
    assert "\n".join(shown) in docs, "make the table of docs/sources.md again: python -m tests.tools.source_table"


def test_the_docs_name_every_reason() -> None:
    code = Path(published_sets.__file__).parent
    raised = {
        name
        for file in (*code.glob("*.py"), code.parent / "core/images.py")
        for name in re.findall(r'(?:BadRow|BadImage|LabelProblem|_text)\((?:[^"\n]*, )?"([a-z_]+)"', file.read_text())
    }
    docs = (code.parent.parent / "docs/sources.md").read_text()
    assert len(raised) >= 20 and not {name for name in raised if f"`{name}`" not in docs}
