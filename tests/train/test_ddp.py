"""Two processes on a CPU train what one trains. (accelerate starts several CPU processes by MPI only: torchrun.)"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.train.test_helpers import QUICK
from visrl_train import rl2
from visrl_train.config import Rl2Config
from visrl_train.metrics_log import read_metrics

pytest_plugins = ["tests.train.test_helpers"]

VALIDATION = 0.5


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(sft_model, scripted_run, tmp_path):
    """2 processes x 1 pair x 2 batches a step see the same 4 pairs as 1 process x 2 pairs x 2 batches.

    The pairs of validation are an odd number: the second process gets one twice, which counts once.
    """
    quick = {**QUICK, "accumulation": 2, "validation": VALIDATION}
    one = Rl2Config(model=str(sft_model), data=str(scripted_run), **{**quick, "batch_size": 2})
    rl2.train(one, tmp_path / "one")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**quick, "batch_size": 1}.items()]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "visrl_train.rl2",
        "--model", str(sft_model), "--data", str(scripted_run), "-o", str(tmp_path / "two"), *flags,
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads((tmp_path / "one" / "visrl.json").read_text())["data"]
    assert counts["validation"] % 2 == 1
    for prefix in ("", "eval_"):
        names = [prefix + name for name in ("loss", "focus/margin", "response/margin", "focus/accuracy")]
        alone, together = (
            [[r[name] for name in names] for r in read_metrics(tmp_path / folder / "metrics.jsonl") if names[0] in r]
            for folder in ("one", "two")
        )
        assert alone
        for a, b in zip(alone, together, strict=True):
            assert b == pytest.approx(a, abs=2e-3)
    weights = [load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-3) for name in weights[0])
