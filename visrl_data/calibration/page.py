"""Write report.html of a calibration: the figures, and the cases to look at with what the critic said of each.

Last step of calibrate.py. It shares look, policy and escaping with the page of a run (report/page.py): texts are
escaped or made text nodes; the page is one file and makes no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visrl_data.calibration import table
from visrl_data.calibration.calibration_report import CalibrationReport
from visrl_data.calibration.cases import KINDS
from visrl_data.calibration.measure import side_of
from visrl_data.calibration.verdicts import CaseVerdict
from visrl_data.core import files
from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Question
from visrl_data.core.text import embedded, shown
from visrl_data.report import page
from visrl_data.report.page_sample import MOST_BYTES, small_picture
from visrl_data.sources.protocol import Source

NAME = "report.html"
MOST_QUESTIONS = 120
_FOLDER = Path(__file__).parent


def write_page(
    output: Path,
    report: CalibrationReport,
    verdicts: Sequence[CaseVerdict],
    questions: Mapping[int, Question],
    source: Source,
) -> None:
    """Write the page into the folder `output`. questions: by row, without images, which are read from the source."""
    items, pictures = _sample(report, verdicts, questions, source)
    style = page.asset("page.css") + page.asset("page.css", _FOLDER)
    script = page.asset("page_parts.js") + page.asset("page.js", _FOLDER)
    critics = table.critics_of(report)
    rows = {name: dict(table.figure_rows(figures)) for name, figures in critics.items()}
    values = {
        "report": report,
        "critics": critics,
        "labels": list(dict.fromkeys(label for row in rows.values() for label in row)),
        "rows": rows,
        "verdicts": {"right": "win", "wrong": "lose", "open": "(open)"},
        "shown_questions": len(items),
        "pictures": pictures,
        "data": embedded({"questions": items, "kinds": _kinds(critics)}),
        "style": style,
        "script": script,
        "policy": page.policy(style, script),
    }
    files.write_text(output / NAME, page.environment(_FOLDER).get_template("page.html.j2").render(values))


def _kinds(critics: Iterable[str]) -> dict[str, dict[str, str]]:
    return {
        name: {"critic": kind.critic, "label": kind.label, "verdict": kind.verdict}
        for name, kind in KINDS.items()
        if kind.critic in critics
    }


def _sample(
    report: CalibrationReport, verdicts: Sequence[CaseVerdict], questions: Mapping[int, Question], source: Source
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return as many questions with their cases as fit, those with the most false verdicts first, and the images."""
    cases: dict[int, list[dict[str, Any]]] = {row: [] for row in questions}
    for verdict in verdicts:
        cases[verdict.row].append(_case(verdict, report))
    false = {row: sum(case["outcome"].startswith("false") for case in own) for row, own in cases.items()}
    items: list[dict[str, Any]] = []
    pictures: dict[int, dict[str, Any]] = {}
    spent = 0
    for row in sorted(questions, key=lambda row: (-false[row], row))[:MOST_QUESTIONS]:
        for i in dict.fromkeys([row, *(case["shown"] for case in cases[row] if case["shown"] is not None)]):
            if i not in pictures:
                pictures[i] = _picture(len(pictures), source, i, questions[i])
                spent += len(pictures[i]["uri"])
        for case in cases[row]:
            shown_row = case["shown"]
            case["picture"] = None if shown_row is None else pictures[shown_row]["number"]
            case["size"] = None if shown_row is None else pictures[shown_row]["size"]
        items.append(_item(questions[row], cases[row]) | {"picture": pictures[row]["number"]})
        spent += len(embedded(items[-1]))
        if spent > MOST_BYTES:
            break
    return items, list(pictures.values())


def _picture(number: int, source: Source, row: int, question: Question) -> dict[str, Any]:
    again = source.read(row)
    if not isinstance(again, Question) or again.image_sha256 != question.image_sha256:
        raise VisRLError(f"{question.id}: its image changed since it was asked about. Calibrate into a new folder: -o.")
    return {"number": number, "uri": small_picture(again.image), "size": (question.width, question.height)}


def _item(question: Question, cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sides = (question.width, question.height) * 2
    return {
        "id": shown(question.id),
        "question": shown(question.question),
        "answers": [shown(answer) for answer in question.answers[:20]],
        "size": [question.width, question.height],
        "gold": [
            [round(value * side, 2) for value, side in zip(box.xyxy, sides, strict=True)] for box in question.gold_boxes
        ],
        "cases": cases,
    }


def _case(verdict: CaseVerdict, report: CalibrationReport) -> dict[str, Any]:
    return {
        "kind": verdict.kind,
        "variant": verdict.variant,
        "response": shown(verdict.response) if verdict.critic == "response" else None,
        "shown": verdict.shown,
        "window": verdict.window,
        "score": verdict.score,
        "state": verdict.state,
        "raw": shown(verdict.raw),
        "outcome": _outcome(verdict, report),
    }


def _outcome(verdict: CaseVerdict, report: CalibrationReport) -> str:
    """Return what the verdict is worth: right, false win, false lose, between, unparsed, or open."""
    figures = report["box"] if verdict.critic == "box" else report["response"]
    if verdict.score is None or figures is None:
        return "unparsed"
    side = side_of(verdict, figures["thresholds"])
    expected = {"right": "win", "wrong": "lose", "open": "open"}[KINDS[verdict.kind].verdict]
    if expected == "open":
        return "open"
    return "between" if side == "neither" else "right" if side == expected else f"false {side}"
