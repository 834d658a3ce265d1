"""Shared beginnings and kept features (engines/prefix_cache.py) change no reply, in any family that has them."""

import dataclasses

import pytest
import torch

from tests.conftest import draw_photo
from tests.helpers.tiny_families import TINY, VARIANTS, stand_ins
from tests.tools.family_table import model_folder
from visrl_data.core.prompts import SCORE_CHOICES, SCORE_PREFIX, PromptSet
from visrl_data.engines import batching, image_encoder
from visrl_data.engines.batching import batches
from visrl_data.engines.image_encoder import EncodedImage
from visrl_data.engines.prefix_cache import TokenizedPrompt, group_by_prefix
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.models.families import family_of
from visrl_data.models.model_folder import find_model

SHARING = [name for name in TINY | VARIANTS if family_of(name).shares_prefix]
ALL = list(TINY | VARIANTS)
HOT = Sampling(temperature=1.5, top_k=20, max_new_tokens=6)
PROMPTS = PromptSet()


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory):
    """An engine on a tiny model of a family whose replies depend on what it sees."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch)

        def build(name):
            if name not in made:
                folder = model_folder(name, tmp_path_factory.mktemp(name), seed=1)
                made[name] = TransformersEngine(find_model(str(folder)), batch_size=12)
            return made[name]

        yield build


def passes(score):
    """The requests of three questions on pictures of three shapes: boxes, answers (two under one crop), verdicts."""
    focus, answer, verdict = [], [], []
    for i, size in enumerate([(120, 90), (60, 130), (100, 100)]):
        image, question = draw_photo(i, size), "what is there?" + " and there?" * i
        crops = [image.crop((5 * k, 5, 5 * k + 30, 45)) for k in range(4)]
        focus.append(Request(PROMPTS.focus.parts(question=question), (image,), tuple(range(6)), HOT))
        for k, crop in enumerate([*crops, crops[1]]):
            answer.append(Request(PROMPTS.answer.parts(question=question), (image, crop), (10 * i + k,), HOT))
        for response in ("7", "a long answer of words", "seven"):
            parts = PROMPTS.response_critic.parts(question=question, answer="7", response=response)
            verdict.append(Request(parts, (image,), (0,), Sampling(max_new_tokens=6), **score))
        for crop in crops:
            parts = PROMPTS.box_critic.parts(question=question, answer="7")
            verdict.append(Request(parts, (crop,), (0,), Sampling(max_new_tokens=6), **score))
    return [focus, answer, verdict]


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("score", [{}, {"prefix": SCORE_PREFIX, "choices": SCORE_CHOICES}], ids=["text", "expected"])
def test_replies_are_those_of_prompts_read_one_by_one(engine_of, name, score, monkeypatch):
    engine = engine_of(name)
    assert engine._prefiller is not None
    shared = [engine.generate(requests) for requests in passes(score)]
    monkeypatch.setattr(engine, "_prefiller", None)
    plain = [engine.generate(requests) for requests in passes(score)]
    distinct = {reply.text for group in plain[0] + plain[1] for reply in group}
    assert len(distinct) > 20, "replies must depend on what is seen"
    for ours, theirs in zip(shared, plain, strict=True):
        for a, b in zip([r for g in ours for r in g], [r for g in theirs for r in g], strict=True):
            assert (a.text, a.finish, a.prompt_tokens, a.completion_tokens) == (
                b.text, b.finish, b.prompt_tokens, b.completion_tokens
            )  # fmt: skip
            assert a.choice_probs == pytest.approx(b.choice_probs, abs=1e-5)
            assert a.choice_mass == (None if b.choice_mass is None else pytest.approx(b.choice_mass, abs=1e-5))


@pytest.mark.parametrize("name", [name for name in ALL if name not in SHARING and family_of(name).shares_prefill])
def test_replies_from_one_repeated_prefill_are_those_of_prompts_read_one_by_one(engine_of, name):
    engine, requests = engine_of(name), passes({})[0]
    assert engine._prefiller is None
    together = [reply for group in engine.generate(requests) for reply in group]
    apart = [dataclasses.replace(request, seeds=(seed,)) for request in requests for seed in request.seeds]
    assert together == [group[0] for group in engine.generate(apart)]
    assert len({reply.text for reply in together}) > 9, "replies must depend on what is seen"


@pytest.mark.parametrize("name", [name for name in ALL if name != "paligemma"])  # whose prompts attend to their ends
def test_choices_that_begin_alike_are_read_after_their_shared_tokens(engine_of, name):
    """As with "0.3" and "0.7" of a tokenizer that splits off digits: after "0", after "0." and so on."""
    engine = engine_of(name)

    def ask(prefix, *choices):
        parts = PROMPTS.box_critic.parts(question="what?", answer="7")
        requests = [
            Request(parts, (draw_photo(i, size),), (0,), Sampling(), prefix=prefix, choices=choices)
            for i, size in enumerate([(120, 90), (60, 130)])
        ]
        return [group[0].choice_probs for group in engine.generate(requests)]

    after, along = ask("is it red", " and", " or"), ask("is it", " red and", " red or")
    for one, other in zip(after, along, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("name", SHARING)
def test_each_picture_is_encoded_once_and_each_beginning_read_once(engine_of, name, monkeypatch):
    engine = engine_of(name)
    engine._prefiller.images.clear()
    looked, read = [], []
    encode, forward = engine._prefiller.images._encode, engine._prefiller._forward
    monkeypatch.setattr(
        engine._prefiller.images, "_encode", lambda pictures: looked.append(len(pictures)) or encode(pictures)
    )
    monkeypatch.setattr(
        engine._prefiller, "_forward", lambda ids, *rest: read.append(tuple(ids.shape)) or forward(ids, *rest)
    )
    focus, answer, _ = requests = passes({})
    engine.generate(focus)
    assert sum(rows for rows, _ in read) == 3, "each question is read once"
    del read[:]
    engine.generate(answer)
    assert sum(rows for rows, _ in read) == 3 + 3 * 4, "the beginning for each question, the rest for each crop"
    engine.generate(requests[2])
    assert sum(looked) == 3 + 3 * 4, "three images and their four distinct crops"


def test_kept_features_are_bounded(engine_of, monkeypatch):
    engine = engine_of("llava")
    encoder = engine._prefiller.images
    encoder.clear()
    images = [draw_photo(i, (40, 40)) for i in range(6)]
    with torch.inference_mode():
        one = encoder.encode(images[:1], False)[0].features.nbytes
        one = max(one, 3 * 40 * 40)  # the image itself counts too, where it is larger than its features
        monkeypatch.setattr(image_encoder, "KEPT_BYTES", 3 * one)
        found = encoder.encode(images, False)
        assert len(found) == 6 and len(encoder._kept) == 3
        assert encoder.encode(images[5:], False)[0] is found[5], "the latest are kept"
        assert encoder.encode(images[:1], False)[0] is not found[0]


def seen(tokens):
    return EncodedImage(None, torch.zeros(tokens, 2))


def test_a_beginning_never_cuts_a_picture_and_leaves_a_token():
    """0 is the placeholder. The crops' runs begin alike; only what lies before them is shared."""
    image, one, two = seen(3), seen(2), seen(4)
    a = TokenizedPrompt([5, 0, 0, 0, 6, 0, 0, 7], (image, one))
    b = TokenizedPrompt([5, 0, 0, 0, 6, 0, 0, 0, 0, 7], (image, two))
    assert group_by_prefix([a, b], 0) == ([[0, 1]], [5])
    c = TokenizedPrompt([5, 0, 0, 0, 6], (image,))
    d = TokenizedPrompt([5, 0, 0, 0, 6, 8], (image,))
    assert group_by_prefix([c, d], 0) == ([[0, 1]], [4]), "the last token of the shorter is read apart"
    other = TokenizedPrompt([5, 0, 0, 0, 6], (seen(3),))
    assert group_by_prefix([c, other], 0) == ([[0], [1]], [4, 4]), "another picture begins another group"
    early = TokenizedPrompt([9, 0, 0, 0, 6], (image,))
    assert group_by_prefix([c, early], 0) == ([[0, 1]], [0])


def test_a_batch_of_huge_images_is_small(monkeypatch):
    monkeypatch.setattr(batching, "MAX_PIXELS", 2 * 80 * 80)
    pictures = [draw_photo(i, (80, 80)) for i in range(5)]
    apart = [Request((), (picture,), (0,), HOT) for picture in pictures]
    assert batches(apart, 32) == [[0, 1], [2, 3], [4]]
    crops = [Request((), (pictures[0], picture), (0,), HOT) for picture in pictures]
    assert batches(crops, 32) == [[0], [1], [2], [3], [4]], "the crops count, the shared image once"
    small = [Request((), (draw_photo(i, (20, 20)),), (0,), HOT) for i in range(8)]
    assert batches(small, 32) == [[*range(8)]]


def test_batches_keep_a_question_together_and_sort_by_size():
    large, small = draw_photo(0, (80, 80)), draw_photo(1, (20, 20))

    def ask(image, n, seeds=1):
        return [Request((), (image,), tuple(range(seeds)), HOT) for _ in range(n)]

    assert batches([*ask(large, 3), *ask(small, 3)], 4) == [[3, 4, 5], [0, 1, 2]]
    assert batches([*ask(large, 3), *ask(small, 3)], 8) == [[3, 4, 5], [0, 1, 2]], "little padding"
    assert batches([*ask(large, 3), *ask(small, 3)], 8, sizes_vary=False) == [[0, 1, 2, 3, 4, 5]]
    medium = draw_photo(2, (70, 80))
    assert batches([*ask(large, 3), *ask(medium, 3)], 8) == [[3, 4, 5, 0, 1, 2]]
    assert batches(ask(large, 5), 2) == [[0, 1], [2, 3], [4]], "a question larger than a batch is cut"
    assert batches([*ask(small, 1, 6), *ask(small, 1, 2)], 6) == [[0], [1]], "only alike requests run together"
    assert batches([], 4) == []
