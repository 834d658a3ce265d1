"""The transformers engine on small untrained models: seeds, batches, shared prefill, memory, adapters."""

import json
import shutil

import pytest
import torch
from PIL import Image

from tests.conftest import draw_photo
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import SCORE_CHOICES, SCORE_PREFIX, PromptPart, PromptSet
from visrl_data.engines import loading
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.models.model_folder import find_model

HOT = Sampling(temperature=2.0, top_p=0.7, top_k=50, max_new_tokens=8)


@pytest.fixture(scope="module")
def engine(untrained):
    return TransformersEngine(find_model(str(untrained)))


def focus(i, seeds, sampling=HOT):
    parts = PromptSet().focus.parts(question="what is " + "there " * i)
    return Request(parts, (draw_photo(i),), tuple(seeds), sampling)


def texts(replies):
    return [[reply.text for reply in group] for group in replies]


def test_a_reply_depends_on_its_seed_and_not_on_its_batch(engine):
    requests = [focus(i, range(10 * i, 10 * i + 6)) for i in range(5)]
    together = engine.generate(requests)
    alone = [[engine.generate([focus(i, [seed])])[0][0] for seed in r.seeds] for i, r in enumerate(requests)]
    assert together == alone
    assert len({text for group in texts(together) for text in group}) > 20, "samples must differ"


def test_shared_prefill_equals_separate_prefills(engine):
    requests = [focus(i, range(4)) for i in range(3)]
    shared = engine.generate(requests)
    engine._shares_prefill = False
    try:
        assert engine.generate(requests) == shared
    finally:
        engine._shares_prefill = True


def test_greedy_ignores_the_seed(engine):
    cold = Sampling(max_new_tokens=8)
    a, b = engine.generate([focus(1, [1, 2], cold)])[0]
    assert a == b


@pytest.mark.parametrize("sampling", [HOT, Sampling(max_new_tokens=8)], ids=["sampled", "greedy"])
def test_settings_that_a_model_ships_do_not_touch_ours(engine, untrained, tmp_path, sampling):
    """Those of Qwen2.5-VL and Qwen2-VL in one: a temperature that leaves no choice, top-p, top-k, and a penalty."""
    folder = shutil.copytree(untrained, tmp_path / "model")
    path = folder / "generation_config.json"
    shipped = {"do_sample": True, "temperature": 1e-6, "top_p": 0.001, "top_k": 1, "repetition_penalty": 1.05}
    path.write_text(json.dumps(json.loads(path.read_text()) | shipped))
    requests = [focus(i, range(4), sampling) for i in range(3)]
    assert TransformersEngine(find_model(str(folder))).generate(requests) == engine.generate(requests)


def test_the_keyed_sampler_draws_from_the_filtered_distribution():
    """Probabilities 0.5, 0.3, 0.2 at temperature 1: top_p 0.7 leaves 5/8 and 3/8; top_k 1 leaves the first."""
    from visrl_data.engines.decoding import KeyedSampler

    scores = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).repeat(4000, 1)
    drawn = KeyedSampler(Sampling(1.0, 0.7, 0), list(range(4000)))(None, scores).argmax(dim=-1)
    share = torch.bincount(drawn, minlength=3) / 4000
    assert share[0] == 0
    assert share[1].item() == pytest.approx(0.625, abs=0.03)  # 4 standard errors
    first = KeyedSampler(Sampling(1.0, 1.0, 1), list(range(50)))(None, scores[:50]).argmax(dim=-1)
    assert set(first.tolist()) == {1}
    flat = KeyedSampler(Sampling(1000.0, 1.0, 0), list(range(4000)))(None, scores).argmax(dim=-1)
    assert (torch.bincount(flat) / 4000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_out_of_memory_halves_the_batch_is_recorded_and_changes_nothing(engine, monkeypatch):
    requests = [focus(i, [1, 2]) for i in range(4)]
    expected = engine.generate(requests)
    whole = engine._sample

    def small_memory(batch):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(batch)

    monkeypatch.setattr(engine, "_sample", small_memory)
    engine.usage.events.clear()
    assert engine.generate(requests) == expected
    assert engine.usage.events == [f"out of memory: batch of {n} prompts halved" for n in (4, 2, 2)]


def test_a_single_prompt_too_large_names_the_levers(engine, monkeypatch):
    def no_memory(batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine, "_sample", no_memory)
    with pytest.raises(VisRLError, match="--max-pixels"):
        engine.generate([focus(0, [1])])


def test_other_errors_are_not_taken_for_memory(engine, monkeypatch):
    def broken(batch):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(engine, "_sample", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        engine.generate([focus(0, [1]), focus(1, [1])])


def test_special_tokens_in_a_question_stay_text(engine):
    tokenizer = engine.processor.tokenizer
    for token in tokenizer.get_added_vocab():
        request = Request(
            (PromptPart("image"), PromptPart("text", f"is {token} a picture?")), (draw_photo(0),), (0,), HOT
        )
        marks = sum(tokenizer.convert_tokens_to_ids(token) == i for i in engine._encode([request])["input_ids"][0])
        plain = Request((PromptPart("image"), PromptPart("text", "is it a picture?")), (draw_photo(0),), (0,), HOT)
        expected = sum(tokenizer.convert_tokens_to_ids(token) == i for i in engine._encode([plain])["input_ids"][0])
        assert marks == expected, token


def test_choice_probabilities_are_the_models_own(engine):
    parts = PromptSet().box_critic.parts(question="q", answer="7")
    request = Request(parts, (draw_photo(1),), (0,), Sampling(), prefix=SCORE_PREFIX, choices=SCORE_CHOICES)
    other = Request(
        PromptSet().box_critic.parts(question="a longer question", answer="7"),
        (draw_photo(2),), (0,), Sampling(), prefix=SCORE_PREFIX, choices=SCORE_CHOICES,
    )  # fmt: skip
    reply = engine.generate([request, other])[0][0]
    inputs = engine._encode([request])
    with torch.inference_mode():
        logits = engine.model(**inputs).logits[0, -1]
    ids = [engine.processor.tokenizer.convert_tokens_to_ids(choice) for choice in SCORE_CHOICES]
    probs = torch.softmax(logits, -1)[ids]
    assert reply.choice_mass == pytest.approx(probs.sum().item(), rel=1e-4)
    assert reply.choice_probs == pytest.approx((probs / probs.sum()).tolist(), rel=1e-4)


def test_choices_of_several_tokens_multiply_along_the_branch():
    """ "0.d" is three tokens and "1.0" three others: P(0.d) = P(0) P(d | 0.), P(1.0) = P(1)."""
    import numpy as np

    from visrl_data.engines.decoding import branch_nodes, choice_reply

    vocabulary = {**{str(d): d for d in range(10)}, ".": 10}

    def tokenizer(text, add_special_tokens):
        return {"input_ids": [vocabulary[c] for c in text]}

    branches = branch_nodes(tokenizer, "", SCORE_CHOICES)
    assert set(branches) == {(), (0, 10)}
    probs = np.zeros((3, 11))
    probs[0, 0], probs[0, 1] = 0.6, 0.3
    probs[2, 8], probs[2, 2] = 0.5, 0.4
    reply = choice_reply(probs, branches, SCORE_CHOICES, 0)
    expected = {"0.8": 0.3, "0.2": 0.24, "1.0": 0.3}
    assert reply.choice_mass == pytest.approx(0.84)
    assert dict(zip(SCORE_CHOICES, reply.choice_probs, strict=True)) == pytest.approx(
        {choice: expected.get(choice, 0.0) / 0.84 for choice in SCORE_CHOICES}
    )


def test_the_adapter_is_on_for_the_actor_and_off_for_the_critic(untrained, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(untrained),
        LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "adapter")
    folder = find_model(str(tmp_path / "adapter"))
    assert folder.base.digest == find_model(str(untrained)).digest
    adapted, plain = TransformersEngine(folder), TransformersEngine(folder.base)

    def ask(engine, adapter):
        base = focus(1, range(4))
        return texts(engine.generate([Request(base.parts, base.images, base.seeds, HOT, adapter=adapter)]))

    assert ask(adapted, False) == ask(plain, False)
    assert ask(adapted, True) != ask(plain, False)


def test_a_centre_crop_is_switched_off(untrained, tmp_path):
    """CLIP's default hides the ends of a long picture; the engine shows the whole of it."""
    import json
    import shutil

    folder = tmp_path / "cropping"
    shutil.copytree(untrained, folder)
    file = next(f for f in (folder / "processor_config.json", folder / "preprocessor_config.json") if f.is_file())
    settings = json.loads(file.read_text())
    inner = settings.get("image_processor", settings)
    side = inner["size"]["height"]
    inner |= {"do_center_crop": True, "crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    file.write_text(json.dumps(settings))
    engine = TransformersEngine(find_model(str(folder)))
    long = Image.new("RGB", (400, 50), "black")
    long.paste("white", (0, 0, 40, 50))
    pixels = engine.processor.image_processor(images=[long], return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (side, side)
    row = pixels[..., side // 2, :]  # LLaVA's picture is padded to a square: it lies in the middle
    assert row[..., : side // 20].min() > row[..., side // 2 :].max(), "the left end must be seen"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UsageError, match=f"--device {device}: torch finds no such device here. Expected auto, cpu, "):
        loading.pick_device(device)


@pytest.mark.parametrize(
    ("model", "message"),
    [("no-such-thing", "shipped ones"), ("../up/there", "no folder here"), ("a/b/c", "no Hub id")],
)
def test_unknown_models_are_named(model, message):
    with pytest.raises(VisRLError, match=message):
        find_model(model)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(VisRLError, match="save_pretrained"):
        find_model(str(tmp_path))


def test_the_digest_follows_the_weights_and_not_the_readme(untrained, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(untrained, copy)
    assert find_model(str(copy)).digest == find_model(str(untrained)).digest
    (copy / "README.md").write_text("x")
    assert find_model(str(copy)).digest == find_model(str(untrained)).digest
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert find_model(str(copy)).digest != find_model(str(untrained)).digest
