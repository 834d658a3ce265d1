"""`visrl gen` against two real servers: the shipped actor, merged, and its base, each on `transformers serve`.

Run it and see what happens, in some minutes on a CPU: pytest -m slow tests/engines/test_openai_serve.py -s
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.command import visrl
from visrl_data.models.model_folder import ALIASES
from visrl_data.runs import run_folder

QUESTIONS, CHUNK = 6, 3


@dataclass
class Serving:
    """A server's process. model: the folder, which is also its name there."""

    model: str
    url: str
    log: Path
    process: subprocess.Popen

    def asked(self) -> int:
        """How many completions it has been asked for."""
        return self.log.read_text(errors="replace").count("POST /v1/chat/completions")


def serve(model: Path, folder: Path) -> Serving:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"serve-{port}.log"
    command = ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    start = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", *command]
    quiet = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(start, stdout=out, stderr=out, env=quiet)
    serving = Serving(str(model), f"http://127.0.0.1:{port}/v1", log, process)
    print(f"serving {model} at {serving.url}")
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return serving
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{model} was not served in time: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    code, _, err = visrl("merge", "spotlight", "-o", folder / "actor")
    assert code == 0 and "%|" not in err, err  # nor a progress bar of a library
    pair = [serve(folder / "actor", folder), serve(ALIASES["spotlight-base"], folder)]
    yield pair
    for one in pair:
        one.process.terminate()
        one.process.wait()


def command(servers: list[Serving], output: Path) -> list[str]:
    """One request at a time: `transformers serve` keeps seeds only then."""
    actor, critic = servers
    return [
        *("gen", "--model", actor.model, "--engine", "openai", "--base-url", actor.url),
        *("--critic", critic.model, "--critic-base-url", critic.url, "--in-flight", "1"),
        *("--limit", str(QUESTIONS), "--chunk-size", str(CHUNK), "--attempts", "2", "-o", str(output)),
    ]


def start(arguments: list[str]) -> subprocess.Popen:
    print("visrl", *arguments)
    return subprocess.Popen([sys.executable, "-m", "visrl_cli", *arguments], stderr=subprocess.PIPE, text=True)


def rows(path: Path) -> dict[str, list]:
    run = run_folder.Run(path)
    return {name: run.table(name).to_pylist() for name in ("questions", "candidates", "drops")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_on_two_servers_is_killed_and_goes_on(servers, tmp_path):
    process = start(command(servers, tmp_path / "whole"))
    _, err = process.communicate()
    assert process.returncode == 0, err
    whole = [server.asked() for server in servers]
    print(f"undisturbed: {whole} requests to actor and critic")

    arguments = command(servers, tmp_path / "cut")
    process = start(arguments)
    journal = tmp_path / "cut" / "work" / "replies-00000000.jsonl"
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 15):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes().count(b"\n")
    print(f"killed with {kept} replies of the chunk received")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    process = start(arguments)
    _, err = process.communicate()
    assert process.returncode == 0, err
    cut = [server.asked() - before for server, before in zip(servers, whole, strict=True)]
    print(f"killed and resumed: {cut} requests; each start has one trial request, one was open at the kill")

    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert sum(cut) <= sum(whole) + 2 + 1, "the second start's two trials, and the request that the kill cut off"
    run = run_folder.Run(tmp_path / "cut")
    assert run.identity()["actor"]["address"] == servers[0].url
    assert run.identity()["critic"]["address"] == servers[1].url
    assert run.identity()["actor"]["dialect"] == "transformers", "as its routes tell"
    candidates = rows(run.path)["candidates"]
    assert len({c["focus_reply"] for c in candidates}) > len(candidates) / 2, "it did sample"
    assert {c["box_score_state"] for c in candidates} == {"ok"}, "the critic was understood"
    print(json.dumps({name: run.manifest()["counts"][name] for name in ("questions", "candidates", "pairs")}))
