"""The shipped weights: they load, keep their formats, and do on a few questions what a broken model could
not. The full table is `python -m studies.spotlight.measure`.
"""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors import safe_open

from studies.spotlight import injection, lessons, measure, phrases, strange, views
from studies.spotlight.measure import PROMPTS, crop_to, model_call, read_box
from visrl_data.core import prompts
from visrl_data.core.boxes import iou
from visrl_data.models.model_folder import digest_folder, find_model
from visrl_data.spotlight import ACTOR, BASE, INJECTION
from visrl_data.spotlight.world import make_example

COUNT = 24


@pytest.fixture(scope="module")
def speaker():
    return measure.Speaker(BASE.parent)


@pytest.fixture(scope="module")
def examples():
    return [make_example("val", index) for index in range(COUNT)]


def test_folders_say_what_the_pipeline_needs():
    about = {folder.name: json.loads((folder / "visrl.json").read_text()) for folder in (BASE, ACTOR)}
    for content in about.values():
        assert content["box_space"] == "unit"
        assert content["crop_rule"] == views.CROP_RULE.as_dict()
    base = {"id": "spotlight-base", "digest": digest_folder(BASE)}
    assert about["actor"]["origin_base"] == about["actor"]["base"] == base
    adapter = json.loads((ACTOR / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "spotlight-base"
    with safe_open(ACTOR / "adapter_model.safetensors", "pt") as weights:
        assert all("language_model" in name for name in weights.keys())  # noqa: SIM118 (not a dict)
    size = sum(path.stat().st_size for folder in (BASE, ACTOR) for path in folder.iterdir())
    assert size < 8_000_000


def test_the_actor_boxes_objects(speaker, examples):
    """A broken model gives no boxes, or boxes that lie on no object."""
    calls = [model_call(PROMPTS.focus, {"image": e.image}, question=e.question) for e in examples]
    torch.manual_seed(0)  # the samples would depend on the tests before
    for how in ({}, measure.PAPER_SAMPLING):
        boxes = [read_box(reply) for reply in speaker.replies(calls, actor=True, **how)]
        assert sum(box is not None for box in boxes) >= COUNT - 2
        near = [max(iou(box, item.box) for item in e.objects) for box, e in zip(boxes, examples, strict=True) if box]
        assert sum(near) / COUNT >= 0.3


def test_the_crop_decides_the_answer(speaker, examples):
    """The base reads what a crop shows; the actor too, but for the digits that its warm-up misread."""

    def replies(crops, actor: bool) -> list[str]:
        calls = [
            model_call(PROMPTS.answer, {"image": e.image, "crop": crop}, question=e.question)
            for e, crop in zip(examples, crops, strict=True)
        ]
        return speaker.replies(calls, actor=actor)

    def right(said) -> int:
        return sum(reply == e.answer for reply, e in zip(said, examples, strict=True))

    gold, whole = [crop_to(e.image, e.gold_box) for e in examples], [e.image for e in examples]
    assert right(replies(gold, actor=False)) >= COUNT - 2
    assert right(replies(whole, actor=False)) <= COUNT / 2
    said = replies(gold, actor=True)
    hasty = sum(lessons.HASTY_READINGS.get(e.answer) == reply for reply, e in zip(said, examples, strict=True))
    assert hasty > 0 and right(said) + hasty >= COUNT - 2


def test_the_box_critic_tells_crops_apart(speaker, examples):
    def mean_score(boxes) -> float:
        calls = [
            model_call(PROMPTS.box_critic, {"crop": crop_to(e.image, box)}, question=e.question, answer=e.answer)
            for e, box in zip(examples, boxes, strict=True)
        ]
        scores = [prompts.parse_score(reply)[0] for reply in speaker.replies(calls)]
        assert None not in scores
        return sum(scores) / COUNT

    others = [next(item.box for item in e.objects if item.box != e.gold_box) for e in examples]
    assert mean_score([e.gold_box for e in examples]) >= 0.6
    assert mean_score(others) <= 0.3
    assert mean_score([(0.0, 0.0, 1.0, 1.0)] * COUNT) <= 0.3


def test_the_response_critic_compares(speaker, examples):
    def mean_score(say) -> float:
        calls = [
            model_call(
                PROMPTS.response_critic, {"image": e.image}, question=e.question, answer=e.answer, response=say(e)
            )
            for e in examples
        ]
        scores = [prompts.parse_score(reply)[0] for reply in speaker.replies(calls)]
        assert None not in scores
        return sum(scores) / COUNT

    assert mean_score(lambda e: e.answer) >= 0.8
    assert mean_score(lambda e: f"number {e.answer}.") >= 0.7
    assert mean_score(lambda e: str((int(e.answer) + 3) % 10)) <= 0.2


def test_formats_hold_on_foreign_pictures(speaker):
    rngs = [random.Random(k) for k in range(COUNT)]
    examples = [(strange.strange_picture(rng), strange.strange_question(rng)) for rng in rngs]
    focus = [model_call(PROMPTS.focus, {"image": picture}, question=question) for picture, question in examples]
    valid = [read_box(reply) is not None for reply in speaker.replies(focus, actor=True)]
    assert sum(valid) >= COUNT - 2
    critic = [
        model_call(PROMPTS.box_critic, {"crop": picture}, question=question, answer="é?")
        for picture, question in examples
    ]
    assert all(prompts.parse_score(reply)[0] is not None for reply in speaker.replies(critic))


def test_the_base_points_in_its_own_words_and_mostly_not_when_the_pipeline_asks(speaker, examples):
    """What the warm-up is for: the base gives a box when examples in its own words, and none to the pipeline's."""
    own = prompts.Prompt("focus", phrases.LOCATE[0])
    for prompt, least, most in ((own, COUNT - 2, COUNT), (PROMPTS.focus, 0, COUNT // 2)):
        calls = [model_call(prompt, {"image": e.image}, question=e.question) for e in examples]
        assert least <= sum(read_box(reply) is not None for reply in speaker.replies(calls)) <= most


_CARD = (BASE.parent / "MODEL_CARD.md").read_text(encoding="utf-8")


def _card_rows() -> dict[str, list[str]]:
    lines = _CARD.split("<!-- measured -->")[1].split("<!-- end -->")[0].strip().splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_the_model_card_states_every_bound_and_whether_it_is_kept():
    rows = _card_rows()
    for name in ("actor: valid boxes", "actor: answers with the gold crop", "response critic (default): unparsed"):
        assert rows[name][1] and rows[name][2] in ("yes", "**no**")
    assert rows["actor: IoU > 0.5 with the named object, relation"][1] == "≥ 0.35, ≤ 0.60"
    for measured, bound, kept in list(rows.values())[2:]:
        for part in filter(None, bound.split(", ")):
            value, sign, limit = float(measured), *part.split(" ")
            holds = value >= float(limit) if sign == "≥" else value <= float(limit)
            assert (kept == "yes") <= holds
    for level, share in lessons.HASTY_WARM_UP.items():
        assert f"{share:.0%} of those of {level}s".replace("%", " %") in _CARD
    assert f"{lessons.HASTY_READING:.0%} of the labels of".replace("%", " %") in _CARD


def test_the_figures_of_texts_that_argue_are_of_these_weights_and_on_the_card():
    study = json.loads(INJECTION.read_text(encoding="utf-8"))
    assert study["digest"] == find_model("spotlight").weights.digest, "run studies.spotlight.injection --write"
    assert study["texts"] == injection.TEXTS
    table = _CARD.split("<!-- injected -->")[1].split("<!-- end -->")[0].strip()
    assert table == injection.markdown([injection.Effect(**effect) for effect in study["effects"]])
    assert all(f"| {name} | {text} |" in _CARD for name, text in injection.TEXTS.items())


@pytest.mark.slow
def test_the_model_card_holds_what_is_measured(speaker):
    """Minutes. Greedy figures on another machine may differ in the last digit."""
    measured = {row.name: row.value for row in measure.measure(speaker, "test", 1000)}
    for name, cells in list(_card_rows().items())[2:]:
        assert float(cells[0]) == pytest.approx(measured[name], abs=0.012), name


def test_a_row_does_not_depend_on_its_batch(speaker, examples):
    """Left padding: greedy replies are the same alone and beside longer prompts."""
    calls = [
        model_call(PROMPTS.focus, {"image": e.image}, question=e.question + " now" * k)
        for k, e in enumerate(examples[:6])
    ]
    together = speaker.replies(calls, actor=True)
    assert together == [speaker.replies([one], actor=True)[0] for one in calls]
