"""`visrl evolve --engine vllm` on the real vLLM: two rounds of pairs, training and predictions on Spotlight.

Where vLLM is installed (docs/engines.md): `pytest -m vllm tests/train/test_evolve_vllm.py`. Some minutes on a CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.train.test_helpers import QUICK
from visrl_data.models.model_folder import find_model
from visrl_data.runs.run_folder import Run

psutil = pytest.importorskip("psutil")


@pytest.mark.vllm
@pytest.mark.timeout(3000)
def test_each_round_s_adapter_is_loaded_for_the_next_and_vllm_is_gone_while_it_trains(tmp_path):
    (tmp_path / "quick.toml").write_text("\n".join(f"{name} = {value}" for name, value in QUICK.items()))
    line = ["evolve", "--engine", "vllm", "--rounds", "2", "--stages", "rl1", "--limit", "8", "--attempts", "2"]
    line += ["--eval-limit", "2", "--train-config", "quick.toml", "--json", "-o", "e"]
    line += ["--vllm-options", "kv_cache_memory_bytes=300000000"]
    with (tmp_path / "err").open("w") as err:
        run = subprocess.Popen(
            [sys.executable, "-m", "visrl_cli", *line], cwd=tmp_path, stdout=subprocess.PIPE, stderr=err, text=True
        )
        training = 0
        while run.poll() is None:
            for name in ("round0-rl1", "round1-rl1"):
                folder = tmp_path / "e" / "models" / name
                if (folder / "metrics.jsonl").exists() and not (folder / "visrl.json").exists():
                    training += 1
                    assert not _spawned(run.pid)
            time.sleep(0.02)
    out = run.communicate()[0]
    assert run.returncode == 0, (tmp_path / "err").read_text()[-3000:]
    assert training > 0
    models = [tmp_path / "e/models" / f"round{k}-rl1" for k in (0, 1)]
    report = json.loads(out)
    digests = [find_model(str(model)).digest for model in models]
    assert [entry["digest"] for entry in report["models"]] == [find_model("spotlight").digest, *digests]
    actors = [Run(tmp_path / "e" / f"round{k}").identity()["actor"] for k in (0, 1)]
    assert [actor["engine"] for actor in actors] == ["vllm", "vllm"]
    assert actors[1]["digest"] == digests[0] != digests[1]


def _spawned(pid: int) -> list[str]:
    """The command lines of child processes that run models."""
    lines = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            lines.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return [line for line in lines if "spawn_main" in line]
