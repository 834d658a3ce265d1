"""What the shipped model can do, on questions that it never saw, beside the bounds it has to keep.

    python -m studies.spotlight.measure [--questions 1000] [--split test] [--folder DIR] [--json | --markdown]

Last step of the recipe in train.py; the table of MODEL_CARD.md is what --markdown prints. Uses the model as
anybody would: AutoProcessor and AutoModelForImageTextToText, batches padded on the left, greedy unless a line
says "sampled" (temperature 2.0, top-p 0.7, top-k 50: the paper's). `choice` of a box is measured apart from its
`place`: IoU with the named object against IoU with the nearest one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from studies.spotlight import phrases, strange, views
from studies.spotlight.answers import answer_pair
from visrl_data.core import prompts
from visrl_data.core.boxes import iou, make_frame
from visrl_data.spotlight import BASE
from visrl_data.spotlight.expressions import LEVELS
from visrl_data.spotlight.scenes import SceneObject, Xyxy
from visrl_data.spotlight.world import Example, make_example

PAPER_SAMPLING = {"do_sample": True, "temperature": 2.0, "top_p": 0.7, "top_k": 50}
PROMPTS = prompts.PromptSet()
# The base knows; the actor's greedy replies leave room, at both steps.
_BOX_BOUNDS = {("actor", level): (0.35, 0.60) for level in LEVELS} | {
    ("base in its own words", level): (least, None) for level, least in zip(LEVELS, (0.75, 0.6, 0.75), strict=True)
}
_ANSWER_BOUNDS = {"actor": (0.6, 0.8), "base": (0.95, None)}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure with its bounds: `least` and `most` may be None; shares and areas are 0..1."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One model call: a filled prompt, with pictures and texts in reading order."""

    parts: tuple[Image.Image | str, ...]


class Speaker:
    """The shipped pair: the actor is the base with its adapter switched on."""

    def __init__(self, folder: Path, batch: int = 50) -> None:
        self.batch = batch
        self.processor = AutoProcessor.from_pretrained(folder / "base")
        model = AutoModelForImageTextToText.from_pretrained(folder / "base", dtype=torch.float32).eval()
        self.model = PeftModel.from_pretrained(model, folder / "actor").eval()

    def replies(self, calls: Sequence[ModelCall], actor: bool = False, **how: object) -> list[str]:
        """Return one reply to each ask, special tokens taken off."""
        if actor:
            return self._generate(calls, how)
        with self.model.disable_adapter():
            return self._generate(calls, how)

    def _generate(self, calls: Sequence[ModelCall], how: dict[str, object]) -> list[str]:
        out: list[str] = []
        for start in range(0, len(calls), self.batch):
            talks = [[{"role": "user", "content": _content(call)}] for call in calls[start : start + self.batch]]
            inputs = self.processor.apply_chat_template(
                talks,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                processor_kwargs={"padding": True},
            )
            with torch.inference_mode():
                tokens = self.model.generate(**inputs, max_new_tokens=16, **({"do_sample": False} | how))
            out += self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return out


def model_call(prompt: prompts.Prompt, pictures: dict[str, Image.Image], **values: str) -> ModelCall:
    return ModelCall(tuple(pictures.get(part.kind, part.text) for part in prompt.parts(**values)))


def measure(speaker: Speaker, split: str, count: int) -> list[Row]:
    """Measure all figures, on questions 0 .. count - 1 of a split."""
    torch.manual_seed(0)
    examples = [make_example(split, k) for k in range(count)]
    rows = _boxes(speaker, examples) + _answers(speaker, examples)
    rows += _box_critic(speaker, examples, "default", PROMPTS.box_critic)
    rows += _response_critic(speaker, examples, "default", PROMPTS.response_critic)
    for k, (box, response) in enumerate(
        zip(phrases.BOX_CRITICS_HELD_OUT, phrases.RESPONSE_CRITICS_HELD_OUT, strict=True)
    ):
        name, some = f"other words {k + 1}", examples[: count // 2]
        rows += _box_critic(speaker, some, name, prompts.Prompt("box_critic", box))
        rows += _response_critic(speaker, some, name, prompts.Prompt("response_critic", response))
    return rows + _strange(speaker, count // 2)


def _boxes(speaker: Speaker, examples: list[Example]) -> list[Row]:
    located = prompts.Prompt("focus", phrases.LOCATE[0])
    rows = []
    for who, actor, prompt, how in (
        ("actor", True, PROMPTS.focus, {}),
        ("actor sampled", True, PROMPTS.focus, PAPER_SAMPLING),
        ("base", False, PROMPTS.focus, {}),
        ("base in its own words", False, located, {}),
    ):
        calls = [model_call(prompt, {"image": e.image}, question=e.question) for e in examples]
        boxes = [read_box(reply) for reply in speaker.replies(calls, actor=actor, **how)]
        named = [iou(box, e.gold_box) if box else 0.0 for box, e in zip(boxes, examples, strict=True)]
        near = [
            max(iou(box, item.box) for item in e.objects) if box else 0.0
            for box, e in zip(boxes, examples, strict=True)
        ]
        rows.append(
            Row(f"{who}: valid boxes", _mean([box is not None for box in boxes]), least=0.99 if actor else None)
        )
        if who == "base":
            continue
        rows.append(Row(f"{who}: IoU > 0.5 with the named object", _mean([iou > 0.5 for iou in named])))
        rows += [
            Row(
                f"{who}: IoU > 0.5 with the named object, {level}",
                _mean([iou > 0.5 for iou, e in zip(named, examples, strict=True) if e.level == level]),
                *_BOX_BOUNDS.get((who, level), (None, None)),
            )
            for level in LEVELS
        ]
        rows += [
            Row(f"{who}: IoU > 0.5 with the nearest object", _mean([iou > 0.5 for iou in near])),
            Row(f"{who}: mean IoU with the named object", _mean(named)),
        ]
    return rows


def _answers(speaker: Speaker, examples: list[Example]) -> list[Row]:
    def share(crop: Callable[[Example], Image.Image], actor: bool) -> float:
        calls = [model_call(PROMPTS.answer, {"image": e.image, "crop": crop(e)}, question=e.question) for e in examples]
        replies = speaker.replies(calls, actor=actor)
        return _mean([reply == e.answer for reply, e in zip(replies, examples, strict=True)])

    def gold(e: Example) -> Image.Image:
        return crop_to(e.image, e.gold_box)

    rows = []
    for who, actor in (("actor", True), ("base", False)):
        rows.append(Row(f"{who}: answers with the gold crop", share(gold, actor), *_ANSWER_BOUNDS[who]))
        rows.append(Row(f"{who}: answers with the whole image as crop", share(lambda e: e.image, actor), most=0.15))
    return rows


def _box_critic(speaker: Speaker, examples: list[Example], name: str, prompt: prompts.Prompt) -> list[Row]:
    kinds = {"good": good_box, "other object": other_box, "cut": _half, "too loose": _loose, "elsewhere": _elsewhere}
    scores: dict[str, list[float]] = {}
    failed = []
    for kind, make in kinds.items():
        crops = [make(random.Random(f"{e.id}/{kind}"), e) for e in examples]
        calls = [
            model_call(prompt, {"crop": crop_to(e.image, box)}, question=e.question, answer=e.answer)
            for e, box in zip(examples, crops, strict=True)
        ]
        read = [prompts.parse_score(reply)[0] for reply in speaker.replies(calls)]
        failed += [score is None for score in read]
        scores[kind] = [score for score in read if score is not None]
    least = 0.95 if name == "default" else 0.9
    rows = [
        Row(f"box critic ({name}): AUC good against {kind}", auc(scores["good"], scores[kind]), least)
        for kind in list(kinds)[1:]
    ]
    rows.append(Row(f"box critic ({name}): mean score of good crops", _mean(scores["good"])))
    return [*rows, Row(f"box critic ({name}): unparsed", _mean(failed), most=0.01)]


def _response_critic(speaker: Speaker, examples: list[Example], name: str, prompt: prompts.Prompt) -> list[Row]:
    rows, failed = [], []
    for kind in ("digits", "any text"):
        pairs = [answer_pair(random.Random(f"{e.id}/{kind}"), e.answer if kind == "digits" else None) for e in examples]
        calls = [
            model_call(prompt, {"image": e.image}, question=e.question, answer=pair[0], response=pair[1])
            for e, pair in zip(examples, pairs, strict=True)
        ]
        read = [prompts.parse_score(reply)[0] for reply in speaker.replies(calls)]
        failed += [score is None for score in read]
        fits = [pair[2] >= 0.5 for pair in pairs]
        right = [score is not None and (score >= 0.5) == fit for score, fit in zip(read, fits, strict=True)]
        apart = [
            [score for score, fit in zip(read, fits, strict=True) if score is not None and fit == wanted]
            for wanted in (True, False)
        ]
        bounded = kind == "digits"
        least = (0.95 if name == "default" else 0.9) if bounded else None
        rows.append(Row(f"response critic ({name}): AUC right against wrong, {kind}", auc(*apart), least=least))
        bound = 0.95 if bounded and name == "default" else None
        rows.append(Row(f"response critic ({name}): accuracy on {kind}", _mean(right), least=bound))
    return [*rows, Row(f"response critic ({name}): unparsed", _mean(failed), most=0.01)]


def _strange(speaker: Speaker, count: int) -> list[Row]:
    """Try pictures and texts from outside the drawn world: formats must hold."""
    rngs = [random.Random(f"strange/{k}") for k in range(count)]
    examples = [(strange.strange_picture(rng), strange.strange_question(rng), *answer_pair(rng)) for rng in rngs]
    focus = [model_call(PROMPTS.focus, {"image": picture}, question=question) for picture, question, *_ in examples]
    rows = []
    for how, options in (("greedy", {}), ("sampled", PAPER_SAMPLING)):
        valid = [read_box(reply) is not None for reply in speaker.replies(focus, actor=True, **options)]
        rows.append(Row(f"actor: valid boxes on foreign pictures, {how}", _mean(valid), least=0.95))
    critics = [
        model_call(PROMPTS.box_critic, {"crop": picture}, question=question, answer=standard)
        for picture, question, standard, *_ in examples
    ] + [
        model_call(PROMPTS.response_critic, {"image": picture}, question=question, answer=standard, response=response)
        for picture, question, standard, response, _ in examples
    ]
    unparsed = [prompts.parse_score(reply)[0] is None for reply in speaker.replies(critics)]
    return [*rows, Row("critics: unparsed on foreign pictures", _mean(unparsed), most=0.01)]


def read_box(reply: str) -> Xyxy | None:
    """Read the box of a reply, unit xyxy, or None if the reply is not a valid box."""
    lattice = make_frame("unit", (1000, 1000))
    cells, _ = lattice.parse(reply)
    return None if cells is None else lattice.to_unit(cells).xyxy


def crop_to(picture: Image.Image, box: Xyxy) -> Image.Image:
    return picture.crop(views.crop_window(box, picture.size))


def auc(good: list[float], bad: list[float]) -> float:
    """Return the chance that a good one scores above a bad one; a tie counts half."""
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / max(1, len(good) * len(bad))


def target(e: Example) -> SceneObject:
    return next(item for item in e.objects if item.box == e.gold_box)


def good_box(rng: random.Random, e: Example) -> Xyxy:
    return _draw_until(lambda: views.jitter(rng, e.gold_box, rng.uniform(0.8, 1.8), 0.15), e, 0.8, 1.0)


def other_box(rng: random.Random, e: Example) -> Xyxy:
    item = rng.choice([item for item in e.objects if item.box != e.gold_box])
    return _draw_until(lambda: views.jitter(rng, item.box, rng.uniform(0.8, 1.8), 0.15), e, 0.0, 0.2)


def _half(rng: random.Random, e: Example) -> Xyxy:
    return _draw_until(lambda: views.cut(rng, target(e)), e, 0.0, 0.2)


def _loose(rng: random.Random, e: Example) -> Xyxy:
    return _draw_until(lambda: views.jitter(rng, e.gold_box, rng.uniform(3.0, 6.0), 0.3), e, 0.0, 0.2)


def _elsewhere(rng: random.Random, e: Example) -> Xyxy:
    return _draw_until(lambda: views.anywhere(rng), e, 0.0, 0.2)


def _draw_until(draw: Callable[[], Xyxy], e: Example, low: float, high: float) -> Xyxy:
    """Draw boxes until one reads between `low` and `high` for the named object."""
    while True:
        box = draw()
        if low <= views.readable(target(e), views.crop_window(box, e.image.size), e.image.size) <= high:
            return box


def _content(call: ModelCall) -> list[dict[str, object]]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in call.parts
    ]


def _line(row: Row) -> str:
    bounds = [f"  {sign} {bound:.3f}" for sign, bound in ((">=", row.least), ("<=", row.most)) if bound is not None]
    return f"{row.value:6.3f}  {row.name}{''.join(bounds)}{'' if _kept(row) else '  MISSED'}"


def markdown(rows: list[Row]) -> str:
    """Format the figures and their bounds as a table."""
    lines = ["| figure | measured | bound | kept |", "| :-- | --: | :-- | :-- |"]
    for row in rows:
        bounds = [f"{sign} {bound:.2f}" for sign, bound in (("≥", row.least), ("≤", row.most)) if bound is not None]
        kept = ("yes" if _kept(row) else "**no**") if bounds else ""
        lines.append(f"| {row.name} | {row.value:.3f} | {', '.join(bounds)} | {kept} |")
    return "\n".join(lines)


def _kept(row: Row) -> bool:
    return (row.least is None or row.value >= row.least) and (row.most is None or row.value <= row.most)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--split", default="test")
    parser.add_argument("--folder", type=Path, default=BASE.parent, help="holds base/ and actor/")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object on stdout")
    how.add_argument("--markdown", action="store_true", help="a table for the model card")
    arguments = parser.parse_args()
    rows = measure(Speaker(arguments.folder), arguments.split, arguments.questions)
    if arguments.json:
        print(
            json.dumps(
                {"split": arguments.split, "questions": arguments.questions, "rows": [asdict(row) for row in rows]}
            )
        )
        return
    print(markdown(rows) if arguments.markdown else "\n".join(map(_line, rows)))


if __name__ == "__main__":
    main()
