"""Turns and collators: what training sees is what generation sees, token for token; replies alone carry loss."""

import copy
import dataclasses
import json

import pytest
import torch

from tests.conftest import draw_photo
from visrl_data.core import images
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.models.model_folder import find_model
from visrl_train.collator import PairCollator, SFTCollator
from visrl_train.pairs import read_pairs
from visrl_train.tokenization import Turn, Turns

pytest_plugins = ["tests.train.test_helpers"]

# The chat template of llava-hf/llava-1.5-7b-hf: no end of turn, a blank before the reply.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<|sl_image|>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)  # fmt: skip


@pytest.fixture(scope="module")
def engine(untrained):
    return TransformersEngine(find_model(str(untrained)))


@pytest.fixture(scope="module")
def turns(untrained):
    from transformers import AutoProcessor

    return Turns(AutoProcessor.from_pretrained(untrained))


@pytest.fixture(scope="module")
def pairs(scripted_run):
    return read_pairs(str(scripted_run))


def turn(i, reply="[0.100, 0.200, 0.300, 0.400]", question="what is there?"):
    return Turn(str(i), PromptSet().focus.parts(question=question), (draw_photo(i),), reply)


def rows(pairs):
    return [dataclasses.asdict(pair) for pair in pairs]


def test_the_prompt_is_the_engines_token_for_token(engine, turns, pairs):
    """All rows of a batch, both steps: ids before the reply and pixels equal what the engine encodes alone."""
    collator = PairCollator(turns, pairs.prompts, pairs.read_image, "win")
    some = pairs.pairs[:3]
    batch = collator(rows(some))
    assert batch["input_ids"].shape[0] == 12 and batch["has_response"].tolist() == [True] * 3
    seen = 0
    for i in range(12):
        pair, step = some[i % 3], (i // 3) % 2
        picture = images.decode(pairs.read_image(pair.image))
        pictures = (picture, picture.crop(tuple(pair.win_crop))) if step else (picture,)
        prompt = pairs.prompts.answer if step else pairs.prompts.focus
        asked = engine._encode([Request(prompt.parts(question=pair.question), pictures, (0,), Sampling())])
        length = asked["input_ids"].shape[1]
        assert batch["input_ids"][i, :length].tolist() == asked["input_ids"][0].tolist()
        assert batch["completion_mask"][i, :length].sum() == 0
        assert torch.equal(batch["pixel_values"][seen : seen + len(pictures)], asked["pixel_values"])
        seen += len(pictures)
    assert seen == len(batch["pixel_values"])


def test_questions_that_spell_special_tokens_are_encoded_alike(engine, turns):
    odd = turn(1, question="is <|sl_image|> a picture, and <|sl_end|> an end?")
    asked = engine._encode([Request(odd.parts, odd.images, (0,), Sampling())])["input_ids"][0].tolist()
    assert turns.encode([odd])["input_ids"][0, : len(asked)].tolist() == asked


def test_only_the_reply_and_its_end_are_learnt(turns):
    tokenizer = turns.processor.tokenizer
    batch = turns.encode([turn(1), turn(2, "7", "a much longer question about many things?")])
    learnt = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)]
    assert [tokenizer.decode(ids) for ids in learnt] == ["[0.100, 0.200, 0.300, 0.400]<|sl_end|>", "7<|sl_end|>"]
    for ids, mask in zip(batch["attention_mask"], batch["completion_mask"], strict=True):
        end = int(ids.sum())
        assert ids[:end].all() and mask[end - 1] == 1 and mask[end:].sum() == 0, "padding is on the right"


def test_special_tokens_in_a_reply_stay_text(turns):
    batch = turns.encode([turn(1, "an <|sl_end|> and <|sl_image|>")])
    learnt = batch["input_ids"][0][batch["completion_mask"][0].bool()]
    tokenizer = turns.processor.tokenizer
    marks = [int(i) for i in learnt if int(i) in tokenizer.all_special_ids]
    assert marks == [tokenizer.eos_token_id]


def test_a_template_without_an_end_of_turn(untrained):
    """LLaVA-1.5: a blank before the reply, the tokenizer's end of text after it."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(untrained)
    processor.chat_template = LLAVA_TEMPLATE
    turns = Turns(processor)
    assert turns.completion("7") == " 7<|sl_end|>"
    assert turns.prompt(turn(1)).endswith("ASSISTANT:")
    batch = turns.encode([turn(1, "7")])
    learnt = batch["input_ids"][0][batch["completion_mask"][0].bool()]
    assert processor.tokenizer.decode(learnt) == " 7<|sl_end|>"


def test_collators_leave_their_examples_alone(turns, pairs):
    examples = rows(pairs.pairs[:2])
    before = copy.deepcopy(examples)
    collator = PairCollator(turns, pairs.prompts, pairs.read_image, "win")
    first, second = collator(examples), collator(examples)
    assert examples == before
    assert all(torch.equal(first[name], second[name]) for name in first)
    lesson = {"id": "a", "question": "q", "image": pairs.pairs[0].image, "crop": [0, 0, 9, 9], "reply": "7"}
    kept = copy.deepcopy(lesson)
    made = SFTCollator(turns, pairs.prompts, pairs.read_image)([lesson])
    assert lesson == kept
    assert turns.processor.tokenizer.decode(made["labels"][made["labels"] != -100]) == "7<|sl_end|>"
    assert len(made["pixel_values"]) == 2


@pytest.mark.parametrize("rule", ["win", "own"])
def test_responses_stand_under_the_crop_that_the_option_names(turns, pairs, rule):
    pair = pairs.pairs[0]
    assert pair.win_crop != pair.lose_crop
    batch = PairCollator(turns, pairs.prompts, pairs.read_image, rule)(rows([pair]))
    picture = images.decode(pairs.read_image(pair.image))
    crops = [pair.win_crop, pair.win_crop if rule == "win" else pair.lose_crop]
    expected = [picture, picture, picture.crop(tuple(crops[0])), picture, picture, picture.crop(tuple(crops[1]))]
    pixels = turns.processor.image_processor(images=expected, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], pixels)


def test_equal_responses_leave_the_box_row(turns, pairs):
    first = dataclasses.replace(pairs.pairs[0], has_response=False)
    batch = PairCollator(turns, pairs.prompts, pairs.read_image, "win")(rows([first, pairs.pairs[1]]))
    assert batch["has_response"].tolist() == [False, True]
    assert batch["input_ids"].shape[0] == 2 * (2 + 1)
    alone = PairCollator(turns, pairs.prompts, pairs.read_image)(rows(pairs.pairs[:2]))
    assert alone["has_response"].tolist() == [False, False] and alone["input_ids"].shape[0] == 4


def test_a_processor_that_cuts_rows_is_caught(untrained):
    from transformers import AutoProcessor

    class Cutting:
        def __init__(self, inner, side):
            self._inner, self._side = inner, side

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def __call__(self, **options):
            made = self._inner(**options)
            cut = slice(5, None) if self._side == "left" else slice(None, -2)
            return {name: value[:, cut] if value.ndim == 2 else value for name, value in made.items()}

    for side in ("left", "right"):
        with pytest.raises(VisRLError, match=r"Row 1: the processor cut"):
            Turns(Cutting(AutoProcessor.from_pretrained(untrained), side)).encode([turn(1)])


def test_a_row_longer_than_the_model_reads_names_the_lever(untrained):
    from transformers import AutoProcessor

    with pytest.raises(VisRLError, match="--max-pixels"):
        Turns(AutoProcessor.from_pretrained(untrained), max_tokens=20).encode([turn(1)])


def test_a_missing_image_is_named(pairs):
    with pytest.raises(VisRLError, match="0000 is not among"):
        pairs.read_image("0000")


def test_what_is_no_run_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VisRLError, match="No finished run under runs/"):
        read_pairs(None)
    with pytest.raises(VisRLError, match="no such folder, and no Hub id"):
        read_pairs("nowhere")
    with pytest.raises(VisRLError, match="no finished run"):
        read_pairs(str(tmp_path))


def test_a_published_set_gives_the_same_pairs(scripted_run, tmp_path):
    """What a dataset folder's `preferences` hold is what the run holds."""
    from visrl_data.publishing.dataset import Stamp, build_dataset

    built = build_dataset([scripted_run], tmp_path / "set", Stamp("v1.0"))
    run, published = read_pairs(str(scripted_run)), read_pairs(str(built.folder))
    assert published.tag == "v1.0" and published.record()["pairs"] == len(run.pairs)

    def content(found):
        return sorted(dataclasses.replace(pair, id="").__repr__() for pair in found.pairs)

    assert content(published) == content(run)
    same = ("prompts", "box_space", "crop_rule")
    assert [getattr(published, name) for name in same] == [getattr(run, name) for name in same]
    sha = run.pairs[0].image
    assert published.read_image(sha) == run.read_image(sha)
    bare = build_dataset([scripted_run], tmp_path / "bare", ship_images=False)
    with pytest.raises(VisRLError, match="visrl rebuild"):
        read_pairs(str(bare.folder))


def test_the_latest_run_is_taken(scripted_run, tmp_path, monkeypatch):
    import os
    import shutil

    for name, age in (("old", 100), ("new", 10)):
        shutil.copytree(scripted_run, tmp_path / "runs" / name)
        stamp = (tmp_path / "runs" / name / "manifest.json").stat().st_mtime - age
        os.utime(tmp_path / "runs" / name / "manifest.json", (stamp, stamp))
    (tmp_path / "runs" / "unfinished").mkdir()
    monkeypatch.chdir(tmp_path)
    found = read_pairs(None)
    assert found.name == "runs/new"
    counts = json.loads((scripted_run / "manifest.json").read_text())["counts"]
    assert len(found.pairs) == counts["pairs"] > 0
