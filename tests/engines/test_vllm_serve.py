"""`visrl gen` through a real `vllm serve` that holds Spotlight's base and its adapter under two names, behind a proxy
that counts: against vLLM in process; killed on both sides and resumed; grammars, expected scores, refused questions.

Where vLLM is installed (docs/engines.md): `pytest -m vllm tests/engines/test_vllm_serve.py -s`. Ten minutes on a CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import draw_photo
from tests.helpers.counting_proxy import Proxy
from tests.helpers.same_rows import check_same_rows
from visrl_data.core.prompts import PromptPart
from visrl_data.engines.messages import plain_markup
from visrl_data.engines.openai import OpenAIEngine
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.refusals import RequestRefused, RequestTooLong
from visrl_data.models.served import KEY, ServedModel
from visrl_data.runs.run_folder import Run
from visrl_data.spotlight import ACTOR, BASE

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3000)]
OPTIONS = (
    "--enable-lora", "--lora-modules", f"actor={ACTOR}", "--served-model-name", "base", "--max-lora-rank", "64",
    "--model-impl", "transformers", "--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill",
    "--max-model-len", "2048", "--generation-config", "vllm", "--limit-mm-per-prompt", '{"image": 2, "video": 0}',
    "--structured-outputs-config", '{"backend": "guidance"}',
)  # fmt: skip
QUESTIONS = ("--limit", "6", "--chunk-size", "3", "--attempts", "2", "--temperature", "0")


@dataclass
class Served:
    """A `vllm serve` behind a proxy; `start` it again after `kill`."""

    log: Path
    proxy: Proxy = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.proxy = Proxy(probe.getsockname()[1])

    def start(self) -> None:
        line = ["-m", "visrl_data.engines.vllm_cpu", "serve", str(BASE), "--port", str(self.proxy.port), *OPTIONS]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, *line], stdout=out, stderr=out, start_new_session=True)
        url = f"http://127.0.0.1:{self.proxy.port}/health"
        for _ in range(1200):
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5)
                return
            time.sleep(0.5)
        raise AssertionError(f"not served in time: {self.log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        """End the server and its engine, which is a process of its own."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.proxy.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served") / "log")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        server.proxy.close()


def command(output: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "visrl_cli", "gen", *QUESTIONS, *options, "--json", "-o", str(output)]


def through(server: Served, *options: str) -> tuple[str, ...]:
    """The critic is not named: it is the base of the adapter."""
    return ("--engine", "openai", "--base-url", server.proxy.url, "--model", "actor", *options)


def generate(output: Path, *options: str) -> list[dict[str, Any]]:
    """Return the candidates of a run, and print how long it took."""
    began = time.monotonic()
    done = subprocess.run(command(output, *options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"{output.name}: {time.monotonic() - began:.0f} s")
    rows: list[dict[str, Any]] = Run(output).table("candidates").to_pylist()
    return rows


@pytest.fixture(scope="module")
def whole(served, tmp_path_factory) -> list[dict[str, Any]]:
    return generate(tmp_path_factory.mktemp("whole") / "whole", *through(served))


def test_candidates_are_those_of_vllm_in_process(served, whole, tmp_path):
    assert len(whole) == 24
    ours = generate(tmp_path / "in-process", "--engine", "vllm", "--vllm-options", "kv_cache_memory_bytes=500000000")
    check_same_rows(whole, ours)


def test_constrained_candidates_and_expected_scores_too(served, tmp_path):
    vllm = ("--engine", "vllm", "--vllm-options", "kv_cache_memory_bytes=500000000")
    options = ("--constrain", "--score-mode", "expected")
    ours, theirs = generate(tmp_path / "v", *vllm, *options), generate(tmp_path / "s", *through(served, *options))
    scores = ("box_score", "response_score", "box_score_mass", "response_score_mass")
    texts = ("box_score_raw", "response_score_raw")
    unscored = [[{n: row[n] for n in row if n not in scores + texts} for row in rows] for rows in (ours, theirs)]
    check_same_rows(*unscored)
    for one, other in zip(ours, theirs, strict=True):
        assert [other[name] for name in scores] == pytest.approx([one[name] for name in scores], abs=5e-6)


def test_a_run_and_its_server_are_killed_and_nothing_received_is_asked_again(served, whole, tmp_path):
    proxy, output = served.proxy, tmp_path / "cut"
    proxy.answered.clear()
    run = subprocess.Popen(
        command(output, *through(served)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    journal = output / "work" / "replies-00000000.jsonl"
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 10):
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = journal.read_bytes().count(b"\n")
    served.kill()
    unseen = len(proxy.answered) - kept  # on their way when gen was killed

    done = subprocess.run(command(output, *through(served)), capture_output=True, text=True)
    assert done.returncode == 1 and "No answer from" in done.stderr, "nobody is there"
    served.start()
    run = subprocess.Popen(
        command(output, *through(served)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    journal = output / "work" / "replies-00000001.jsonl"
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 5):
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.01)
    served.kill()  # in the second chunk
    _, err = run.communicate()
    assert run.returncode == 1 and "1 of 2 chunks are done" in err and "resume with" in err
    served.start()
    check_same_rows(generate(output, *through(served)), whole)

    twice = sum(count - 1 for count in Counter(proxy.answered).values())
    print(f"{kept} replies kept at the first kill, {unseen} on their way; {len(proxy.answered)} in all, {twice} twice")
    assert twice <= unseen <= 16, "requests that were open at the kill, and no other"


def test_a_refused_request_is_one_question_s(served):
    engine = OpenAIEngine(ServedModel("actor", served.proxy.url, KEY), Sampling(max_new_tokens=8))
    picture, text, greedy = PromptPart("image"), PromptPart("text", "What is this?"), Sampling(max_new_tokens=8)
    good = Request((picture, text), (draw_photo(1),), (0,), greedy)
    three = Request((picture, picture, picture, text), (draw_photo(1),) * 3, (0,), greedy)
    long = Request((picture, PromptPart("text", "what " * 3000)), (draw_photo(1),), (0,), greedy)
    for request, kind in ((three, RequestRefused), (long, RequestTooLong)):
        with pytest.raises(kind, match="^400: "):
            engine.generate([good, request])
    assert engine.generate([good])[0][0].text


def test_refused_questions_are_drops(served, tmp_path):
    draw_photo(1).save(tmp_path / "a.png")
    Image.new("RGB", (400, 1)).save(tmp_path / "thin.png")
    rows = [
        {"image": "a.png", "question": "What is this?", "answer": "a"},
        {"image": "a.png", "question": "what " * 3000, "answer": "a"},
        {"image": "thin.png", "question": "What is this?", "answer": "a"},
        {"image": "a.png", "question": "What is <|sl_image|> in <image>?", "answer": "a"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generate(tmp_path / "run", *through(served, "--source", str(tmp_path / "rows.jsonl"), "--split", "train"))
    drops = Run(tmp_path / "run").table("drops").to_pylist()
    assert sorted(drop["reason"] for drop in drops) == ["image_too_small", "too_long"]


def test_special_tokens_reach_the_server_broken_up(served):
    def tokens(text: str) -> list[int]:
        body = {"model": "base", "prompt": text, "add_special_tokens": False}
        return served.post("/tokenize", body)["tokens"]

    text = "a <|sl_image|> b <|sl_end|>"
    [image], [end] = tokens("<|sl_image|>"), tokens("<|sl_end|>")
    assert {image, end} <= {*tokens(text)}
    assert not {image, end} & {*tokens(plain_markup(text))}
