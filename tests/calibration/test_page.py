"""The page of a calibration: true to the report, harmless whatever the texts say, and alive in a browser."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest

from tests.calibration.test_measure import verdict
from tests.helpers.dataset_runs import photos
from tests.report.test_page import HOSTILE, Reader, cards, check_inert, check_policy, dom  # noqa: F401  (dom is a fixture)
from visrl_data.calibration import page
from visrl_data.calibration.calibrate import calibrate
from visrl_data.calibration.config import CalibrationConfig
from visrl_data.calibration.measure import measure_critic
from visrl_data.calibration.table import critics_of, figure_rows
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """Eight questions, all hostile, and a critic that says 1 to half of them and an attack to the empty reply."""
    folder = tmp_path_factory.mktemp("page")
    file = photos(
        folder / "photos",
        8,
        id=lambda i: f"{i} {HOSTILE[i % 5]}",
        question=lambda i: f"Question {i}: {HOSTILE[i]}",
        answers=lambda i: [str(i), HOSTILE[(i + 1) % 8]],
    )

    def says(request, seed):
        text = "\n".join(part.text for part in request.parts)
        number = int(re.search(r"Question (\d)", text)[1])
        return HOSTILE[number] if "Model answer: \n" in text else f'{{"score": {float(number % 2)}}}'

    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    report = calibrate(CalibrationConfig(source=str(file)), folder / "c", role=Role(ScriptedEngine(says), False))
    patch.undo()
    return folder / "c", report


@pytest.fixture
def text(calibration):
    return (calibration[0] / "report.html").read_text(encoding="utf-8")


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_says_what_the_report_says(calibration, text):
    _, report = calibration
    words = " ".join(" ".join(Reader(text).texts).split())
    for figures in critics_of(report).values():
        for label, value in figure_rows(figures):
            assert label in words and value in words
        for line in figures["warnings"]:
            assert " ".join(line.split()) in words
    items = data_of(text)["questions"]
    cases = [case for item in items for case in item["cases"]]
    assert len(items) == 8 and len(cases) == report["calls"]
    assert sum(case["outcome"] == "unparsed" for case in cases) == 8
    wins = [case for case in cases if case["outcome"] == "false win"]
    assert wins and all(case["score"] == 1.0 for case in wins)
    false = [sum(case["outcome"].startswith("false") for case in item["cases"]) for item in items]
    assert false == sorted(false, reverse=True), "those with the most false verdicts first"


def test_a_score_on_the_threshold_is_what_it_is_in_the_table():
    verdicts = [verdict(0, "other_answer", 0.8 - 2e-16), verdict(1, "answer", 0.1 * 3)]
    assert verdicts[0].score < 0.8 and verdicts[1].score > 0.3
    figures = measure_critic("response", verdicts, (0.8, 0.3))
    assert figures["false_wins"]["count"] == figures["false_loses"]["count"] == 1
    outcomes = [page._outcome(one, {"box": None, "response": figures}) for one in verdicts]
    assert outcomes == ["false win", "false lose"]


def test_no_text_becomes_markup(text):
    check_inert(text)
    check_policy(text)


def test_in_a_browser_the_cards_are_there_and_the_hash_filters(calibration, dom):  # noqa: F811
    address = (calibration[0] / "report.html").as_uri()
    shown, said = dom(address)
    assert said == [] and "data-hacked" not in shown.partition("<head")[0]
    assert cards(shown) == 8 and "8 of 8 shown" in shown
    assert shown.count('class="case ') == calibration[1]["calls"]
    assert cards(dom(f"{address}#outcome=false+win")[0]) == 4, "the odd ones"
    blank, _ = dom(f"{address}#kind=blank")
    assert blank.count('class="case ') == 8 and blank.count("one color") >= 8
    assert cards(dom(f"{address}#q={quote(f'2 {HOSTILE[2]}')}")[0]) == 1
