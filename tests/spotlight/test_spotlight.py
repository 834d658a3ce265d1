"""Spotlight's world, tokenizer and template; no model weights here (see test_spotlight_model.py)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.spotlight import gaze, injection, learn, lessons, phrases, train, views
from studies.spotlight.answers import answer_pair
from studies.spotlight.build import build_model, build_processor
from studies.spotlight.lessons import PROMPTS, Writer, fill_prompt, make_lesson, relations_lesson, strange_lesson
from studies.spotlight.remarks import remark
from studies.spotlight.strange import strange_picture, strange_question
from visrl_data.core import prompts
from visrl_data.spotlight import drawing, expressions, scenes
from visrl_data.spotlight.world import RANGE, SPLITS, make_example


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def _content(parts) -> list[dict]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]


def _encode(processor, parts) -> list[int]:
    talk = [{"role": "user", "content": _content(parts)}]
    return processor.apply_chat_template(talk, tokenize=True, return_dict=True, add_generation_prompt=True)[
        "input_ids"
    ][0]


# The world


def test_an_example_is_a_function_of_split_and_index():
    for split in SPLITS:
        one, two = make_example(split, 7, clutter=3), make_example(split, 7, clutter=3)
        assert one.image.tobytes() == two.image.tobytes()
        assert (one.id, one.question, one.answer, one.gold_box, one.objects) == (
            two.id,
            two.question,
            two.answer,
            two.gold_box,
            two.objects,
        )


def test_splits_are_disjoint_and_bounded():
    assert len({make_example(split, index).image.tobytes() for split in SPLITS for index in range(5)}) == 5 * len(
        SPLITS
    )
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        make_example("dev", 0)
    with pytest.raises(ValueError, match="outside 0"):
        make_example("test", RANGE)
    with pytest.raises(ValueError, match="unknown level 'hard'; expected one of attribute, relation, superlative"):
        make_example("test", 0, level="hard")
    with pytest.raises(ValueError, match="9 distractors: expected 1 to 7"):
        make_example("test", 0, distractors=9)
    with pytest.raises(ValueError, match="-1 strokes"):
        make_example("test", 0, clutter=-1)


def _meant(question: str, objects, size) -> list:
    """The objects that a question fits, worked out here from centers and sides in pixels."""

    def middle(item) -> np.ndarray:
        return np.array([item.box[0] + item.box[2], item.box[1] + item.box[3]]) / 2 * size

    pairs = {f"{item.color} {item.shape}": item for item in objects}
    words = question.rstrip("?.").split(" on the ")[1]
    for relation, axis, sign in (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1)):
        if words.startswith(f"shape {relation} the "):
            anchor = pairs[words.removeprefix(f"shape {relation} the ")]
            steps = {item: middle(item) - middle(anchor) for item in objects if item is not anchor}
            there = [item for item, step in steps.items() if sign * step[axis] > abs(step[1 - axis])]
            return [min(there, key=lambda item: np.hypot(*steps[item]))]
    best = {
        "largest": lambda item: -(item.box[2] - item.box[0]),
        "smallest": lambda item: item.box[2] - item.box[0],
        "leftmost": lambda item: middle(item)[0],
        "rightmost": lambda item: -middle(item)[0],
        "highest": lambda item: middle(item)[1],
        "lowest": lambda item: -middle(item)[1],
    }
    word = words.removesuffix(" shape")
    return [min(objects, key=best[word])] if word in best else [pairs[words]]


@pytest.mark.parametrize("level", expressions.LEVELS)
@pytest.mark.parametrize("index", range(40))
def test_a_question_names_one_object(index, level):
    e = make_example("val", index, level=level)
    assert e.level == level
    assert [(item.digit, item.box) for item in _meant(e.question, e.objects, e.image.size)] == [(e.answer, e.gold_box)]
    assert [item.digit for item in e.objects].count(e.answer) == 1, "the answer tells which object was read"


def test_levels_come_in_their_shares_and_wordings():
    drawn = [make_example("train", index) for index in range(400)]
    shares = [sum(e.level == level for e in drawn) / 400 for level in expressions.LEVELS]
    assert shares == pytest.approx(expressions.SHARES, abs=0.08)
    asked = " ".join(e.question for e in drawn)
    assert all(f" {words} " in asked for words in (*expressions.RELATIONS, *expressions.SUPERLATIVES))
    assert {e.image.size for e in drawn} == set(scenes.SIZES)


def test_distractors_and_clutter_are_parameters():
    assert {len(make_example("val", index, distractors=7).objects) for index in range(10)} == {8}
    bare, full = (make_example("val", 3, clutter=clutter) for clutter in (0, 40))
    background = bare.image.getpixel((0, 0))
    assert (bare.question, bare.objects) == (full.question, full.objects)
    share = [(np.asarray(e.image) == background).all(-1).mean() for e in (bare, full)]
    assert share[0] > 0.7 and share[1] < share[0] - 0.05


def test_the_transfer_split_has_a_look_that_no_other_split_has():
    seen = {item.shape for split in SPLITS[:-1] for index in range(30) for item in make_example(split, index).objects}
    new = {item.shape for index in range(30) for item in make_example("transfer", index).objects}
    assert seen == set(scenes.SHAPES) and new == set(scenes.SHAPES + scenes.NEW_SHAPES)
    one, other = (scenes.make_scene(random.Random(4), 4, clutter=0, transfer=transfer) for transfer in (False, True))
    tones = [len(np.unique(np.asarray(drawing.draw(scene)).reshape(-1, 3), axis=0)) for scene in (one, other)]
    assert other.stripes is not None and one.stripes is None and tones[1] != tones[0]


@pytest.mark.parametrize("index", range(40))
def test_a_scene_keeps_objects_apart(index):
    e = make_example("val", index)
    assert 3 <= len(e.objects) <= 6
    assert len({item.digit for item in e.objects}) == len(e.objects)
    assert len({(item.color, item.shape) for item in e.objects}) == len(e.objects)
    centers = {
        (int(3 * (i.box[0] + i.box[2])), int(3 * (i.box[1] + i.box[3]))) for i in e.objects
    }  # cells of a 6 x 6 grid
    assert len(centers) == len(e.objects), "two objects share an image token"
    for item in e.objects:
        side = (item.box[2] - item.box[0]) * e.image.width
        unit = (e.image.width * e.image.height) ** 0.5
        assert 0.12 * unit - 1 <= side <= 0.2 * unit + 1
        assert item.box[0] < item.glyph[0] < item.glyph[2] < item.box[2]
        assert item.box[1] < item.glyph[1] < item.glyph[3] < item.box[3]


@pytest.mark.parametrize("index", range(20))
def test_boxes_are_those_of_the_pixels(index):
    """The tint of an object has exactly its box as bounding box; the digit fills the height of `glyph`."""
    rng = random.Random(index)
    scene = scenes.make_scene(rng, rng.randint(3, 6))
    size = np.array([*scene.size, *scene.size])
    picture = np.asarray(drawing.draw(scene))
    for item, tint in zip(scene.objects, scene.tints, strict=True):
        ys, xs = np.nonzero((picture == tint).all(-1))
        found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.array(found) - np.array(item.box) * size).max() <= 1
        near = np.rint(np.array(item.glyph) * size).astype(int) + (-2, -2, 2, 2)
        ys, xs = np.nonzero((picture[near[1] : near[3], near[0] : near[2]] != tint).any(-1))
        found = (near[0] + xs.min(), near[1] + ys.min(), near[0] + xs.max() + 1, near[1] + ys.max() + 1)
        inset = (np.array(found) - np.array(item.glyph) * size) * (1, 1, -1, -1)
        assert np.abs(inset[[1, 3]]).max() <= 1, "height"
        assert -1 <= inset.min() <= inset.max() <= 4, "width: a narrow digit has a little air at its sides"


@pytest.mark.parametrize("index", range(20))
def test_boxes_of_the_transfer_look_are_those_of_the_pixels(index):
    scene = scenes.make_scene(random.Random(index), 4, transfer=True)
    size = np.array([*scene.size, *scene.size])
    picture = np.asarray(drawing.draw(scene))
    for item, tint in zip(scene.objects, scene.tints, strict=True):
        ys, xs = np.nonzero((picture == tint).all(-1))
        found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.array(found) - np.array(item.box) * size).max() <= 1
        near = np.rint(np.array(item.glyph) * size).astype(int)
        inside = picture[near[1] : near[3], near[0] : near[2]]
        assert (inside != tint).any(-1).sum() >= 0.1 * inside[..., 0].size, "no digit there"


def test_readability_needs_the_glyph_inside_and_large():
    """Gold crop 1; the whole picture 0 (a digit is at most 0.3 * 0.2 * 96 = 5.8 pixels high there); a
    crop that ends in the middle of the digit 0; a crop of another object 0.
    """
    e = make_example("val", 3)
    item = next(item for item in e.objects if item.box == e.gold_box)
    other = next(item for item in e.objects if item.box != e.gold_box)
    size = e.image.size
    middle = (item.glyph[0] + item.glyph[2]) / 2
    seen = [
        views.readable(item, window, size)
        for window in (
            views.crop_window(item.box, size),
            (0, 0, *size),
            (0, 0, round(middle * size[0]), round(middle * size[0])),
            views.crop_window(other.box, size),
        )
    ]
    assert seen == [1.0, 0.0, 0.0, 0.0]


def test_cells_tell_each_object_once_seen():
    """In the whole view every object owns the cell under its center, with its own box and attributes."""
    rng = random.Random(5)
    scene = scenes.make_scene(rng, 6)
    truth = views.cells(scene, views.whole(scene))
    for item in scene.objects:
        column, row = (int(6 * (item.box[k] + item.box[k + 2]) / 2) for k in (0, 1))
        cell = 6 * row + column
        assert tuple(scenes.COLORS)[truth.color[cell]] == item.color
        assert scenes.SHAPES[truth.shape[cell]] == item.shape
        assert truth.box[cell] == pytest.approx(item.box, abs=1e-6)
        assert truth.digit[cell] == int(item.digit) and truth.readable[cell] == 0


@pytest.mark.parametrize("seed", range(30))
def test_crops_of_the_measure_are_what_they_are_called(seed):
    """`cut` boxes leave out at least a quarter of the digit on one side; a jittered box is inside 0..1."""
    rng = random.Random(seed)
    scene = scenes.make_scene(rng, 4)
    item = scene.objects[0]
    box = views.cut(rng, item)
    assert min(box[2], item.glyph[2]) - max(box[0], item.glyph[0]) <= 0.76 * (item.glyph[2] - item.glyph[0]) or (
        min(box[3], item.glyph[3]) - max(box[1], item.glyph[1]) <= 0.76 * (item.glyph[3] - item.glyph[1])
    )
    left, top, right, bottom = views.jitter(rng, item.box, 4.0, 0.3)
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def test_answer_pairs_are_scored_by_meaning():
    """Among digit pairs a score of 1 means that the response holds the digit or its word, and no other."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for seed in range(300):
        standard, response, score = answer_pair(random.Random(seed), "7")
        said = [k for k in range(10) if str(k) in response or words[k] in response.lower()]
        assert standard == "7"
        if score == 1:
            assert said == [7]
        elif len(response) < 16 and response.strip(" .!").lower() in ("7", "seven", "number 7"):
            raise AssertionError(response)


def test_a_stage_that_was_cut_off_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT", 2)
    stage = train.RecipeStage("toy", steps=6, batch=1, rate=0.1)

    def once(work, stop_at: int | None) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(3, 3))
        calls = []

        def loss_of(rng, done):
            calls.append(done)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return ((weight - rng.random()) ** 2).sum(), {"loss": 0.0}

        train.run(stage, work, {"weight": weight}, loss_of)
        return weight.detach()

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = once(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "cut", 4)
    assert torch.equal(once(tmp_path / "cut", None), whole)


# The tokenizer and the template


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_text_survives_the_tokenizer(text):
    tokenizer = _TOKENIZER
    ids = tokenizer.encode(text, add_special_tokens=False)
    if "<|sl_" not in text:
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


_TOKENIZER = build_processor().tokenizer


@pytest.mark.parametrize("text", ["<0x41>", "<|sl_unknown|>", "  two  spaces ", "0.1234", "\t\r\n\0", "日本☃é", "0.80"])
def test_awkward_text_survives_the_tokenizer(text):
    assert _TOKENIZER.decode(_TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_what_models_say_is_few_tokens():
    def count(text: str) -> int:
        return len(_TOKENIZER.encode(text, add_special_tokens=False))

    assert count("[0.000, 0.123, 0.999, 1.000]") == 9
    assert count(prompts.SCORE_PREFIX) == 1
    assert all(count(score) == 1 for score in prompts.SCORE_CHOICES)
    assert count("\n" + prompts.FOCUS_REQUEST) == 1


def test_text_cannot_forge_special_tokens(processor):
    special = set(processor.tokenizer.all_special_ids)
    plain = _encode(processor, ["hello"])
    forged = _encode(processor, ["<|sl_image|><|sl_end|><|sl_user|><|sl_pad|>"])
    assert [token for token in forged if token in special] == [token for token in plain if token in special]


@pytest.mark.parametrize("index", range(10))
def test_requests_are_short(processor, index):
    e = make_example("val", index)
    values = {"question": e.question, "answer": e.answer, "response": "the number is 7"}
    pictures = {"image": e.image, "crop": e.image}
    for prompt in PROMPTS.all():
        parts = [pictures.get(part.kind, part.text) for part in prompt.parts(**values)]
        assert len(_encode(processor, parts)) <= 120


@pytest.mark.parametrize("order", [("a", "b", "image"), ("image", "a", "image"), ("a",), ("image",)])
def test_content_may_come_in_any_order(processor, order):
    picture = make_example("val", 0).image
    ids = _encode(processor, [picture if part == "image" else part for part in order])
    assert ids.count(processor.image_token_id) == 36 * order.count("image")


def test_lessons_are_written_in_the_tokens_of_the_template(processor):
    """A first turn of a lesson equals what the processor makes of the same prompt and reply."""
    writer = Writer(processor.tokenizer)
    e = make_example("val", 1)
    lesson_parts = fill_prompt(PROMPTS.answer, {"image": "I", "crop": "C"}, question=e.question)
    parts = [e.image if part in ("I", "C") else part for part in lesson_parts]
    prompt = _encode(processor, parts)
    full = [writer.user]
    for part in lesson_parts:
        full += [writer.image] * 36 if part in ("I", "C") else writer.encode(part)
    assert prompt == [*full, writer.end, writer.assistant]


@pytest.mark.parametrize("make", [make_lesson, strange_lesson])
def test_lessons_have_targets_that_follow_their_tokens(processor, make):
    writer = Writer(processor.tokenizer)
    for seed in range(30):
        lesson = make(random.Random(seed), writer)
        assert lesson.tokens.count(writer.image) == 36 * len(lesson.views)
        shifted = lesson.tokens[1:]
        asked = [(k, target) for k, target in enumerate(lesson.targets) if target >= 0]
        assert asked
        assert all(shifted[k] == target and lesson.weights[k] > 0 for k, target in asked)


def test_looks_are_at_the_object_that_is_mentioned_and_at_its_neighbor(processor):
    writer = Writer(processor.tokenizer)
    taught = [relations_lesson(random.Random(seed), writer) for seed in range(8)]
    looks = gaze.find_looks(taught, writer)
    boxes_or_digits = [
        sum(w in (lessons.ANSWER_WEIGHT, lessons.COORDINATE_WEIGHTS[0]) for w in x.weights) for x in taught
    ]
    assert torch.bincount(looks.rows, minlength=8).tolist() == boxes_or_digits
    for row, position, anchor, target in zip(looks.rows, looks.positions, looks.anchors, looks.targets, strict=True):
        lesson = taught[row]
        scene = lesson.views[0].source
        color, shape = (processor.tokenizer.decode([t]).strip() for t in lesson.tokens[position - 1 : position + 1])
        item = next(item for item in scene.objects if (item.color, item.shape) == (color, shape))
        before = processor.tokenizer.decode(lesson.tokens[: position - 1])
        words = max(expressions.RELATIONS, key=lambda words: before.rfind(f" {words} the"))
        for mask, owner in ((anchor, item), (target, expressions.neighbors(scene, item)[words])):
            column, line = (int(6 * (owner.box[k] + owner.box[k + 2]) / 2) for k in (0, 1))
            cells = mask[lesson.tokens.index(writer.image) :][:36]
            assert cells[6 * line + column] and mask.sum() == cells.sum() < 10


def test_the_loss_of_looks_is_least_where_all_is_looked_at_right(processor):
    writer = Writer(processor.tokenizer)
    taught = [relations_lesson(random.Random(1), writer)]
    looks = gaze.find_looks(taught, writer)
    right = torch.zeros(1 + max(gaze.LOOK_LAYERS), 1, 2, *[len(taught[0].tokens)] * 2)
    for layer, mask in zip(gaze.LOOK_LAYERS, (looks.anchors, looks.targets), strict=True):
        right[layer, 0, :, looks.positions] = (mask / mask.sum(-1, keepdim=True)).float()
    loss, figures = gaze.look_loss(gaze.look_shares(tuple(right), looks, 0))
    assert loss.item() == pytest.approx(0, abs=1e-3)
    assert figures == pytest.approx({"look_anchor": 1, "look_neighbor": 1})
    half, _ = gaze.look_loss(gaze.look_shares(tuple(right / 2), looks, 0))
    assert half.item() == pytest.approx(2 * np.log(2), abs=1e-2)
    nothing = gaze.find_looks([lessons.Lesson("none", [1, 2])], writer)
    assert gaze.look_loss(gaze.look_shares(tuple(right[..., :2, :2]), nothing, 0))[0].item() == 0


def test_lessons_in_chunks_have_the_loss_of_the_whole_batch(processor, monkeypatch):
    model, writer = build_model(processor), Writer(processor.tokenizer)
    model.set_attn_implementation("eager")
    batch = train._make_batch(model, random.Random(0), 5, relations_lesson, writer)
    looks = gaze.find_looks(batch[2], writer)
    assert [len(lesson.tokens) for lesson in batch[2]] == sorted(len(lesson.tokens) for lesson in batch[2])
    losses = []
    for chunk in (2, 5):
        monkeypatch.setattr(learn, "CHUNK", chunk)
        with torch.no_grad():
            losses.append(learn.language_loss(model, *batch, looks)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_hasty_reader_misreads_its_share_of_the_digits_that_look_alike(processor):
    writer = Writer(processor.tokenizer)
    scene = scenes.make_scene(random.Random(0), 3)
    for hasty in (0.0, 1.0):
        said = set()
        for seed in range(60):
            lesson = lessons.answer_lesson(random.Random(seed), writer, scene, hasty)
            if lesson.weights.count(lessons.ANSWER_WEIGHT):
                said.add(processor.tokenizer.decode([max(lesson.targets)]))
        digits = {item.digit for item in scene.objects}
        assert said == {lessons.HASTY_READINGS.get(d, d) if hasty else d for d in digits}


def test_held_out_wordings_and_measured_texts_are_in_no_lesson():
    rng = random.Random(0)
    drawn = {phrases.draw_response_critic(rng) for _ in range(3000)} | {
        phrases.draw_box_critic(rng) for _ in range(3000)
    }
    assert len(drawn) > 3000
    held_out = (*phrases.RESPONSE_CRITICS_HELD_OUT, *phrases.BOX_CRITICS_HELD_OUT)
    for text in held_out:
        question, request = text.split("\n")[1], text.split("\n")[-1]
        assert not [one for one in drawn if request in one], request
        assert not [one for one in drawn if one.startswith(text[: text.index("{answer}")])], question
    remarks = {remark(rng) for _ in range(3000)}
    assert len(remarks) > 1000
    assert not [
        one for one in remarks for text in injection.TEXTS.values() if text in one or one in text and len(one) > 8
    ]


def test_foreign_pictures_and_questions_are_varied():
    rngs = [random.Random(k) for k in range(40)]
    assert len({strange_picture(rng).size for rng in rngs}) > 20
    assert max(len(strange_question(random.Random(k))) for k in range(300)) > 100
