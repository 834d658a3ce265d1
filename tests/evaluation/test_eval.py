"""`visrl eval`: figures that can be checked by hand, resumption, the judge, and what the user can mend."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.conftest import draw_photo
from tests.helpers.command import visrl
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import CropRule
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import FOCUS_REQUEST
from visrl_data.engines.refusals import RequestRefused
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.pipeline import model_pair

GOLD = [0.1, 0.1, 0.5, 0.5]
OFF = "[0.600, 0.600, 0.900, 0.900]"
# Of the gold box's area 0.16: [0.1, 0.1, 0.5, 0.3] covers exactly half, which is not MORE than half.
HALF = "[0.100, 0.100, 0.500, 0.300]"
ON = "[0.100, 0.100, 0.500, 0.500]"


def source(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    draw_photo(1).save(folder / "p.png")
    file = folder / "questions.jsonl"
    default = {"question": "What?", "answers": ["The stop"], "image": "p.png", "boxes": [GOLD]}
    file.write_text("".join(json.dumps(default | {"id": f"q{i}"} | row) + "\n" for i, row in enumerate(rows)))
    return file


def model(folder: Path, record: dict | None = None, weight: str = "") -> str:
    """A folder that passes for full weights; `weight` makes its digest its own."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"weight": weight or folder.name}))
    (folder / "visrl.json").write_text(json.dumps(record or {}))
    return str(folder)


class Scripts:
    """Models that say what they are told: name of the folder -> function of (kind, question), kind as in `kind_of`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, says: dict) -> None:
        self.calls: list[tuple[str, str]] = []
        self.requests: list = []
        self.says = says
        monkeypatch.setattr(model_pair, "load_engine", self._load)

    def _load(self, config: GenConfig, folder, logprobs):
        name = Path(folder.id).name

        def script(request, seed):
            kind = kind_of(request)
            self.calls.append((name, kind))
            self.requests.append(request)
            return self.says[name](kind, request)

        return ScriptedEngine(script)


def kind_of(request) -> str:
    words = "\n".join(part.text for part in request.parts)
    if "Model answer:" in words:
        return "judge"
    if any(part.kind == "crop" for part in request.parts):
        return "answer"
    return "focus" if FOCUS_REQUEST in words or "Please provide the bounding box" in words else "direct"


def question_of(request) -> str:
    return next(part.text for part in request.parts if part.kind == "text").split("\n")[0]


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two models on one base. a: reads all boxes right, answers half; b: one box unreadable, one on the half."""
    base = model(tmp_path / "base")
    origin = {"origin_base": {"id": base, "digest": "?"}}
    boxes = {"one": ON, "two": HALF, "three": "no idea", "four": OFF}

    def b(kind, request):
        return boxes[question_of(request)] if kind == "focus" else "stop"

    scripts = Scripts(
        monkeypatch,
        {
            "base": lambda kind, request: "go" if kind == "direct" else '{"score": 0.7}',
            "a": lambda kind, request: ON if kind == "focus" else "stop" if question_of(request) == "one" else "go",
            "b": b,
        },
    )
    models = [model(tmp_path / name, origin) for name in ("a", "b")]
    rows = [{"question": word} for word in boxes]
    return models, str(source(tmp_path / "photos", rows)), scripts


def test_figures_by_hand(pair, tmp_path):
    """Four labelled questions.

    a: four boxes on the label, one answer right: 1/4, box 4/4, IoU 1.
    b: boxes on (1), on half (IoU 0.5: not above), unreadable (0), off (0): box 1/4, IoU (1 + 0.5) / 4, valid 3/4;
       "stop" wherever there is a box: 3/4.
    base: "go": 0.
    """
    models, file, scripts = pair
    report = evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out")
    a, b, base = (m["figures"]["all"] for m in report["models"])
    assert [m["steps"] for m in report["models"]] == [2, 2, 1]
    assert (a["answer"], a["box_accuracy"], a["mean_iou"], a["valid"]) == (0.25, 1.0, 1.0, 1.0)
    assert (b["answer"], b["box_accuracy"], b["mean_iou"], b["valid"]) == (0.75, 0.25, 0.375, 0.75)
    assert b["unparsed"] == {"no_box": 1} and b["questions"] == 4 and b["labelled"] == 4
    assert (base["answer"], base["box_accuracy"], base["mean_iou"], base["valid"]) == (0.0, None, None, None)
    assert b["answer_difference"]["mean"] == 0.5 and b["box_accuracy_difference"]["mean"] == -0.75
    assert a["answer_difference"] is None and base["box_accuracy_difference"] is None
    # three focus boxes were read, so three answers were asked for
    assert scripts.calls.count(("b", "answer")) == 3 and scripts.calls.count(("base", "direct")) == 4
    assert all(request.sampling.temperature == 0 and len(request.seeds) == 1 for request in scripts.requests)


def test_the_answer_pass_sees_the_crop_of_the_box(pair, tmp_path):
    models, file, scripts = pair
    config = EvalConfig(crop_min_side=0.0, crop_max_aspect=100.0)
    evaluate.evaluate(models[1:], [file], config, tmp_path / "out")
    sizes = [request.images[1].size for request in scripts.requests if kind_of(request) == "answer"]
    assert sizes == [(48, 36), (48, 18), (36, 27)]  # of 120 x 90: 0.4 x 0.4, 0.4 x 0.2, 0.3 x 0.3


def test_a_second_start_asks_nothing_and_a_new_model_only_itself(pair, tmp_path):
    models, file, scripts = pair
    first = evaluate.evaluate(models[:1], [file], EvalConfig(), tmp_path / "out")
    asked = len(scripts.calls)
    told = []
    again = evaluate.evaluate(models[:1], [file], EvalConfig(), tmp_path / "out", on_chunk=told.append)
    assert (again, len(scripts.calls)) == (first, asked)
    assert [(step.done, step.total, step.resumed) for step in told] == [(8, 8, True)]
    evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out")
    assert {name for name, _ in scripts.calls[asked:]} == {"b"}


def test_killed_between_chunks_it_goes_on_and_ends_with_the_same_bytes(pair, tmp_path):
    models, file, scripts = pair
    config = EvalConfig(chunk_size=1)
    evaluate.evaluate(models, [file], config, tmp_path / "whole")
    total = len(scripts.calls)

    class Killed(Exception):
        pass

    def stop(step):
        if step.done == 6:  # in the second model
            raise Killed

    scripts.calls.clear()
    with pytest.raises(Killed):
        evaluate.evaluate(models, [file], config, tmp_path / "cut", on_chunk=stop)
    evaluate.evaluate(models, [file], config, tmp_path / "cut")
    assert len(scripts.calls) == total, "no finished chunk was made again"
    whole, cut = (
        {f.relative_to(d): f.read_bytes() for d in [tmp_path / name] for f in d.rglob("*") if f.is_file()}
        for name in ("whole", "cut")
    )
    assert whole == cut and len(whole) == 3 + 1 + 3 * 2  # options, report, page, lock; three shelves


@pytest.mark.parametrize("change", ["question", "model", "option"])
def test_other_conditions_are_never_mixed(pair, tmp_path, change):
    models, file, scripts = pair
    evaluate.evaluate(models[:1], [file], EvalConfig(), tmp_path / "out")
    scripts.calls.clear()
    if change == "question":
        Path(file).write_text(Path(file).read_text().replace("four", "one"))
    if change == "model":
        (Path(models[0]) / "config.json").write_text("{}")
    option = {"max_new_tokens": 5} if change == "option" else {}
    evaluate.evaluate(models[:1], [file], EvalConfig(**option), tmp_path / "out")
    assert scripts.calls.count(("a", "focus")) == 4
    assert scripts.calls.count(("base", "direct")) == (0 if change == "model" else 4)


def test_scores_by_set_and_the_macro_mean(tmp_path, monkeypatch):
    """Set x has 3 questions, y one; each weighs a half. exact wants the text itself, normalized forgives case."""
    only = model(tmp_path / "only")
    Scripts(monkeypatch, {"only": lambda kind, request: ON if kind == "focus" else "the stop!"})
    rows = [{"source": "x", "boxes": [GOLD]}, {"source": "x", "boxes": []}, {"source": "x", "answers": ["go"]},
            {"source": "y", "boxes": []}]  # fmt: skip
    file = str(source(tmp_path / "photos", rows))
    scores = {"y": "exact"}
    [of] = evaluate.evaluate([only], [file], EvalConfig(baseline=False), tmp_path / "out", scores)["models"]
    [old_name] = evaluate.evaluate(
        [only], [file], EvalConfig(baseline=False), tmp_path / "out", {"": "normalised"} | scores
    )["models"]
    assert old_name["figures"] == of["figures"] and of["figures"]["x"]["score"] == "normalized"
    assert of["figures"]["x"]["answer"] == pytest.approx(2 / 3) and of["figures"]["y"]["answer"] == 0
    assert of["figures"]["all"]["answer"] == pytest.approx(1 / 3) and of["figures"]["all"]["score"] == "mixed"
    assert of["figures"]["x"]["labelled"] == 2 and of["figures"]["y"]["box_accuracy"] is None
    assert of["figures"]["all"]["box_accuracy"] == 1.0, "the mean over the sets that have labels"
    [of] = evaluate.evaluate([only], [file], EvalConfig(baseline=False), tmp_path / "out", {"": "anls"})["models"]
    assert of["figures"]["y"]["answer"] == pytest.approx(8 / 9), "one of nine characters is too many"


def test_several_sources_and_rows_that_cannot_be_read(pair, tmp_path):
    models, file, _ = pair
    other = source(tmp_path / "more", [{"question": "one", "source": "m"}, {"image": "none.png"}])
    report = evaluate.evaluate(models, [file, str(other)], EvalConfig(), tmp_path / "out")
    assert report["groups"] == ["m", "questions"] and report["dropped"] == {"image_missing": 1}
    a = report["models"][0]["figures"]
    assert (a["m"]["questions"], a["questions"]["questions"], a["all"]["questions"]) == (1, 4, 5)
    assert a["all"]["answer"] == pytest.approx((1 + 1 / 4) / 2)


def test_the_original_model_judges_all_and_an_unread_verdict_is_apart(pair, tmp_path):
    models, file, scripts = pair
    verdicts = {"one": '{"score": 0.3}', "two": "fine", "three": '{"score": 1}', "four": '{"score": 0.5}'}

    def base(kind, request):
        if kind != "judge":
            return "go"
        words = "\n".join(part.text for part in request.parts)
        return next(reply for question, reply in verdicts.items() if f"Question: {question}\n" in words)

    scripts.says["base"] = base
    report = evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out", {"": "critic"})
    a, b, baseline = (m["figures"]["all"] for m in report["models"])
    assert a["answer"] == pytest.approx((0.3 + 0 + 1 + 0.5) / 4) and a["unread_verdicts"] == 1
    assert b["answer"] == pytest.approx((0.3 + 0 + 0 + 0.5) / 4), "no box, no answer, no verdict"
    assert baseline["unread_verdicts"] == 1 and report["judge"]["id"].endswith("base")
    judged = [name for name, kind in scripts.calls if kind == "judge"]
    assert judged == ["base"] * (4 + 3 + 4)


def test_the_crop_rule_of_the_model_binds(pair, tmp_path):
    models, file, _ = pair
    record = {"crop_rule": CropRule(0.3, 1.0).as_dict(), "box_space": "unit"}
    (Path(models[0]) / "visrl.json").write_text(json.dumps(record))
    with pytest.raises(VisRLError, match="trained with crop rule"):
        evaluate.evaluate(models[:1], [file], EvalConfig(crop_min_side=0.1), tmp_path / "out")
    with pytest.raises(VisRLError, match="trained with box space"):
        evaluate.evaluate(models[:1], [file], EvalConfig(box_space="per_mille"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_whose_every_row_drops_is_an_error(pair, tmp_path):
    models, _, _ = pair
    file = source(tmp_path / "gone away", [{"image": "gone.png"}] * 3)
    with pytest.raises(VisRLError, match=r"None of the 3 rows came through \(image_missing 3\)") as caught:
        evaluate.evaluate(models[:1], [str(file)], EvalConfig(), tmp_path / "out")
    command = shlex.split(str(caught.value).split("`")[1])
    assert command == ["visrl", "gen", "--source", str(file), "--split", "test", "--estimate"]


def test_a_question_that_the_processor_refuses_is_wrong_and_the_others_go_on(pair, tmp_path):
    models, file, scripts = pair

    def a(kind, request):
        if question_of(request) == "two":
            raise RequestRefused("too long a picture")
        return ON if kind == "focus" else "stop"

    scripts.says["a"] = a
    report = evaluate.evaluate(models[:1], [file], EvalConfig(), tmp_path / "out")
    a = report["models"][0]["figures"]["all"]
    assert (a["answer"], a["valid"], a["unparsed"]) == (0.75, 0.75, {"model_refused": 1})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--score", "best"], 2, "expected one of exact, normalized, anls, vqa, critic"),
        (["--score", "anls", "--score", "exact"], 2, "two scores"),
        (["--model", "spotlight", "--model", "spotlight"], 2, "given twice"),
        (["--source", "a.jsonl", "--source", "a.jsonl"], 2, "given twice"),
        (["--source", "not/there.jsonl"], 1, "not/there.jsonl"),
        (["--source", "caf\udce9.jsonl"], 2, "expected text in UTF-8. Rename the file"),
        (["--model", "not-there"], 1, "not-there"),
        (["--protocol", "other"], 2, "--protocol other: expected one of visrl, visual-cot"),
        (["--protocol", "visual-cot", "--crop-min-side", "0.5"], 2, "do not apply to --protocol visual-cot"),
        (["--columns", "a"], 2, "FIELD=COLUMN"),
    ],
)
def test_what_the_user_can_fix_is_one_message(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, out, err = visrl("eval", *arguments)
    assert (got, out) == (code, "")
    assert message in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == [], "nothing may be left behind by a refused command"


@pytest.mark.parametrize("name", ["config.toml", "report.json", "manifest.json", "report.html", "replies.jsonl"])
def test_the_folder_of_something_else_is_refused_and_stays_as_it_is(pair, tmp_path, name):
    models, file, _ = pair
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(VisRLError, match=f"not empty .it holds {name}"):
        evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out")
    assert [(f.name, f.read_text()) for f in (tmp_path / "out").iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("spoilt", [b"", b"PAR1", b"\0" * 5000])
def test_damaged_predictions_are_one_message_whose_advice_works(pair, tmp_path, spoilt):
    models, file, _ = pair
    report = evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out")
    stored = next((tmp_path / "out" / "predictions").glob("*/predictions.parquet"))
    stored.write_bytes(spoilt)
    with pytest.raises(VisRLError, match=r"predictions\.parquet can't be read: .*Remove this file"):
        evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out")
    stored.unlink()
    assert evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out") == report


def test_a_score_for_a_set_that_is_not_there(pair, tmp_path):
    """It is refused before a model is asked, or fetched; a set that is there is seen in its first row."""
    models, file, scripts = pair
    with pytest.raises(UsageError, match="no question has that source. Sources: questions"):
        evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out", {"docvqa": "anls"})
    assert not scripts.calls and not (tmp_path / "out").exists()
    arguments = ["--model", "user/not-there", "--source", file, "--score", "docvqa=anls"]
    code, _, err = visrl("eval", *arguments, "-o", tmp_path / "out")
    assert code == 2 and "--score docvqa=: no question has that source" in err
    evaluate.evaluate(models, [file], EvalConfig(), tmp_path / "out", {"questions": "anls"})


def test_the_command_prints_tables_or_one_object(pair, tmp_path):
    models, file, _ = pair
    arguments = ["eval", "--model", models[0], "--model", models[1], "--source", file, "-o", tmp_path / "out"]
    code, out, err = visrl(*arguments)
    assert code == 0 and "report.html" in err
    rows = [line.split() for line in out.splitlines()]
    assert ["a", "0.250", "-"] in rows and ["a", "1.000", "-", "1.000", "100.0", "%"] in rows, "answers, then boxes"
    code, out, err = visrl(*arguments, "--json")
    told = json.loads(out)
    assert code == 0 and told["models"][1]["figures"]["all"]["answer"] == 0.75
    assert {k: v for k, v in told.items() if k != "eval"} == json.loads((tmp_path / "out/report.json").read_text())


def test_on_a_real_model(untrained, tmp_path):
    """The engine is the one that generation uses; an untrained model writes no box, or any."""
    arguments = ["eval", "--model", untrained, "--limit", 3, "--max-new-tokens", 4, "-o", tmp_path / "out", "--json"]
    code, out, _ = visrl(*arguments)
    told = json.loads(out)
    assert code == 0 and [m["steps"] for m in told["models"]] == [2, 1]
    assert told["models"][0]["figures"]["all"]["questions"] == 3
