"""`visrl gen` on the real vLLM against the transformers engine, each in a process of its own; killed and resumed.

Where vLLM is installed (docs/engines.md): `pytest -m vllm`. A few minutes on a CPU.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.same_rows import check_same_rows
from visrl_data.runs.run_folder import Run

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
VLLM = ("--engine", "vllm", "--vllm-options", "kv_cache_memory_bytes=500000000")


def command(output: Path, *options: str) -> list[str]:
    line = ["gen", "--limit", "16", "--chunk-size", "4", "--temperature", "0", "--json", "-o"]
    return [sys.executable, "-m", "visrl_cli", *line, str(output), *options]


def generate(output: Path, *options: str) -> list[dict[str, Any]]:
    """Return the candidates of a run."""
    done = subprocess.run(command(output, *options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)  # one object, and no line of vLLM's
    rows: list[dict[str, Any]] = Run(output).table("candidates").to_pylist()
    return rows


def test_candidates_are_those_of_the_transformers_engine(tmp_path):
    rows = generate(tmp_path / "transformers")
    assert len(rows) == 96
    check_same_rows(generate(tmp_path / "vllm", *VLLM), rows)
    constrained = generate(tmp_path / "transformers-c", "--constrain")
    check_same_rows(generate(tmp_path / "vllm-c", "--constrain", *VLLM), constrained)


def test_expected_scores_are_those_of_the_transformers_engine(tmp_path):
    options = ("--score-mode", "expected")
    pairs = zip(generate(tmp_path / "t", *options), generate(tmp_path / "v", *options, *VLLM), strict=True)
    for ours, theirs in pairs:
        for name in ("box_score", "response_score", "box_score_mass", "response_score_mass"):
            assert theirs[name] == pytest.approx(ours[name], abs=2e-6)


def processes() -> dict[str, bytes]:
    """Return the command line of each process of this machine, by its id."""
    return {path.parent.name: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}


def test_a_killed_run_leaves_no_process_and_is_resumed(tmp_path):
    output, before = tmp_path / "run", set(processes())
    run = subprocess.Popen(command(output, *VLLM), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    times = output / "times.jsonl"
    while not times.is_file() or not times.read_text().strip():
        assert run.poll() is None
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(2)
    left = [line for pid, line in processes().items() if pid not in before]
    assert not [line for line in left if str(output).encode() in line or b"EngineCore" in line]
    done = len(times.read_text().splitlines())
    rows = generate(output, *VLLM[:-1], "kv_cache_memory_bytes=600000000")
    assert 1 <= done < 4 and len(times.read_text().splitlines()) == 4
    check_same_rows(rows, generate(tmp_path / "whole", *VLLM))
