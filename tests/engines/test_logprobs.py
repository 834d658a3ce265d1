"""Log-likelihoods of replies: by hand in transformers, asked of vLLM and of servers; texts and seeds stay the same."""

import dataclasses
import json

import pytest
import torch

from tests.conftest import draw_photo
from tests.engines.test_openai_engine import HOT as SERVED_HOT
from tests.engines.test_openai_engine import engine_for, focus, serve  # noqa: F401  (a fixture)
from tests.engines.test_vllm_engine import ask, make_engine
from tests.helpers import fake_vllm
from tests.helpers.loopback_openai import as_request
from visrl_data.core.boxes import make_frame
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.decoding import LogprobRecorder
from visrl_data.engines.openai import OpenAIEngine
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.reply_cache import ReplyCache
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.models.model_folder import find_model
from visrl_data.models.served import KEY, ServedModel

WARM = Sampling(temperature=1.3, top_p=0.9, top_k=40, max_new_tokens=40)


@pytest.fixture(scope="module")
def engine():
    return TransformersEngine(find_model("spotlight"))


def box_request(i=1, seeds=(1, 2, 3), sampling=WARM, grammar="", logprob=True):
    parts = PromptSet().focus.parts(question="what digit is on the red circle?")
    return Request(parts, (draw_photo(i),), tuple(seeds), sampling, True, grammar=grammar, logprob=logprob)


def by_hand(engine, request, monkeypatch):
    """Generate without shared beginnings, and sum log-softmax over the new tokens by one forward over the text."""
    outputs = []
    whole = engine.model.generate
    monkeypatch.setattr(engine.model, "generate", lambda **kw: outputs.append(whole(**kw)) or outputs[-1])
    monkeypatch.setattr(engine, "_prefiller", None)
    monkeypatch.setattr(engine, "_shares_prefill", False)
    [replies] = engine.generate([request])
    inputs = engine._encode([request])
    start, expected = inputs["input_ids"].shape[1], []
    for row, reply in zip(outputs[-1], replies, strict=True):
        end = start + reply.completion_tokens
        ids = row[None, :end]
        with torch.inference_mode():
            logits = engine.model(**inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[
                0, start - 1 : end - 1
            ]  # (new tokens, vocabulary)
        logprobs = logits.double().log_softmax(dim=-1).gather(1, ids[0, start:, None])
        expected.append(logprobs.sum().item())
    monkeypatch.undo()
    return replies, expected


def test_it_is_the_sum_of_log_softmax_over_the_tokens_of_the_reply(engine, monkeypatch):
    """At temperature 1 and over the whole vocabulary, though the reply was sampled at 1.3 of the 40 likeliest."""
    replies, expected = by_hand(engine, box_request(), monkeypatch)
    assert [reply.logprob for reply in replies] == pytest.approx(expected, abs=1e-3)
    assert len({round(value, 3) for value in expected}) > 1 and max(expected) < 0


def test_each_way_to_decode_gives_the_same(engine, monkeypatch):
    request = box_request()
    _, expected = by_hand(engine, request, monkeypatch)
    assert [reply.logprob for reply in engine.generate([request])[0]] == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr(engine, "_prefiller", None)
    assert [reply.logprob for reply in engine.generate([request])[0]] == pytest.approx(expected, abs=1e-3)


def test_a_shorter_reply_of_a_batch_ends_where_it_ends(engine):
    """Rows that are done are padded until the longest is: what is drawn there counts for nothing."""
    requests = [box_request(i, range(4), dataclasses.replace(WARM, temperature=3.0, top_k=0)) for i in range(4)]
    together = [reply for group in engine.generate(requests) for reply in group]
    assert len({reply.completion_tokens for reply in together}) > 1
    alone = [engine.generate([dataclasses.replace(r, seeds=(seed,))])[0][0] for r in requests for seed in r.seeds]
    assert [reply.logprob for reply in together] == pytest.approx([reply.logprob for reply in alone], abs=1e-3)


def test_the_replies_are_the_same_with_and_without(engine):
    asked = engine.generate([box_request(i) for i in range(3)])
    plain = engine.generate([box_request(i, logprob=False) for i in range(3)])
    assert asked == plain, "texts and counts of tokens"
    assert all(reply.logprob is None for group in plain for reply in group)


def test_greedy_replies_have_theirs(engine, monkeypatch):
    request = box_request(sampling=Sampling(max_new_tokens=40), seeds=(1, 2))
    first, second = engine.generate([request])[0]
    assert first.logprob == second.logprob and -20 < first.logprob < 0


def test_behind_a_grammar_the_allowed_tokens_share_the_probability(engine):
    """As in vLLM: a box whose form is forced costs its digits alone, so it is likelier than without."""
    pytest.importorskip("llguidance")
    grammar = make_frame("unit", (120, 90), None).grammar
    cold = Sampling(max_new_tokens=40)
    free, bound = (engine.generate([box_request(sampling=cold, grammar=g)])[0][0] for g in ("", grammar))
    assert free.text == bound.text and free.logprob < bound.logprob < 0


def test_the_recorder_notes_the_token_of_the_step_before():
    """Two rows, two steps: log 0.5 + log 0.2, and log 0.3 + log 0.1."""
    recorder = LogprobRecorder()
    first = torch.log(torch.tensor([[0.5, 0.3, 0.2]] * 2)) + 7.0  # logits are known but for a constant
    second = torch.log(torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.2, 0.7]]))
    prompt = torch.tensor([[9], [9]])
    assert recorder(prompt, first) is first
    assert recorder(torch.tensor([[9, 0], [9, 1]]), second) is second
    noted = recorder.read(torch.tensor([[9, 0, 2], [9, 1, 0]]))
    assert [[round(2.718281828**value, 3) for value in row] for row in noted] == [[0.5, 0.2], [0.3, 0.1]]


def test_vllm_is_asked_for_the_sampled_tokens_alone(monkeypatch):
    engine, llm = make_engine(monkeypatch)
    [[reply]] = engine.generate([ask(logprob=True)])
    assert reply.logprob == fake_vllm.TOKEN_LOGPROB * reply.completion_tokens
    [[plain]] = engine.generate([ask()])
    assert (plain, plain.logprob) == (reply, None)
    assert [params.logprobs for call in llm.made[-1].calls[-2:] for _, params, _ in call] == [0, None]


def likely(i=1, seeds=(1,)):
    return dataclasses.replace(focus(i, seeds), logprob=True)


def test_a_server_is_asked_where_it_answers(serve):  # noqa: F811
    server = serve(lambda request, seed: "three words here", logprob=-0.25)
    engine = engine_for(server, logprobs=True)
    assert engine.gives_logprobs
    assert engine.generate([likely()])[0][0].logprob == -0.75
    assert engine.generate([focus(2, [1])])[0][0].logprob is None, "that was not asked"
    assert ["logprobs" in asked.body for asked in server.log] == [True, False]


@pytest.mark.parametrize("kind", ["ignores", "refuses", "fails"])
def test_a_server_that_gives_none_is_not_asked(serve, kind):  # noqa: F811
    fault = {"ignores": None, "refuses": "400", "fails": "500"}[kind]
    server = serve(lambda request, seed: "7", lambda asked: fault if "logprobs" in asked.body else None)
    engine = engine_for(server, logprobs=True)
    assert not engine.gives_logprobs
    reply = engine.generate([likely()])[0][0]
    assert (reply.text, reply.logprob) == ("7", None)
    assert not any("logprobs" in asked.body for asked in server.log)


def test_who_will_not_ask_finds_nothing_out(serve):  # noqa: F811
    server = serve(lambda request, seed: "7", logprob=-1.0)
    assert not engine_for(server).gives_logprobs
    assert not any("logprobs" in asked.body for asked in server.trials)


@pytest.mark.parametrize("odd", [float("nan"), float("-inf"), "low"])
def test_a_likelihood_that_is_no_number_is_none(serve, odd):  # noqa: F811
    server = serve(lambda request, seed: "7", logprob=-1.0)
    engine = engine_for(server, logprobs=True)
    server.logprob = odd
    assert engine.generate([likely()])[0][0].logprob is None


def test_the_file_of_replies_keeps_it_and_that_of_an_earlier_version_is_read(serve, tmp_path):  # noqa: F811
    server = serve(lambda request, seed: "two words", logprob=-1.5)
    file = tmp_path / "replies.jsonl"

    def reply():
        engine = engine_for(server, logprobs=True)
        engine.reply_cache = ReplyCache(file)
        return engine.generate([likely()])[0][0]

    assert [reply().logprob, reply().logprob] == [-3.0, -3.0]
    line = json.loads(file.read_text())
    del line["logprob"]  # as a version without it wrote it, under the same key
    file.write_text(json.dumps(line) + "\n")
    assert (reply().text, reply().logprob) == ("two words", None)
    assert len(server.log) == 1, "the reply is paid for once"
    file.write_text(json.dumps(line | {"logprob": "low"}) + "\n")
    assert reply().logprob == -3.0, "a line that is no reply is requested again"


def test_it_is_read_beside_the_probabilities_of_scores(serve):  # noqa: F811
    """--score-mode expected asks for those of given tokens, whose replies are read otherwise."""
    server = serve(lambda request, seed: "7", program="vllm", logprob=-1.0)
    engine = OpenAIEngine(
        ServedModel("actor", server.url, KEY), SERVED_HOT, retries=2, logprobs=True, expected_scores=True
    )
    assert engine.generate([likely()])[0][0].logprob == -1.0
    assert as_request(server.log[-1].body).parts
