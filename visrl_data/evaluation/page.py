"""Write report.html of an evaluation: the table, and all models' predictions side by side on their images (Fig. 5).

Last step of evaluate.py. It shares look, policy and escaping with the page of a run (report/page.py): texts are
escaped or made text nodes; the page is one file and makes no request.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visrl_data.core import files
from visrl_data.core.errors import VisRLError
from visrl_data.core.gold_regions import POSITIVE_IOU
from visrl_data.core.records import Question
from visrl_data.core.seeds import keyed_seed
from visrl_data.core.text import embedded, shown
from visrl_data.evaluation.eval_report import ALL, EvalReport, ModelEntry
from visrl_data.evaluation.predictions import Prediction
from visrl_data.evaluation.scores import box_iou, score_answer
from visrl_data.report import page
from visrl_data.report.page_sample import MOST_BYTES, small_picture
from visrl_data.sources.protocol import Source

NAME = "report.html"
MOST_QUESTIONS = 120
_FOLDER = Path(__file__).parent


def write_page(
    output: Path, report: EvalReport, predictions: Sequence[Sequence[Prediction]], sources: Sequence[Source]
) -> None:
    """Write the page into the folder `output`. predictions: of each model, over all sources in turn."""
    questions, pictures = _sample(report, predictions, sources)
    data = {"models": [m["name"] for m in report["models"]], "questions": questions, "positive_iou": POSITIVE_IOU}
    style = page.asset("page.css") + page.asset("page.css", _FOLDER)
    script = page.asset("page_parts.js") + page.asset("page.js", _FOLDER)
    values = {
        "report": report,
        "all": ALL,
        "positive_iou": POSITIVE_IOU,
        "baselines_first": sorted(report["models"], key=lambda model: model["steps"]),
        "crops": list(dict.fromkeys(_crop(model) for model in report["models"] if model["steps"] == 2)),
        "shown_questions": len(questions),
        "question_count": report["models"][0]["figures"][ALL]["questions"],
        "pictures": pictures,
        "data": embedded(data),
        "style": style,
        "script": script,
        "policy": page.policy(style, script),
    }
    files.write_text(output / NAME, page.environment(_FOLDER).get_template("page.html.j2").render(values))


def _crop(model: ModelEntry) -> str:
    rule = model["crop_rule"]
    if isinstance(rule, str):
        return "the benchmark's square"
    return f"at least {rule['min_side']:g} of the longer side, sides at most 1 : {rule['max_aspect']:g}"


def _sample(
    report: EvalReport, predictions: Sequence[Sequence[Prediction]], sources: Sequence[Source]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw questions by a key of (seed, id), as many as fit; return them in order, and their images."""
    seed, first_model = report["config"]["seed"], report["models"][0]
    scores = {group: first_model["figures"][group]["score"] for group in report["groups"]}
    places = [place for place, p in enumerate(predictions[0]) if not p.dropped]
    drawn = heapq.nsmallest(
        MOST_QUESTIONS, places, key=lambda place: (keyed_seed(seed, "page", predictions[0][place].id), place)
    )
    starts = [sum(len(source) for source in sources[:j]) for j in range(len(sources) + 1)]
    items: dict[int, dict[str, Any]] = {}
    pictures: dict[str, dict[str, Any]] = {}
    spent = 0
    for place in drawn:
        first = predictions[0][place]
        if first.image_sha256 not in pictures:
            j = next(j for j, start in enumerate(starts[1:]) if place < start)
            question = sources[j].read(place - starts[j])
            if not isinstance(question, Question) or question.image_sha256 != first.image_sha256:
                raise VisRLError(
                    f"{first.id}: its image changed since it was evaluated. Evaluate into a new folder: -o DIR."
                )
            uri = small_picture(question.image)
            picture = {"number": len(pictures), "uri": uri, "size": (first.width, first.height)}
            pictures[first.image_sha256] = picture
            spent += len(uri)
        item = _item([of_model[place] for of_model in predictions], scores, report["config"]["gold_rule"])
        items[place] = item | {"picture": pictures[first.image_sha256]["number"]}
        spent += len(embedded(item))
        if spent > MOST_BYTES:
            break
    return [items[place] for place in sorted(items)], list(pictures.values())


def _item(predictions: list[Prediction], scores: dict[str, str], gold_rule: str) -> dict[str, Any]:
    first = predictions[0]
    return {
        "id": shown(first.id),
        "group": shown(first.group),
        "question": shown(first.question),
        "answers": [shown(answer) for answer in first.answers[:20]],
        "size": [first.width, first.height],
        "gold": [_pixels(box, first) for box in first.gold_boxes],
        "predictions": [_prediction(p, scores[p.group], gold_rule) for p in predictions],
    }


def _prediction(p: Prediction, score: str, gold_rule: str) -> dict[str, Any]:
    iou = box_iou(p, gold_rule)
    return {
        "state": p.focus_state,
        "reply": shown(p.focus_reply),
        "box": p.box and _pixels(p.box, p),
        "crop": p.crop,
        "response": None if p.response is None else shown(p.response),
        "score": round(score_answer(p, score), 4),
        "verdict": p.verdict_state if score == "critic" else "off",
        "iou": None if iou is None or p.box is None else round(iou, 4),
    }


def _pixels(box: Sequence[float], p: Prediction) -> list[float]:
    """Convert unit xyxy to pixels of the original image, to a hundredth."""
    return [round(value * side, 2) for value, side in zip(box, (p.width, p.height) * 2, strict=True)]
