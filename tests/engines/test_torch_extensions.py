"""A CPU build of torch beside CUDA builds of its extensions: what can't be loaded is repaired or hidden."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from visrl_data.engines import torch_extensions

VERSIONS = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.11.0"}


@pytest.fixture
def imports(monkeypatch):
    """What an import of each extension does: an exception to raise; and what was declared."""
    raised: dict[str, Exception] = {}
    declared: list[str] = []

    def load(name):
        if name in raised:
            raise raised[name]

    monkeypatch.setattr(torch_extensions, "_version", lambda name: VERSIONS.get(name, ""))
    monkeypatch.setattr(torch_extensions, "importlib", types.SimpleNamespace(import_module=load))
    import torch

    monkeypatch.setattr(torch.library, "define", lambda name, signature: declared.append(name))
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    yield raised, declared
    sys.modules.pop("torchaudio", None)


def test_operators_are_declared_and_broken_packages_hidden(imports):
    raised, declared = imports
    raised["torchvision"] = RuntimeError("operator torchvision::nms does not exist")
    raised["torchaudio"] = OSError("Could not load this library")
    torch_extensions.repair_imports()
    assert declared == ["torchvision::nms", "torchvision::qnms"]
    assert importlib.util.find_spec("torchaudio") is None


def test_what_can_be_loaded_is_left_alone(imports):
    _, declared = imports
    torch_extensions.repair_imports()
    assert declared == []
    assert "torchaudio" not in sys.modules


def test_any_other_failure_is_not_covered_up(imports):
    imports[0]["torchvision"] = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        torch_extensions.repair_imports()


@pytest.mark.parametrize(
    ("versions", "unfit"),
    [
        (VERSIONS, {"torchvision", "torchaudio"}),
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}, set()),
        ({"torch": "2.14.0", "torchvision": "0.29.0"}, set()),
        ({"torchvision": "0.29.0"}, set()),
    ],
)
def test_only_builds_that_do_not_fit_are_touched(monkeypatch, versions, unfit):
    monkeypatch.setattr(torch_extensions, "_version", lambda name: versions.get(name, ""))
    assert torch_extensions.unfit_extensions() == unfit
