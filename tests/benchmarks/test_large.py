"""The random models of seven billion parameters, here with the sizes of a small one."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

from benchmarks import large
from benchmarks.gpu import generation
from tests.helpers.tiny_parts import stand_in_for_videos


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Return a tiny model's folder whose file of weights is empty, as qwen7b leaves its own."""
    stand_in_for_videos(monkeypatch)
    folder = generation.tiny("qwen7b", tmp_path)
    save_file({}, folder / "model.safetensors")
    return folder


def build(folder, drawn):
    """Return the weights that a process has after other draws."""
    torch.manual_seed(drawn)
    with large.made_in_place():
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()


def test_weights_are_the_same_whatever_was_drawn_before(empty):
    """Ours and TRL's are made in two processes, and their losses are compared."""
    first, second = (build(empty, drawn) for drawn in (1, 2))
    assert any(weights.std() > 0 for weights in first.values() if weights.dim() == 2), "random weights"
    assert first.keys() == second.keys()
    assert all(torch.equal(weights, second[name]) for name, weights in first.items())
