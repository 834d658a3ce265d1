"""The table of families: what it says is what the processors and the models of transformers do.

The models are tiny and untrained; the processors, and so what becomes of a picture, are the real ones.
"""

import dataclasses
import importlib.util
import json
import logging
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import draw_photo, scripted_reply
from tests.helpers.tiny_families import TINY, WITH_TORCHVISION, save, stand_ins
from tests.tools.family_table import about_families, run_family
from visrl_data.core.boxes import SPACES, box_tokens, make_frame
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import FOCUS, SCORE_GRAMMAR, PromptSet, load_prompts, parse_score
from visrl_data.engines.image_processing import limit_pixels, picture_size, picture_tokens, read_settings, show_whole
from visrl_data.engines.loading import load_model, load_processor
from visrl_data.engines.protocol import Request, Role, Sampling
from visrl_data.engines.quantization import empty_model
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.models import families
from visrl_data.models.families import FAMILIES, family_of, known_prompts, untuned_family
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline import factory, model_pair
from visrl_train.tokenization import Turns

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
WIDE = Image.new("RGB", (640, 480), "grey")


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    stand_ins(monkeypatch)


@pytest.fixture(scope="module")
def processors():
    """The processor of each family, made once."""
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch)
        yield {name: build()[0] for name, build in TINY.items()}


@pytest.fixture
def un_tuned(tmp_path):
    """A function: the folder of a model that nothing was taught."""
    return lambda name: find_model(str(save(TINY[name], tmp_path / name)))


# -- the table ---------------------------------------------------------------------------------------


def test_the_table_names_real_things():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as known

    types = [name for family in FAMILIES for name in family.types]
    assert len(types) == len(set(types))
    for family in FAMILIES:
        assert family.box_space in SPACES
        loadable = {name.partition(":")[0] for name in family.types}.issubset(known)
        assert family.unsupported or loadable, family.name
        assert not family.focus or {"<image>"} <= set(family.focus.split("\n")) and "{question}" in family.focus
    loaded = [family for family in FAMILIES if not family.unsupported]
    tried = {family_of(name) for name in TINY | WITH_TORCHVISION}
    assert tried == set(loaded), "each family of the table is tried below, those with torchvision where it is"


def test_the_page_shows_the_table():
    assert about_families() in DOCS.read_text(encoding="utf-8"), "print it with family_table.about_families()"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "minicpmo"}, "could not be loaded, being of the family MiniCPM-o: .*chat of its own"),
        ({"model_type": "yi_vl"}, "family Yi-VL: .*Convert it"),
        ({"model_type": "kimi_vl"}, "family Kimi-VL: .*--engine openai"),
        ({"model_type": "phi4mm"}, "family Phi-4 multimodal: .*--engine openai"),
        ({"model_type": "florence2"}, "family Florence-2: .*Use PaliGemma 2"),
        ({"model_type": "kosmos-2.5"}, "family Kosmos-2 and 2.5: .*Use PaliGemma 2"),
        ({"model_type": "llava", "mm_vision_tower": "clip"}, "original LLaVA layout"),
    ],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_what_transformers_lacks_is_named_with_what_to_do(config, message, trusted, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(VisRLError, match=message):
        load_processor(find_model(str(tmp_path)), None, trusted)


def test_remote_code_that_is_trusted_and_fits_is_tried(tmp_path):
    about = {"model_type": "minicpmo", "auto_map": {"AutoModelForImageTextToText": "modeling.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    families.check_loadable("m", tmp_path, trust_remote_code=True)
    with pytest.raises(VisRLError, match="MiniCPM-o"):
        families.check_loadable("m", tmp_path, trust_remote_code=False)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
@pytest.mark.parametrize("load", [empty_model, lambda folder: load_model(folder, torch.float32, False)])
def test_a_package_that_is_missing_is_named_with_how_to_install_it(load, un_tuned, monkeypatch):
    folder = un_tuned("gemma3n")
    monkeypatch.undo()
    with pytest.raises(VisRLError, match=r"gemma3n could not be .* requires the timm .* pip install timm\.$"):
        load(folder)


# -- pictures ----------------------------------------------------------------------------------------

# (width, height) of 640 x 480 with the small sizes of tiny_parts.py; by hand. Squashed: 56 x 56. LLaVA-NeXT: the
# 112 x 112 grid holds 112 x 84. Qwen: at most 84 x 84, or 96 x 96, in multiples of 28, or 32. Mllama: two tiles beside
# each other are 112 x 56, which 74 x 56 fills. Idefics3: 112 long, up to whole tiles. InternVL: 4 : 3 is nearest to a
# square of tiles. MiniCPM-V: two slices, of 112 x 112 each up to rounding. Gemma 4: at most 140 tokens of 12 x 12.
# GLM: as Qwen, from 2 frames of 84 x 84. Ovis 2: the grid of up to 4 tiles that shows most of it.
# LFM2-VL: of up to 4 tiles, 2 x 2 are the nearest shape. Molmo 2: 2 x 2 crops of 56 x 56 that overlap by half.
# Llama 4: 640 x 480 fills 112 x 84 of four tiles. Pixtral: 112 long, in patches of 14. Kimi: 36 of 45 x 34 patches, so
# sides are scaled by the root of 36 / 1530.
SEEN = {
    "llava": (56, 56), "paligemma": (56, 56), "gemma3": (56, 56), "llava_next": (112, 84), "llava_onevision": (112, 84),
    "qwen2_vl": (84, 56), "qwen2_5_vl": (84, 56), "qwen3_vl": (96, 64), "qwen3_5": (96, 64), "mllama": (74, 56),
    "idefics3": (112, 112), "smolvlm": (112, 112), "internvl": (112, 112), "minicpmv4_6": (224, 112),
    "llava:pixtral": (112, 84), "mistral3": (112, 84), "kimi_k25": (98, 73), "ernie4_5_vl_moe": (84, 56),
    "llama4": (112, 84), "aya_vision": (112, 112), "cohere2_vision": (112, 112),
    "gemma4": (156, 120), "glm4v": (84, 56), "gemma3n": (56, 56), "ovis2": (112, 112), "lfm2_vl": (112, 112),
    "molmo2": (84, 84), "qwen4_exp": (96, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_the_size_of_a_picture_is_what_the_processor_makes(processors, name):
    assert picture_size(processors[name], WIDE) == SEEN[name]


@pytest.mark.parametrize("name", TINY)
def test_max_pixels_bounds_pictures_or_says_that_it_does_not(name, caplog):
    processor, model = TINY[name]()
    family, large = family_of(name), Image.new("RGB", (600, 600))
    before, most = picture_tokens(processor, large), 56 * 56
    with caplog.at_level(logging.WARNING):
        limit_pixels(processor, family, most, "it")
    width, height = picture_size(processor, large)
    if family.resolution_control:
        least = {"minicpmv4_6": 112 * 112, "gemma4": 70 * 12 * 12}.get(name, 56 * 56)  # a tile, or as few tokens
        above = 1.05 if family.resolution_control == "patch_count" else 1  # parts of patches do not count
        assert width * height <= max(above * most, least) and picture_tokens(processor, large) < before
        assert not caplog.text
    else:
        assert picture_tokens(processor, large) == before
        assert "it resizes all images to one size: --max-pixels has no effect" in caplog.text


@pytest.mark.parametrize("name", [name for name in TINY if family_of(name).resolution_control])
def test_a_bound_above_all_pictures_changes_nothing(processors, name):
    before = picture_size(processors[name], WIDE), picture_tokens(processors[name], WIDE)
    processor, _ = TINY[name]()
    bounds = read_settings(processor, family_of(name), None)["bounds"]
    limit_pixels(processor, family_of(name), bounds.get("max_pixels", 10**9), "it")
    assert (picture_size(processor, WIDE), picture_tokens(processor, WIDE)) == before


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_a_model_with_grids_of_its_own_follows_the_bound(name, un_tuned):
    engine = TransformersEngine(un_tuned(name), max_pixels=56 * 112)
    request = Request(PromptSet().focus.parts(question="q"), (draw_photo(1),), (1, 2), Sampling(1.0, max_new_tokens=4))
    assert len(engine.generate([request])[0]) == 2
    assert engine.model.config.image_grid_pinpoints == engine.processor.image_processor.image_grid_pinpoints


def test_llavas_picture_is_padded_as_it_was_trained():
    """The Hub's LLaVA-1.5 cuts the ends off; its boxes are fractions of the padded square."""
    from transformers import CLIPImageProcessorPil

    processor, _ = TINY["llava"]()
    processor.image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, do_center_crop=True
    )
    long = Image.new("RGB", (400, 100), "black")
    long.paste("white", (0, 0, 100, 100))
    show_whole(processor, family_of("llava"))
    pixels = processor.image_processor(images=[long], return_tensors="pt")["pixel_values"][0]
    assert pixels.shape[-2:] == (56, 56)
    bright, dark, grey = pixels[:, 28, 5], pixels[:, 28, 40], pixels[:, 5, 28]
    assert (bright > grey + 1).all() and (grey > dark + 1).all(), "white end, black middle, grey bars above"
    assert picture_size(processor, long) == (56, 14)
    left = make_frame("unit_padded_square", long.size).parse("[0.000, 0.375, 0.250, 0.625]")[0]
    assert make_frame("unit_padded_square", long.size).to_unit(left).xyxy == (0, 0, 0.25, 1)


def test_a_first_token_that_a_processor_adds_is_part_of_the_prompt(tmp_path):
    """Molmo 2's adds one to each text, which its chat template on the Hub lacks."""
    folder = save(TINY.get("molmo2") or pytest.skip("torchvision is not installed"), tmp_path / "molmo2")
    processor = load_processor(find_model(str(folder)), None, False)
    whole = processor.chat_template
    processor.chat_template = whole.removeprefix("<|bos|>")
    processor.save_pretrained(folder)
    again = load_processor(find_model(str(folder)), None, False)
    assert again.chat_template == whole == load_processor(find_model(str(folder)), None, False).chat_template


# -- conventions of the un-tuned model ---------------------------------------------------------------


def test_an_un_tuned_model_is_asked_in_its_familys_way(un_tuned, photo_source, caplog):
    model = un_tuned("qwen2_5_vl")
    config = GenConfig(model=model.id, source=str(photo_source), device="cpu")
    with caplog.at_level(logging.WARNING):
        built = factory.build(config)
    assert built.box_space == "resized_pixels_json" and "JSON" in built.prompts.focus.template
    assert built.prompts.answer == PromptSet().answer
    assert built.identity["zero_shot"] == "Qwen2.5-VL"
    assert built.prompts.focus.id in built.identity["prompts"] and built.identity["box_space"] == built.box_space
    assert caplog.text.count("records no box space") == 1 and "resized_pixels_json" in caplog.text


def test_an_explicit_box_space_or_prompt_wins(un_tuned, tmp_path):
    model = un_tuned("qwen2_5_vl")
    space, _ = model_pair.resolve_box_settings(
        GenConfig(model=model.id, box_space="unit"), model, model_pair.native_space(model)
    )
    assert space == "unit" and known_prompts(model, space).focus.template == FOCUS
    file = tmp_path / "mine.toml"
    file.write_text('focus = "<image>\\nWhere? {question}"\n')
    assert load_prompts(file, known_prompts(model, "resized_pixels_json")).focus.template.endswith("Where? {question}")


def test_a_trained_model_keeps_its_box_space_and_its_prompts(un_tuned):
    folder = un_tuned("qwen2_5_vl").path
    asked = "<image>\nWhere is it? {question}"
    record = {"box_space": "per_mille", "prompts": {"focus@12345678": asked, "answer@0": asked + "\n<crop>"}}
    (folder / "visrl.json").write_text(json.dumps(record))
    model = find_model(str(folder))
    assert untuned_family(model) is None and model_pair.native_space(model) == "unit"
    assert known_prompts(model, "per_mille").focus.template == asked


def test_the_shipped_model_is_asked_as_it_always_was():
    model = find_model("spotlight")
    assert untuned_family(model) is None and known_prompts(model, "unit") == PromptSet()


def test_an_unknown_family_gets_the_defaults_and_that_is_said(tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "brand_new"}))
    model = find_model(str(tmp_path))
    assert model_pair.native_space(model) == "unit" and known_prompts(model, "unit") == PromptSet()
    with caplog.at_level(logging.WARNING):
        model_pair._zero_shot(GenConfig(), model, "unit", PromptSet())
    assert "No known family, so the defaults are used" in caplog.text


MARKED = ["qwen2_vl", "internvl", "minicpmv4_6", "paligemma", "glm4v"]


@pytest.mark.parametrize("name", MARKED)
def test_what_a_tokenizer_hides_of_a_box_is_not_missed(processors, name):
    """Marks are special tokens, which replies are decoded without; PaliGemma's locs are ordinary ones and stay."""
    tokenizer, bound = processors[name].tokenizer, make_frame(family_of(name).box_space, (640, 480))
    text = bound.text((12, 34, 567, 890))
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    marked = [tokenizer.convert_tokens_to_ids(mark) in tokens for mark in box_tokens(text)]
    assert marked and all(marked), "each mark is one token"
    read = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert (read == text) == (name == "paligemma")
    assert bound.parse(read) == bound.parse(text) == ((12, 34, 567, 890), "ok")


@pytest.mark.parametrize("name", MARKED)
def test_training_writes_the_marks_of_a_box_as_tokens_and_no_others(processors, name):
    turns, tokenizer = Turns(processors[name]), processors[name].tokenizer
    text = make_frame(family_of(name).box_space, (640, 480)).text((12, 34, 567, 890))
    assert turns.completion(text).removesuffix(turns._end).endswith(text)
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for mark in special & set(box_tokens(text)):
        assert mark not in turns.completion(f"It says {mark}."), "in an answer a mark is text"


# -- grammars ----------------------------------------------------------------------------------------


def matcher(tokenizer, grammar):
    from visrl_data.engines.decoding import GrammarCompiler

    (found,) = GrammarCompiler(tokenizer, [tokenizer.eos_token_id]).matchers([grammar], len(tokenizer))
    return found


def taken(tokenizer, grammar, text):
    """How many of a text's tokens its grammar takes, and whether it is complete then."""
    found, tokens = matcher(tokenizer, grammar), tokenizer(text, add_special_tokens=False)["input_ids"]
    return found.validate_tokens(tokens) == len(tokens) and found.consume_tokens(tokens) and found.is_accepting()


@pytest.mark.parametrize("space", SPACES)
def test_a_grammar_takes_the_canonical_texts_of_its_space(processors, space):
    tokenizer = processors["qwen2_vl"].tokenizer
    bound = make_frame(space, (640, 427), (644, 420))
    left, top, right, bottom = bound.bounds
    for cells in ((left, top, right, bottom), (left, top, left + 1, top + 1), (right - 7, 200, right, 411)):
        assert taken(tokenizer, bound.grammar, bound.text(cells)), bound.text(cells)
    beyond = bound.format.write((0, 0, bound.x.top + 1, 5))
    assert not taken(tokenizer, bound.grammar, beyond), beyond
    assert not taken(tokenizer, bound.grammar, bound.text(bound.bounds) + bound.text(bound.bounds))


def test_the_grammar_of_scores():
    tokenizer = TINY["llava"]()[0].tokenizer
    for tenth in range(11):
        assert taken(tokenizer, SCORE_GRAMMAR, f'{{"score": {tenth / 10}}}')
    for wrong in ('{"score": 1.1}', '{"score": 2}', '{"score": 0.85}', "0.8"):
        assert not taken(tokenizer, SCORE_GRAMMAR, wrong)


def test_replies_are_held_row_by_row_to_grammars_of_their_own(un_tuned):
    """Two pictures of other shapes in one batch: each row keeps to the range of its own picture."""
    model = un_tuned("qwen2_5_vl")
    engine = TransformersEngine(model)
    pictures = (draw_photo(1, (200, 60)), draw_photo(2, (60, 200)))
    frames = [make_frame("resized_pixels_json", picture.size, engine.resized_size(picture)) for picture in pictures]
    hot = Sampling(temperature=5.0, max_new_tokens=64)
    parts = PromptSet().focus.parts(question="q")
    requests = [
        Request(parts, (picture,), tuple(range(8)), hot, grammar=bound.grammar)
        for picture, bound in zip(pictures, frames, strict=True)
    ]
    together = engine.generate(requests)
    for bound, group in zip(frames, together, strict=True):
        states = {bound.parse(reply.text)[1] for reply in group}
        assert states <= {"ok", "reversed", "degenerate"} and {reply.finish for reply in group} == {"stop"}
    assert len({reply.text for group in together for reply in group}) > 12
    alone = [engine.generate([request])[0] for request in requests]
    assert together == alone, "a grammar, too, knows nothing of a row's neighbours"


def test_greedy_scores_are_held_too_where_the_prefill_is_not_shared(un_tuned):
    engine = TransformersEngine(un_tuned("mllama"))
    parts = PromptSet().focus.parts(question="q")
    request = Request(parts, (draw_photo(1),), (1, 2), Sampling(), grammar=SCORE_GRAMMAR)
    first, second = engine.generate([request])[0]
    assert parse_score(first.text)[1] == "ok" and first == second


def test_engines_without_grammars_refuse_the_option(photo_source, monkeypatch):
    engine = ScriptedEngine(scripted_reply)
    config = GenConfig(source=str(photo_source), constrain=True)
    with pytest.raises(UsageError, match="--constrain: an engine of these does not support grammars"):
        factory.build(config, (Role(engine, True), Role(engine, False)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model_pair.check_engines(dataclasses.replace(config, engine="openai"))  # which has its own
    with pytest.raises(UsageError, match=r"pip install '\.\[grammar\]'"):
        model_pair.check_engines(config)


# -- the whole way -----------------------------------------------------------------------------------


def check_whole_way(name, tmp_path):
    row = run_family(name, tmp_path)
    family = family_of(name)
    assert (row.family, row.box_space) == (family.name, family.box_space)
    assert row.candidates == row.scored > 0 and row.pairs > 0
    assert row.finite and row.rl1 == pytest.approx(math.log(2), abs=1e-3) == row.rl2


def test_a_family_goes_the_whole_way(tmp_path):
    check_whole_way("qwen2_vl", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_each_family_goes_the_whole_way(name, tmp_path):
    check_whole_way(name, tmp_path)


@pytest.mark.parametrize("name", TINY)
def test_shared_prefill_equals_separate_prefills(name, un_tuned):
    """Where the table says that a cache can't be repeated, repeating it must not be tried."""
    torch.manual_seed(0)
    model = un_tuned(name)
    if name != "paligemma":  # whose window holds a prompt with two pictures of 448 pixels
        narrow_windows(model.path / "config.json")
    engine = TransformersEngine(model)
    assert engine._shares_prefill == family_of(name).shares_prefill
    if not engine._shares_prefill:
        return
    hot = Sampling(temperature=2.0, top_k=50, max_new_tokens=4)
    parts = PromptSet().answer.parts(question="what?")
    requests = [Request(parts, (draw_photo(i), draw_photo(9, (50, 80))), (1, 2, 3), hot) for i in range(2)]
    alone = [dataclasses.replace(request, seeds=(seed,)) for request in requests for seed in request.seeds]
    assert engine.generate(alone) == [[reply] for group in engine.generate(requests) for reply in group]


def test_the_logits_of_coheres_models_are_scaled_as_their_config_says(un_tuned):
    """Else sampling would be at another temperature than training, vLLM and their makers have."""
    model = load_model(un_tuned("cohere2_vision"), torch.float32, False)
    states = torch.randn(1, 3, 32)
    expected = model.config.text_config.logit_scale * states @ model.lm_head.weight.T
    assert model.config.text_config.logit_scale == 0.0625
    assert torch.allclose(model.lm_head(states), expected, atol=1e-6)


def narrow_windows(file):
    """Let layers that look back a part of the prompt drop most of it."""
    config = json.loads(file.read_text())
    text = config.get("text_config", config)
    for name in ("sliding_window", "attention_chunk_size"):
        if text.get(name):
            text[name] = 16
    file.write_text(json.dumps(config))
