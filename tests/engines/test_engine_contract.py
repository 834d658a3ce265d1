"""What every engine owes the pipeline: transformers on Spotlight, openai on a loopback server, vllm on a stand-in
with its signatures, scripted.

`Say` hides how a test makes an engine answer: the three that can be scripted repeat what they were shown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import draw_photo
from tests.helpers import fake_vllm
from tests.helpers.loopback_openai import Asked, Server, as_request
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptPart, PromptSet
from visrl_data.engines.messages import prompt_text
from visrl_data.engines.protocol import Engine, Request, Sampling, Usage
from visrl_data.engines.refusals import RequestRefused
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.models.model_folder import find_model
from visrl_data.models.served import ServedModel

HOT = Sampling(temperature=1.5, top_p=0.9, top_k=40, max_new_tokens=8)
SCRIPTED = ("openai", "vllm", "scripted")


def told(request: Request, seed: int) -> str:
    """A reply that gives away what was asked: pictures (size and first pixel) in their order, texts, the seed."""
    pictures = iter(request.images)
    seen = [
        part.text.replace(" ", "_") if part.kind in ("text", "reply") else _look(next(pictures))
        for part in request.parts
    ]
    return " ".join([*seen, f"seed={seed % 1000}"])


def _look(image: Image.Image) -> str:
    return f"{image.width}x{image.height}:{image.getpixel((0, 0))}".replace(" ", "")


def _vllm_told(parts: Any, images: Any, seed: int, adapter: str | None) -> str:
    return told(Request(tuple(parts), tuple(images), (0,), HOT), seed) + (f" adapter={adapter}" if adapter else "")


def _too_many(asked: Asked) -> str | None:
    return "400" if len(as_request(asked.body).images) > 2 else None


def _openai(tmp_path: Any, monkeypatch: Any, request: Any) -> Engine:
    from visrl_data.engines.openai import OpenAIEngine

    server = Server(told, _too_many)
    request.addfinalizer(server.close)
    return OpenAIEngine(ServedModel("actor", server.url, "OPENAI_API_KEY"), HOT)


def _vllm(tmp_path: Any, monkeypatch: Any, request: Any) -> Engine:
    from visrl_data.engines.vllm import VLLMEngine

    fake_vllm.install(monkeypatch, _vllm_told)
    return VLLMEngine(find_model("spotlight"))


@functools.cache
def real_vllm() -> Engine:
    """One for all tests: what vLLM sets up in a process is set up once."""
    from visrl_data.engines.vllm import VLLMEngine

    return VLLMEngine(find_model("spotlight"), options={"kv_cache_memory_bytes": 2**29})


def _real_vllm(tmp_path: Any, monkeypatch: Any, request: Any) -> Engine:
    engine = real_vllm()
    engine.usage = Usage()
    return engine


def _transformers(tmp_path: Any, monkeypatch: Any, request: Any) -> Engine:
    from visrl_data.engines.transformers import TransformersEngine

    return TransformersEngine(find_model("spotlight"))


MAKERS: dict[str, Callable[[Any, Any, Any], Engine]] = {
    "openai": _openai,
    "vllm": _vllm,
    "real vllm": _real_vllm,
    "transformers": _transformers,
    "scripted": lambda *_: ScriptedEngine(told),
}


@dataclass
class Case:
    name: str
    engine: Engine


# With vLLM installed: `pytest -m vllm`. It changes transformers' classes, so the transformers engine is left out then.
REAL = pytest.param("real vllm", marks=pytest.mark.vllm)


@pytest.fixture(params=[REAL if name == "real vllm" else name for name in MAKERS])
def case(request, tmp_path, monkeypatch) -> Case:
    return Case(request.param, MAKERS[request.param](tmp_path, monkeypatch, request))


def focus(i: int, seeds: range, sampling: Sampling = HOT) -> Request:
    return Request(PromptSet().focus.parts(question=f"what is {i}"), (draw_photo(i),), tuple(seeds), sampling)


def test_a_list_a_request_and_a_reply_a_seed_in_order(case):
    requests = [focus(i, range(10 * i, 10 * i + 3)) for i in range(3)]
    together = case.engine.generate(requests)
    assert [len(group) for group in together] == [3, 3, 3]
    assert case.engine.generate([]) == []
    for request, group in zip(requests, together, strict=True):
        assert case.engine.generate([request]) == [group], "a reply depends on its own request and seed"
    if case.name in SCRIPTED:
        long = replace(HOT, max_new_tokens=400)
        [[reply]] = case.engine.generate([focus(7, range(123, 124), long)])
        assert reply.text == told(focus(7, range(1)), 123)


def test_each_seed_has_its_own_draw(case):
    [group] = case.engine.generate([focus(1, range(8), replace(HOT, max_new_tokens=400))])
    assert len({reply.text for reply in group}) > 1


def test_what_is_greedy_is_the_same_each_time(case):
    cold = Sampling(max_new_tokens=6)
    first = case.engine.generate([focus(1, range(1), cold), focus(2, range(1), cold)])
    assert case.engine.generate([focus(1, range(1), cold), focus(2, range(1), cold)]) == first


@pytest.mark.parametrize("name", SCRIPTED)
def test_pictures_and_turns_keep_their_order(name, tmp_path, monkeypatch, request):
    engine = MAKERS[name](tmp_path, monkeypatch, request)
    whole, crop = draw_photo(1), draw_photo(2, (40, 30))
    parts = (
        PromptPart("image"),
        PromptPart("text", "where"),
        PromptPart("reply", "[box]"),
        PromptPart("crop"),
        PromptPart("text", "what"),
    )
    asked = Request(parts, (whole, crop), (5,), replace(HOT, max_new_tokens=400))
    [[reply]] = engine.generate([asked])
    assert reply.text == f"{_look(whole)} where [box] {_look(crop)} what seed=5"


def test_usage_counts_each_reply_once(case):
    replies = case.engine.generate([focus(i, range(i, i + 2)) for i in range(2)])
    flat = [reply for group in replies for reply in group]
    usage = case.engine.usage
    assert usage.calls == 4
    assert usage.completion_tokens == sum(reply.completion_tokens for reply in flat) > 0
    assert usage.prompt_tokens == sum(reply.prompt_tokens for reply in flat)
    assert case.name == "scripted" or usage.prompt_tokens > 0


@pytest.mark.parametrize("name", ["openai", "vllm", REAL, "transformers"])
def test_a_reply_cut_short_says_so(name, tmp_path, monkeypatch, request):
    engine = MAKERS[name](tmp_path, monkeypatch, request)
    [[cut]] = engine.generate([focus(1, range(1), Sampling(max_new_tokens=1))])
    [[whole]] = engine.generate([focus(1, range(1), Sampling(max_new_tokens=400))])
    assert (cut.finish, cut.completion_tokens) == ("length", 1)
    assert (whole.finish, whole.completion_tokens > 1) == ("stop", True)


@pytest.mark.parametrize("name", ["vllm", REAL, "transformers"])
def test_the_adapter_answers_only_where_it_is_asked_for(name, tmp_path, monkeypatch, request):
    """Mixed in one call, in order; the base alone answers as the adapter's engine does without it."""
    engine = MAKERS[name](tmp_path, monkeypatch, request)
    cold = Sampling(max_new_tokens=400)
    off = [focus(i, range(1), cold) for i in range(6)]
    on = [replace(one, adapter=True) for one in off]
    mixed = engine.generate([one for pair in zip(on, off, strict=True) for one in pair])
    assert mixed[0::2] == engine.generate(on)
    assert mixed[1::2] == engine.generate(off)
    assert mixed[0::2] != mixed[1::2]


@pytest.mark.parametrize("name", ["vllm", REAL, "transformers"])
def test_special_tokens_in_a_text_stay_text(name, tmp_path, monkeypatch, request):
    """Where the prompt is put together here."""
    engine: Any = MAKERS[name](tmp_path, monkeypatch, request)
    if name == "vllm":
        text, long = "an <|sl_image|>? <|sl_end|>", replace(HOT, max_new_tokens=400)
        [[reply]] = engine.generate([Request((PromptPart("text", text),), (), (1,), long)])
        assert reply.text == "an_<\u200b|sl_image|>?_<\u200b|sl_end|> seed=1"
        return
    if name == "real vllm":
        ends = [
            engine._run([one], [prompt_text(one, engine.processor, engine._special)], [engine._sampling(one, 1)])
            for one in (Request((PromptPart("text", text),), (), (1,), HOT) for text in ("a <|sl_end|> b", "a b"))
        ]
        eos = engine.processor.tokenizer.eos_token_id
        assert len({output.prompt_token_ids.count(eos) for [output] in ends}) == 1
        return
    for token in engine.processor.tokenizer.get_added_vocab():
        ids = [
            engine._encode([Request((PromptPart("image"), PromptPart("text", text)), (draw_photo(0),), (0,), HOT)])[
                "input_ids"
            ]
            for text in (f"a {token} b", "a b")
        ]
        marks = [(found == engine.processor.tokenizer.convert_tokens_to_ids(token)).sum().item() for found in ids]
        assert marks[0] == marks[1], token


def test_special_tokens_of_many_models_do_not_reach_a_server(tmp_path, monkeypatch, request):
    engine = MAKERS["openai"](tmp_path, monkeypatch, request)
    text = "<|image_pad|> <image> <|im_end|> </s> but a < b, x <| y |> z and <b>this</b>"
    [[reply]] = engine.generate([Request((PromptPart("text", text),), (), (1,), replace(HOT, max_new_tokens=400))])
    seen = text.replace("<|i", "<\u200b|i").replace("<im", "<\u200bim").replace("</s", "<\u200b/s").replace(" ", "_")
    assert reply.text == f"{seen} seed=1"


@pytest.mark.parametrize("name", ["openai", "vllm", REAL])
def test_a_request_that_the_model_does_not_take_is_refused_and_hurts_no_other(name, tmp_path, monkeypatch, request):
    """One picture too many. The local model's refusals are in test_refusals.py."""
    engine = MAKERS[name](tmp_path, monkeypatch, request)
    wrong = Request((PromptPart("image"),) * 3 + (PromptPart("text", "?"),), (draw_photo(1),) * 3, (1,), HOT)
    with pytest.raises(RequestRefused):
        engine.generate([focus(1, range(1)), wrong])
    assert len(engine.generate([focus(1, range(1))])) == 1


@pytest.mark.parametrize("name", ["openai"])
def test_probabilities_of_choices_are_refused_and_not_made_up(name, tmp_path, monkeypatch, request):
    engine = MAKERS[name](tmp_path, monkeypatch, request)
    with pytest.raises(VisRLError, match="--score-mode text"):
        engine.generate([replace(focus(1, range(1)), choices=("0", "1"))])


def test_identity_is_plain_data_and_says_who_answers(case):
    import json

    identity = case.engine.identity()
    assert identity["engine"] == case.name.removeprefix("real ") == case.engine.name
    assert json.loads(json.dumps(identity)) == identity
    assert case.engine.deterministic == (case.name in ("transformers", "scripted"))


def test_only_one_set_of_weights_goes_into_vllm(monkeypatch):
    """The shipped actor and its base: one engine, the adapter on for one of them."""
    from visrl_data.core.config import GenConfig
    from visrl_data.pipeline import factory

    fake = fake_vllm.install(monkeypatch, _vllm_told)
    built = factory.build(GenConfig(engine="vllm", limit=1))
    [llm] = fake.made
    assert built.actor.engine is built.critic.engine and (built.actor.adapter, built.critic.adapter) == (True, False)
    assert llm.options.enable_lora and llm.options.enable_prefix_caching
    weights = find_model("spotlight-base").path / "model.safetensors"
    assert (Path(llm.options.model) / "model.safetensors").resolve() == weights.resolve()


def test_the_loopback_server_reads_what_was_sent():
    """The stand-in itself: a request that went through messages and PNG comes back as it was."""
    from visrl_data.engines.messages import chat_messages, data_url

    asked = focus(3, range(1))
    picture = draw_photo(3)
    body = {"messages": chat_messages(asked, lambda i: {"type": "image_url", "image_url": {"url": data_url(i)}})}
    back = as_request(body)
    assert back.parts == asked.parts
    assert back.images[0].tobytes() == picture.tobytes()
