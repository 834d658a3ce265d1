"""`visrl doctor`: what this machine can run, what is missing, and the command that fixes it; or facts of a model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from typing import Annotated, Any

import typer

from .doctor_checks import check, print_checks
from .options import Json

# module -> (what needs it, the command that installs it)
OPTIONAL = {
    "torchvision": ("Qwen-VL, InternVL, SmolVLM and other models with a video processor", "pip install torchvision"),
}


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="Check a model instead; its weights are not loaded.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="vllm", help="Check what vLLM needs instead, and that it knows the --model."),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", min=1, metavar="N", help="With --model: maximum pixels of an image.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", metavar="TEXT", help="With --model: compute dtype; auto: float32 on a CPU, else bfloat16."
        ),
    ] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="With --model: run code that comes with it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check this machine: devices, libraries, the shipped model, disk space, the Hub token.

    With --model: the model's family, its box format, how it sees an image, and the memory that it takes.

    Examples:

      visrl doctor

      visrl doctor --model Qwen/Qwen2.5-VL-7B-Instruct --dtype bfloat16

      visrl doctor --engine vllm
    """
    if engine is not None:
        from .doctor_vllm import check_vllm

        print_checks(check_vllm(engine, model or "spotlight", trust_remote_code), as_json)
        return
    if model is not None:
        from .doctor_model import describe_model, print_model

        facts = describe_model(model, max_pixels, dtype, trust_remote_code)
        print(json.dumps(facts)) if as_json else print_model(facts)
        return
    print_checks([*_devices(), *_libraries(), _spotlight(), _disk(), _token()], as_json)


def _devices() -> list[dict[str, Any]]:
    import torch

    checks = [check(f"CPU: {os.cpu_count()} cores, torch {torch.__version__} uses {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
        checks.append(check(f"cuda:{index}: {name}, {memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available():
        fix = "not needed for Spotlight; for 7B models use a machine with an NVIDIA GPU and a CUDA build of torch"
        checks.append(check("NVIDIA GPU", False, fix, needed=False))
    return checks


def _libraries() -> list[dict[str, Any]]:
    from visrl_data.core.versions import library_versions

    checks = [check(" ".join(f"{name} {version}" for name, version in library_versions().items()))]
    for module, (purpose, fix) in OPTIONAL.items():
        is_installed = importlib.util.find_spec(module) is not None
        checks.append(check(f"{module}: for {purpose}", is_installed, fix, needed=False))
    return checks


def _spotlight() -> dict[str, Any]:
    from visrl_data.models.model_folder import ALIASES

    is_complete = all((path / "visrl.json").is_file() for path in ALIASES.values())
    return check(
        "Spotlight, the shipped model", is_complete, "pip install --force-reinstall --no-deps . (in the clone)"
    )


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(".").free / 2**30
    return check(f"{free:.0f} GiB free in this folder", free > 1, "free some space, or choose another --output")


def _token() -> dict[str, Any]:
    from huggingface_hub import get_token

    what = "Hub token (only needed to publish and for gated models)"
    return check(what, get_token() is not None, "hf auth login", needed=False)
