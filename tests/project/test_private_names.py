"""Names of TRL, transformers and vLLM that are private or undocumented and that we rely on.

A release that drops one fails here, and not in a user's training. What stands on them, and what happens without:

    _use_triton             trainers.completions_only: only completions go through the output layer on a CPU; slower
    add_fused_lm_head       TRL's trainers call it; preference.py passes fused_lm_head=True to the model
    compute_ref_log_probs   preference.py: the reference's log-probabilities, with or without an adapter
    _send_telemetry         trainers.make_trainer_class: no telemetry
    _load_from_checkpoint   trainers.make_trainer_class: full weights resume under the names of the model
    _attn_implementation    branches.branching: attention that applies a given mask unchanged
    _run_in_subprocess      vllm._inspect_models_here: on its CPU build beside CUDA builds of torch's extensions
"""

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = {
    "_use_triton": "trl.trainer.utils",
    "add_fused_lm_head": "trl.trainer.utils",
    "compute_ref_log_probs": "trl.DPOTrainer",
    "_send_telemetry": "trl.DPOTrainer",
    "_load_from_checkpoint": "transformers.Trainer",
    "_attn_implementation": "transformers.PreTrainedConfig",
}
VLLM_NAMES = {"_run_in_subprocess": "vllm.model_executor.models.registry"}
ANNOTATIONS = {"_Hash"}  # hashlib's, for the type checker alone
PUBLIC = {"_exit"}  # os's, documented for the end of a child process
PACKAGES = ("visrl_data", "visrl_train", "cli", "cards")


@pytest.mark.parametrize(
    ("name", "owner"), [*NAMES.items(), *(pytest.param(*one, marks=pytest.mark.vllm) for one in VLLM_NAMES.items())]
)
def test_the_name_is_there(name, owner):
    importlib.import_module("visrl_data.engines")  # repairs imports that fail without it
    module, _, last = owner.rpartition(".")
    holder = importlib.import_module(owner) if last.islower() else getattr(importlib.import_module(module), last)
    assert hasattr(holder, name), f"{owner} has no {name} anymore: see the docstring of this file"


def private(name):
    return name.startswith("_") and not name.endswith("_")


def used_and_ours(source):
    """Return the private attributes that a module reads, and the private names that it defines."""
    used, ours = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            is_ours = isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
            (ours if is_ours else used).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            ours.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            ours.add(node.id)
    return set(filter(private, used)), ours


def test_no_other_private_name_is_used():
    modules = [used_and_ours(path.read_text("utf-8")) for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    ours = set().union(*(ours for _, ours in modules))
    assert set().union(*(used for used, _ in modules)) - ours <= {*NAMES, *VLLM_NAMES, *ANNOTATIONS, *PUBLIC}


def test_another_private_name_would_be_found():
    assert used_and_ours("self._mine = model._theirs")[0] == {"_theirs"}


def test_the_versions_that_they_were_checked_with_are_a_bound():
    """TRL changes private names in minor releases: the next one is allowed once these tests pass with it."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert "trl>=1.16,<1.17" in requirements and "transformers>=5.4,<6" in requirements
