"""The openai engine against a loopback server with faults: what is sent again, what is not, and what stays secret."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import draw_photo, scripted_reply
from tests.helpers.command import visrl
from tests.helpers.loopback_openai import Asked, Server
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.openai import OpenAIEngine
from visrl_data.engines.protocol import EngineLost, Request, Sampling
from visrl_data.engines.refusals import RequestRefused
from visrl_data.engines.reply_cache import NAME, ReplyCache, attach
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_sources import OTHERS
from visrl_data.executors import generation
from visrl_data.models.served import CRITIC_KEY, KEY, ServedModel, server_address
from visrl_data.pipeline import factory
from visrl_data.runs import run_folder

HOT = Sampling(temperature=1.5, top_p=0.9, top_k=40, max_new_tokens=8)
SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def serve(request, monkeypatch):
    """Make loopback servers that are gone after the test. Keys of this machine stay out of it."""
    for name in (KEY, CRITIC_KEY, "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def start(*args, **options) -> Server:
        server = Server(*(args or (scripted_reply,)), **options)
        request.addfinalizer(server.close)
        return server

    return start


def engine_for(server: Server, model: str = "actor", **options) -> OpenAIEngine:
    return OpenAIEngine(ServedModel(model, server.url, KEY), HOT, **{"retries": 2, **options})


def focus(i: int, seeds, sampling: Sampling = HOT) -> Request:
    return Request(PromptSet().focus.parts(question=f"what is {i}"), (draw_photo(i),), tuple(seeds), sampling)


def texts(replies) -> list[list[str]]:
    return [[reply.text for reply in group] for group in replies]


def about(i: int, fault: str, times: int = 1):
    """A fault for requests about question i, as often as said."""

    def choose(asked: Asked) -> str | None:
        return fault if f"what is {i}\n" in asked.text and asked.before < times else None

    return choose


# ---- what is sent


def test_a_sampled_request_has_its_seed_and_only_fields_with_an_effect(serve):
    server = serve()
    engine = engine_for(server)
    engine.generate([focus(1, [2**63 + 7]), focus(2, [1], Sampling(max_new_tokens=5)), focus(3, [1], Sampling(0.5))])
    sampled, greedy, plain = (
        {k: v for k, v in asked.body.items() if k != "messages"}
        for asked in sorted(server.log, key=lambda asked: re.search("what is .", asked.text)[0])
    )
    assert sampled == {"model": "actor", "max_tokens": 8, "temperature": 1.5, "top_p": 0.9, "seed": 7, "top_k": 40}
    assert greedy == {"model": "actor", "max_tokens": 5, "temperature": 0.0}
    assert plain == {"model": "actor", "max_tokens": 64, "temperature": 0.5, "top_p": 1.0, "seed": 1}, "no top_k at 0"


def test_transformers_serve_is_told_to_sample_in_its_own_way(serve):
    server = serve(program="transformers")
    engine_for(server).generate([focus(1, [3])])
    [asked] = server.log
    assert "top_k" not in asked.body
    assert json.loads(asked.body["generation_config"]) == {"do_sample": True, "top_k": 40}


def test_no_more_requests_are_open_than_allowed(serve):
    server = serve(pause=0.05)
    engine_for(server, in_flight=3).generate([focus(i, range(4)) for i in range(3)])
    assert server.most == 3 and len(server.log) == 12


def test_equal_greedy_requests_are_paid_once(serve):
    server = serve()
    engine = engine_for(server)
    [[a, b, c]] = engine.generate([focus(1, [1, 2, 3], Sampling())])
    assert a == b == c and len(server.log) == 1 and engine.usage.calls == 1


# ---- faults that pass


@pytest.mark.parametrize(
    "fault", ["429", "500", "drop", "garbage", "page", "empty", "deep", "failed behind", "broken off"]
)
def test_what_passes_is_tried_again_and_nothing_else_is(serve, fault):
    calm, server = serve(), serve(scripted_reply, about(1, fault))
    requests = [focus(i, range(2)) for i in range(3)]
    expected = texts(engine_for(calm).generate(requests))
    assert texts(engine_for(server).generate(requests)) == expected
    again = [asked for asked in server.log if asked.before]
    assert len(server.log) == 8 and {"what is 1\n" in asked.text for asked in again} == {True}
    assert sorted(server.repeats().values()) == [2, 2]
    assert len(server.answered) == len(set(server.answered)), "no reply was given twice"


def test_retry_after_is_waited_for(serve):
    server = serve(scripted_reply, about(1, "429"))
    engine = engine_for(server)
    began = time.monotonic()
    engine.generate([focus(1, [1])])
    assert time.monotonic() - began >= 0.3


def test_a_slow_reply_is_waited_for_and_the_others_go_on(serve):
    server = serve(scripted_reply, about(1, "slow"))
    engine = engine_for(server, in_flight=2)
    engine.generate([focus(i, [1]) for i in range(4)])
    assert not server.repeats()
    assert server.answered[-1] == next(a.digest for a in server.log if "what is 1\n" in a.text)


# ---- faults that stay


def test_a_refused_question_is_named_and_asked_no_more(serve):
    server = serve(scripted_reply, about(1, "400", times=99))
    engine = engine_for(server)
    requests = [focus(i, [1]) for i in range(3)]
    for _ in range(2):
        with pytest.raises(RequestRefused, match="400: this picture is too large"):
            engine.generate(requests)
    engine.generate([requests[0], requests[2]])
    assert len(server.log) == 3 and engine.usage.calls == 2


@pytest.mark.parametrize(("fault", "reason"), [("filtered", "content_filter"), ("empty", "no choice")])
def test_an_answer_without_a_text_is_a_refusal(serve, fault, reason):
    engine = engine_for(serve(scripted_reply, about(1, fault, times=99)))
    with pytest.raises(RequestRefused, match=reason):
        engine.generate([focus(1, [1])])


@pytest.mark.parametrize("fault", ["moderated", "policy"])
def test_what_a_moderation_stops_is_a_refusal_and_no_fault_of_the_key(serve, fault):
    engine = engine_for(serve(scripted_reply, about(1, fault, times=99)))
    with pytest.raises(RequestRefused, match="403: "):
        engine.generate([focus(1, [1])])
    assert texts(engine.generate([focus(2, [1])]))[0][0]


def test_another_403_is_about_the_key(serve):
    engine = engine_for(serve(scripted_reply, about(1, "403", times=99)))
    with pytest.raises(EngineLost, match=f"{KEY}.*403: no access"):
        engine.generate([focus(1, [1])])


def test_a_running_loop_as_in_a_notebook_is_no_hindrance(serve):
    async def cell():
        engine = engine_for(serve())
        return texts(engine.generate([focus(1, [1, 2]), focus(2, [1])]))

    assert [len(group) for group in asyncio.run(cell())] == [2, 1]


@pytest.mark.parametrize("fault", ["500", "429", "drop", "garbage"])
def test_what_stays_away_ends_the_run_and_keeps_what_came(serve, fault):
    server = serve(scripted_reply, about(2, fault, times=99))
    engine = engine_for(server, in_flight=1, retries=1)
    with pytest.raises(EngineLost, match=server.url):
        engine.generate([focus(i, [1]) for i in range(5)])
    assert [asked.before for asked in server.log if "what is 2\n" in asked.text][:2] == [0, 1]
    assert not any("what is 3\n" in asked.text for asked in server.log), "nothing is begun after that"
    server.fault = lambda asked: None
    engine.generate([focus(i, [1]) for i in range(5)])
    assert sum("what is 0\n" in asked.text for asked in server.log) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("garbage", "sends replies that are not chat completions"),
        ("failed behind", r"keeps failing \(\*\*\*: the provider is down\)"),
        ("broken off", r"keeps failing \(its replies break off\)"),
    ],
)
def test_what_a_server_does_instead_of_replying_is_told(serve, monkeypatch, fault, words):
    monkeypatch.setenv(KEY, SECRET)
    engine = engine_for(serve(scripted_reply, about(1, fault, times=99)))
    with pytest.raises(EngineLost, match=words):
        engine.generate([focus(1, [1])])


# ---- replies that harm


@pytest.mark.parametrize("fault", ["endless", "bomb"])
def test_a_reply_without_end_is_one_question_s_drop(serve, fault):
    server = serve(scripted_reply, about(1, fault, times=99))
    engine = engine_for(server)
    with pytest.raises(RequestRefused, match="larger than 4 MiB"):
        engine.generate([focus(1, [1])])
    assert len(server.log) == 1, "it is requested once"
    assert engine.generate([focus(2, [1])])


def test_a_reply_that_dribbles_is_left_in_time(serve, monkeypatch):
    server = serve(scripted_reply, about(1, "dribble", times=99))
    engine = engine_for(server)
    monkeypatch.setattr("visrl_data.engines.chat_server.TIMEOUT", 0.5)
    with pytest.raises(EngineLost, match="No (whole reply|answer) from"):
        engine.generate([focus(1, [1])])


@pytest.mark.parametrize("fault", ["no usage", "odd usage", "usage of a text"])
def test_a_usage_that_can_t_be_read_counts_nothing(serve, tmp_path, fault):
    server = serve(scripted_reply, about(1, fault, times=99))
    for calls in (1, 1):  # the second time from the file of the first
        engine = engine_for(server)
        engine.reply_cache = ReplyCache(tmp_path / "replies.jsonl")
        assert texts(engine.generate([focus(1, [1])])) == [["7"]]
        assert (engine.usage.prompt_tokens, engine.usage.completion_tokens, len(server.log)) == (0, 0, calls)


def test_a_line_of_the_file_that_is_no_reply_is_requested_again(serve, tmp_path):
    server = serve()
    engine = engine_for(server)
    engine.reply_cache = ReplyCache(tmp_path / "replies.jsonl")
    first = texts(engine.generate([focus(1, [1])]))
    line = json.loads((tmp_path / "replies.jsonl").read_text())
    for damage in ({"prompt_tokens": None}, {"text": 3}, {"refused": ["no"]}, {"more": 1}):
        (tmp_path / "replies.jsonl").write_text(json.dumps(line | damage) + "\n")
        engine.reply_cache = ReplyCache(tmp_path / "replies.jsonl")
        assert texts(engine.generate([focus(1, [1])])) == first
    assert len(server.log) == 5


def test_the_key_is_masked_in_what_the_server_sends(serve, monkeypatch, tmp_path):
    monkeypatch.setenv(KEY, SECRET)
    server = serve(scripted_reply, lambda asked: "echo" if "what is 1\n" in asked.text else None)
    server.models = ("actor", f"for-{SECRET}")
    engine = engine_for(server)
    engine.reply_cache = ReplyCache(tmp_path / "replies.jsonl")
    assert texts(engine.generate([focus(1, [1])])) == [["***, 7"]]
    assert SECRET not in (tmp_path / "replies.jsonl").read_text()
    assert SECRET not in start_error(server, model="other")
    server.fault = about(2, "echo in a refusal")
    with pytest.raises(RequestRefused, match=r"not for \*\*\*"):
        engine.generate([focus(2, [1])])


def test_a_short_placeholder_of_a_key_is_no_secret(serve, monkeypatch):
    monkeypatch.setenv(KEY, "x")
    assert texts(engine_for(serve(lambda *_: "six boxes")).generate([focus(1, [1])])) == [["six boxes"]]


def test_a_redirect_is_not_followed(serve):
    server = serve(scripted_reply, lambda asked: "moved")
    assert "redirects to http://127.0.0.1:9/v1" in start_error(server)


# ---- the start


def start_error(server: Server, **options) -> str:
    with pytest.raises(VisRLError) as caught:
        engine_for(server, **options)
    return str(caught.value)


def test_an_unknown_model_is_told_with_those_there_are(serve):
    message = start_error(serve(), model="other")
    assert "no model other" in message and "It serves: actor, critic." in message


def test_a_wrong_key_is_told_without_the_key(serve, monkeypatch):
    server = serve(scripted_reply, lambda asked: "401")
    assert f"needs a key; put it into the environment variable {KEY}" in start_error(server)
    monkeypatch.setenv(KEY, SECRET)
    message = start_error(server)
    assert f"refuses the key in the environment variable {KEY}" in message and "provided: ***" in message
    assert server.trials[-1].authorization == f"Bearer {SECRET}"
    assert SECRET not in message


def test_a_server_that_refuses_the_first_request_is_no_question_s_fault(serve):
    assert "refuses a first request to actor (400: this picture" in start_error(serve(scripted_reply, lambda _: "400"))


def test_no_server_at_all(serve):
    server = serve()
    server.close()
    assert f"No answer from {server.url}" in start_error(server, retries=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("http://user:pass@host/v1", "holds a user, a password"),
        (f"https://host/v1?api-key={SECRET}", "holds a user, a password or a query"),
        ("host:8000", "expected an address like"),
        ("ftp://host/v1", "expected an address like"),
        ("http://[::1/v1", "expected an address like"),
        ("http://host:port/v1", "expected an address like"),
        ("http://host:99999/v1", "expected an address like"),
        ("http://host..org/v1", "expected an address like"),
        (f"http://user:pass@[host/v1?api-key={SECRET}", "expected an address like"),
    ],
)
def test_an_address_that_can_t_be_written_down_is_refused(given, message):
    with pytest.raises(UsageError, match=message) as caught:
        server_address(given)
    assert SECRET not in str(caught.value) and "pass@" not in str(caught.value)


# ---- the journal


def test_a_journal_outlives_its_process_but_not_a_torn_line(tmp_path, serve):
    server = serve()
    first = engine_for(server)
    attach([first], tmp_path / NAME)
    requests = [focus(i, [1, 2]) for i in range(2)]
    replies = first.generate(requests)
    lines = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    (tmp_path / NAME).write_bytes(b"".join(lines[:3]) + lines[3][:10])
    second = engine_for(server)
    journal = attach([second], tmp_path / NAME)
    assert second.generate(requests) == replies
    assert list(server.repeats().values()) == [2], "the torn one alone"
    assert second.usage.calls == 4, "an earlier start's replies were paid too"
    assert len((tmp_path / NAME).read_bytes().splitlines()) == 4
    journal.clear()
    assert not (tmp_path / NAME).exists()


def test_another_model_or_another_option_is_another_reply(tmp_path, serve):
    server = serve()
    for engine, request in (
        (engine_for(server), focus(1, [1])),
        (engine_for(server, "critic"), focus(1, [1])),
        (engine_for(server), focus(1, [1], Sampling(1.5, 0.9, 41, 8))),
        (engine_for(server), focus(1, [2])),
    ):
        attach([engine], tmp_path / NAME)
        engine.generate([request])
    assert len(server.log) == 4 and len((tmp_path / NAME).read_bytes().splitlines()) == 4


# ---- whole runs


def options(server: Server, source: Path, **more) -> GenConfig:
    return GenConfig(
        **{"model": "actor", "critic": "critic", "engine": "openai", "base_url": server.url, "source": str(source),
           "box_space": "unit", "chunk_size": 3, "limit": 6, "attempts": 1, **more}
    )  # fmt: skip


def rows(path: Path) -> dict[str, list]:
    run = run_folder.Run(path)
    return {name: run.table(name).to_pylist() for name in run_folder.TABLES}


def test_a_run_drops_the_one_question_that_is_refused(serve, photo_source, tmp_path):
    def picky(asked: Asked) -> str | None:
        return "400" if "thing 3?" in asked.text else None

    calm, server = serve(), serve(scripted_reply, picky)
    whole = generation.generate(options(calm, photo_source), tmp_path / "whole")
    run = generation.generate(options(server, photo_source), tmp_path / "run")
    [drop] = run.table("drops").to_pylist()
    assert (drop["id"], drop["reason"]) == ("q3", "model_refused") and "picture is too large" in drop["detail"]
    others = [c for c in rows(whole.path)["candidates"] if c["question_id"] != "q3"]
    assert run.table("candidates").to_pylist() == others
    assert not server.repeats(), "neither the refused request nor those of the others were sent again"


def test_actor_and_critic_at_two_addresses_with_two_keys(serve, photo_source, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setenv(CRITIC_KEY, SECRET[::-1])
    caplog.set_level(0)
    actor, critic = serve(models=("actor",)), serve(models=("critic",))
    config = options(actor, photo_source, critic_base_url=critic.url)
    run = generation.generate(config, tmp_path / "run")
    assert {asked.authorization for asked in actor.log} == {f"Bearer {SECRET}"}
    assert {asked.authorization for asked in critic.log} == {f"Bearer {SECRET[::-1]}"}
    assert all("Standard answer" in asked.text for asked in critic.log)
    assert not any("Standard answer" in asked.text for asked in actor.log)
    identity = run.identity()
    assert (identity["actor"]["address"], identity["critic"]["address"]) == (actor.url, critic.url)
    assert identity["deterministic"] is False and "origin_base" not in identity
    for file in run.path.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes() and SECRET[::-1].encode() not in file.read_bytes()
    assert SECRET not in caplog.text and SECRET[::-1] not in caplog.text
    calls = sum(record["calls"] for record in run_folder.times(run))
    assert calls == len(actor.log) + len(critic.log)


def test_the_actor_s_key_does_not_go_to_the_critic_s_address(serve, photo_source, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    actor, critic = serve(models=("actor",)), serve(models=("critic",))
    factory.build(options(actor, photo_source, critic_base_url=critic.url))
    assert [asked.authorization for asked in critic.trials] == ["Bearer none"]


def test_a_local_actor_with_a_served_critic_and_the_other_way_round(serve, photo_source, untrained):
    server = serve()
    mixed = {"limit": 1, "max_new_tokens": 4}
    one = factory.build(options(server, photo_source, model=str(untrained), engine="transformers",
                                critic_engine="openai", **mixed))  # fmt: skip
    assert (one.actor.engine.name, one.critic.engine.name) == ("transformers", "openai")
    other = factory.build(options(server, photo_source, critic=str(untrained), critic_engine="transformers", **mixed))
    assert (other.actor.engine.name, other.critic.engine.name) == ("openai", "transformers")
    assert other.identity["origin_base"]["id"] == str(untrained)
    factory.run_stages(other, factory.read_chunk(other, 0))
    assert {asked.body["model"] for asked in server.log} == {"actor"}


def test_one_model_may_be_its_own_critic_when_the_user_says_so(serve, photo_source):
    built = factory.build(options(serve(), photo_source, critic="actor"))
    assert built.actor is built.critic


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"critic": None}, "Name the critic: --critic ID; --critic actor if it was never trained"),
        ({"score_mode": "expected"}, "it does not tokenize. Use vLLM 0.32 or later, --score-mode text"),
        ({"constrain": True}, "ignores a grammar. Start vLLM with --structured-outputs-config"),
        ({"box_space": None}, "actor is served, and nothing on this machine records how it writes boxes. Name it"),
        ({"max_pixels": 1000}, "the server sets the size"),
        ({"engine": "transformers", "model": "spotlight"}, "--base-url needs --engine openai"),
        ({"box_space": "resized_pixels"}, "use another --box-space"),
    ],
)
def test_what_can_t_work_is_said_before_anything_is_asked(serve, photo_source, more, message):
    server = serve()
    with pytest.raises(VisRLError, match=re.escape(message)):
        factory.build(options(server, photo_source, **more))
    assert not server.log


def test_the_command_says_how_to_go_on_and_nothing_is_paid_twice(serve, photo_source, tmp_path):
    """The server dies in the second chunk; the next start, at another address, finishes the run."""
    whole, server = serve(), serve(scripted_reply, lambda asked: "500" if len(server.log) > 30 else None)
    generation.generate(options(whole, photo_source), tmp_path / "whole")
    command = ["gen", "--model", "actor", "--critic", "critic", "--engine", "openai", "--source", photo_source,
               "--box-space", "unit",
               "--chunk-size", 3, "--limit", 6, "--attempts", 1, "-o", tmp_path / "run"]  # fmt: skip
    code, _, err = visrl(*command, "--base-url", server.url)
    assert code == 1 and "1 of 2 chunks are done" in err
    assert f"visrl gen --config {tmp_path}/run/config.toml -o {tmp_path}/run" in err.replace("\n", "")
    received = set(server.answered)
    other = serve()
    code, _, err = visrl(*command, "--base-url", other.url, "--in-flight", 2)
    assert code == 0, err
    assert not received & {asked.digest for asked in other.log}
    assert not (tmp_path / "run" / "work").exists()
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_what_is_published_names_no_address(serve, photo_source, tmp_path):
    from visrl_data.runs.parts import run_member

    server = serve()
    run = generation.generate(options(server, photo_source), tmp_path / "run")
    assert server.url in json.dumps(run.manifest())
    about = run_member(run).about
    assert server.url not in json.dumps(about)
    assert about["run"]["actor"]["model"] == "actor"


def test_an_evaluation_of_a_served_model_by_a_served_judge_goes_on(serve, photo_source, tmp_path):
    """The judge's server dies; the next start asks only for what is missing. A judge must be named."""
    actor, judge = serve(models=("actor",)), serve(models=("judge",))
    judge.fault = lambda asked: "401" if len(judge.log) > 2 else None
    config = EvalConfig(split="train", limit=4, engine="openai", base_url=actor.url, critic_base_url=judge.url,
                        critic="judge", in_flight=1, baseline=False, box_space="unit")  # fmt: skip

    def run() -> dict:
        return evaluate.evaluate(["actor"], [str(photo_source)], config, tmp_path / "out", {OTHERS: "critic"})

    with pytest.raises(VisRLError, match="0 of 4 predictions are saved.* run the same command"):
        run()
    received = set(actor.answered) | set(judge.answered)
    judge.fault = lambda asked: None
    report = run()
    assert report["models"][0]["model"] == "actor" and report["judge"]["id"] == "judge"
    asked = [asked.digest for asked in (*actor.log, *judge.log)]
    assert max(asked.count(digest) for digest in received) == 1, "trials are not in the log"
    assert not (tmp_path / "out" / NAME).exists()
    with pytest.raises(UsageError, match="Name the critic"):
        evaluate.evaluate(["actor"], [str(photo_source)], dataclasses.replace(config, critic=None), tmp_path / "out",
                          {OTHERS: "critic"})  # fmt: skip


def test_a_killed_run_asks_for_no_reply_again(serve, photo_source, tmp_path):
    """SIGKILL in the middle of a chunk, while several requests are open."""
    whole, server = serve(), serve(pause=0.05)
    generation.generate(options(whole, photo_source), tmp_path / "whole")
    command = [sys.executable, "-m", "visrl_cli", "gen", "--model", "actor", "--critic", "critic", "--engine", "openai",
               "--base-url", server.url, "--source", str(photo_source), "--chunk-size", "6", "--in-flight", "4",
               "--limit", "6", "--attempts", "1", "--box-space", "unit", "-o", str(tmp_path / "run")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "work" / "replies-00000000.jsonl"
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 20):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "work" / "chunk-00000000").exists(), "the kill came in the first chunk"
    kept = journal.read_bytes().count(b"\n")
    time.sleep(0.3)  # what was open at the server is logged by now
    before = [asked.digest for asked in server.log]
    server.pause = 0
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    again = [asked for asked in server.log[len(before) :] if asked.digest in before]
    assert 20 <= kept <= len(before) <= kept + 4 + 4, "lost at most what was open, or had just come"
    assert len(again) == len(before) - kept, "asked again: only what had not been received"
