"""A person whose eyes are the gold boxes and the accepted answers: marks the pairs of `visrl audit` through its page.

    python -m tests.helpers.auditor RUN ADDRESS

Like a person, it sees what the page shows: no score, and not which side is the win. What the labels of a question are
it looks up by the question and its two boxes.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visrl_data.core.boxes import iou
from visrl_data.core.metrics import normalized
from visrl_data.runs.run_folder import Run

Send = Callable[..., Any]


def sender(address: str) -> Send:
    """send(path, body=None): the reply of the page at an address."""

    def send(path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(address + path, data), timeout=240) as reply:
            return json.load(reply)

    return send


def mark_everything(run: Run, send: Send) -> int:
    """Mark all boxes and responses of the page; return how many marks that were."""
    gold = gold_boxes(run)
    count = 0
    for number, item in enumerate(send("pairs")["pairs"]):
        labels = gold[key(item["question"], item["boxes"])]
        for place in (0, 1):
            box = [value / side for value, side in zip(item["boxes"][place], item["size"] * 2, strict=True)]
            verdicts = {"response": "right" if normalized(item["responses"][place], item["answers"]) else "wrong"}
            if labels:
                verdicts["box"] = "right" if max(iou(box, label) for label in labels) > 0.5 else "wrong"
            for part, verdict in verdicts.items():
                if item["same"] and part == "response" and place:
                    continue
                mark = {"pair": number, "place": place, "part": part, "verdict": verdict, "seen": None}
                item["marks"] = send("mark", mark)
                count += 1
    return count


def gold_boxes(run: Run) -> dict[Any, list[list[float]]]:
    """Return the gold boxes by what can be seen of a pair."""
    sizes = {row["id"]: [row["width"], row["height"]] for row in run.table("questions").to_pylist()}
    gold = {}
    for row in run.pairs().to_pylist():
        boxes = [
            [value * side for value, side in zip(row[f"{side_name}_box"], sizes[row["question_id"]] * 2, strict=True)]
            for side_name in ("win", "lose")
        ]
        gold[key(row["question"], boxes)] = row["gold_boxes"]
    return gold


def key(question: str, boxes: list[list[float]]) -> tuple[Any, ...]:
    """Return what a pair is known by, whatever the order of its boxes."""
    return question, *sorted(tuple(round(value, 2) for value in box) for box in boxes)


if __name__ == "__main__":
    print(f"{mark_everything(Run(Path(sys.argv[1])), sender(sys.argv[2]))} marks")
