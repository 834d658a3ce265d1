"""The page of an evaluation: true to the report, harmless whatever the texts say, and alive in a browser."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest

from tests.conftest import draw_photo
from tests.evaluation.test_eval import GOLD, ON, Scripts, model, source
from tests.report.test_page import HOSTILE, Reader, cards, check_inert, check_policy, dom  # noqa: F401  (dom is a fixture)
from visrl_data.core.errors import VisRLError
from visrl_data.evaluation import evaluate
from visrl_data.evaluation import page as eval_page
from visrl_data.evaluation.config import EvalConfig


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight questions, all hostile; the first model is right on the even ones, the second nowhere finds a box."""
    folder = tmp_path_factory.mktemp("page")
    base = model(folder / "base")
    origin = {"origin_base": {"id": base}}
    first, second = (model(folder / name, origin) for name in ("first", f"evil {HOSTILE[1].replace('/', '')}"[:60]))

    def says(kind, request):
        words = request.parts[-1].text if kind == "direct" else "\n".join(part.text for part in request.parts)
        number = int(re.search(r"Question (\d)", words)[1])
        return ON if kind == "focus" else "7" if number % 2 == 0 else HOSTILE[number]

    patch = pytest.MonkeyPatch()
    scripts = Scripts(
        patch,
        {
            "base": lambda kind, request: HOSTILE[0],
            "first": says,
            second.rpartition("/")[2]: lambda kind, request: HOSTILE[3] if kind == "focus" else "7",
        },
    )
    rows = [
        {"id": f"{i} {HOSTILE[i % 5]}", "question": f"Question {i}: {HOSTILE[i]}", "answers": ["7", HOSTILE[2]],
         "source": f"s{i % 2} {HOSTILE[0]}", "boxes": [GOLD]}
        for i in range(8)
    ]  # fmt: skip
    file = source(folder / "photos", rows)
    report = evaluate.evaluate([first, second], [str(file)], EvalConfig(), folder / "out")
    patch.undo()
    assert scripts.calls
    return folder / "out", report


@pytest.fixture
def text(made):
    return (made[0] / "report.html").read_text()


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_says_what_the_report_says(made, text):
    _, report = made
    words = " ".join(" ".join(Reader(text).texts).split())
    for of_model in report["models"]:
        for group in ("all", *report["groups"]):
            assert f"{of_model['figures'][group]['answer']:.3f}" in words
    data = data_of(text)
    assert len(data["questions"]) == 8 and data["models"][2].endswith("base, no box")
    for i, item in enumerate(data["questions"]):
        first, second, baseline = item["predictions"]
        assert (first["score"], first["iou"]) == (float(i % 2 == 0), 1.0)
        assert (second["state"], second["box"], second["score"]) == ("no_box", None, 0.0)
        assert (baseline["box"], baseline["crop"]) == (None, None)
        assert first["box"] == pytest.approx([12, 9, 60, 45]) and item["gold"] == [[12, 9, 60, 45]]


def test_no_text_becomes_markup(text):
    check_inert(text)
    check_policy(text)


def test_in_a_browser_the_cards_are_there_and_the_hash_filters(made, dom):  # noqa: F811
    address = (made[0] / "report.html").as_uri()
    found, said = dom(address)
    assert said == [] and "data-hacked" not in found.partition("<head")[0]
    assert cards(found) == 8 and "8 of 8 shown" in found
    assert found.count('class="prediction"') == 3 * 8
    assert cards(dom(f"{address}#show=differ")[0]) == 4, "the even ones: the first model alone is right"
    assert cards(dom(f"{address}#show=gained")[0]) == 0
    assert cards(dom(f"{address}#show=unread&q=Question+3%3A")[0]) == 1
    drawn, _ = dom(f"{address}#q={quote(f'2 {HOSTILE[2]}')}")
    assert cards(drawn) == 1
    x, y, width, height = re.search(r'class="box win" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', drawn).groups()
    assert [float(v) for v in (x, y, width, height)] == pytest.approx([12, 9, 48, 36], abs=0.01)


def test_the_sample_is_bounded_drawn_by_seed_and_said(made, text, monkeypatch):
    output, report = made
    monkeypatch.setattr(eval_page, "MOST_QUESTIONS", 3)
    again = _again(output, report)
    assert len(data_of(again)["questions"]) == 3
    assert "3 of 8 questions, drawn at random with seed 0" in " ".join(Reader(again).texts)
    monkeypatch.setattr(eval_page, "MOST_BYTES", 1)
    assert len(data_of(_again(output, report))["questions"]) == 1
    monkeypatch.undo()
    assert _again(output, report) == text, "the same page from the same predictions"


def test_an_image_that_changed_is_refused(made):
    output, report = made
    photo = output.parent / "photos" / "p.png"
    before = photo.read_bytes()
    draw_photo(2).save(photo)
    with pytest.raises(VisRLError, match="its image changed"):
        _again(output, report)
    photo.write_bytes(before)


def _again(output, report):
    """The page made anew, from what is stored: no model is there to be asked."""
    models = [m["model"] for m in report["models"][:2]]
    evaluate.evaluate(models, [str(output.parent / "photos" / "questions.jsonl")], EvalConfig(), output)
    return (output / "report.html").read_text()
