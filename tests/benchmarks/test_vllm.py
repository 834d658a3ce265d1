"""The comparison of vLLM's speed: its table adds up; on the real vLLM the script and the engine ask the same."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks import vllm


def done(method: str, seconds: float, **numbers: int) -> vllm.Round:
    counts = {"questions": 4, "pairs": 2, "calls": 96, "prompt_tokens": 1000, "cached_prompt_tokens": 500} | numbers
    return vllm.Round(model="m", method=method, seconds=seconds, cpu_seconds=seconds / 4, peak_mib=100.0, **counts)


def test_a_row_is_the_sum_of_a_methods_rounds():
    shown = vllm.table([done("script", 10), done("vllm", 5), done("script", 30, pairs=0, cached_prompt_tokens=0)])
    script, ours = shown.splitlines()[2:]
    assert script == "| m | script | 8 | 24.0 | 250 | 25% | 5.00 | 1.25 | 720 | 180 | 2880 | 720 | 100 |"
    assert ours == "| m | vllm | 4 | 24.0 | 250 | 50% | 1.25 | 0.31 | 2880 | 1440 | 11520 | 5760 | 100 |"


def test_unknown_names_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vllm", "--methods", "script,fast"])
    with pytest.raises(SystemExit):
        vllm.main()
    assert "--methods fast: expected some of script, transformers, vllm" in capsys.readouterr().err


@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_the_script_and_the_engine_make_the_same_pairs_of_greedy_replies(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(vllm, "OPTIONS", {"temperature": 0.0})
    args = argparse.Namespace(questions=4, rounds=1, threads=1, device="cpu")
    script, ours = vllm.measure("spotlight", ("script", "vllm"), args, tmp_path)
    assert script.pairs == ours.pairs > 0
    assert script.calls == 8 * 3 * 4 >= ours.calls > 0
    assert ours.cached_prompt_tokens > script.cached_prompt_tokens
