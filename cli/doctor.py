"""`visrl doctor`: what this machine can run, what is missing, and the command that mends it; or a look at a model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from typing import Annotated, Any

import typer

from .options import Json

# module -> (what it is for, how to get it)
OPTIONAL = {
    "torchvision": ("Qwen-VL, InternVL, SmolVLM and other models with a video processor", "pip install torchvision"),
}


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="Look at a model instead; its weights are not loaded.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", min=1, metavar="N", help="With --model: most pixels of a picture.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", metavar="TEXT", help="With --model: type of its numbers; auto: float32 on a CPU, else bfloat16."
        ),
    ] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="With --model: run code that comes with it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check this machine: devices, libraries, the shipped model, disk space, the Hub token.

    With --model: the model's family, how it writes boxes, what it sees of a picture, and what memory it takes.

    Examples:

      visrl doctor

      visrl doctor --model Qwen/Qwen2.5-VL-7B-Instruct --dtype bfloat16
    """
    if model is not None:
        from .doctor_model import look_at_model, print_model

        found = look_at_model(model, max_pixels, dtype, trust_remote_code)
        print(json.dumps(found)) if as_json else print_model(found)
        return
    checks = [*_devices(), *_libraries(), _spotlight(), _disk(), _token()]
    if as_json:
        print(json.dumps({"ok": all(check["ok"] for check in checks), "checks": checks}))
    else:
        for check in checks:
            mark = "ok     " if check["ok"] else "missing" if check["needed"] else "absent "
            print(f"{mark} {check['what']}" + (f"\n        -> {check['mend']}" if check["mend"] else ""))
    if any(check["needed"] and not check["ok"] for check in checks):
        raise typer.Exit(1)


def _check(what: str, ok: bool = True, mend: str = "", needed: bool = True) -> dict[str, Any]:
    return {"what": what, "ok": ok, "mend": "" if ok else mend, "needed": needed}


def _devices() -> list[dict[str, Any]]:
    import torch

    checks = [_check(f"CPU: {os.cpu_count()} cores, torch {torch.__version__} uses {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
        checks.append(_check(f"cuda:{index}: {name}, {memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available():
        mend = "none needed for Spotlight; for 7B models use a machine with an NVIDIA GPU and a CUDA build of torch"
        checks.append(_check("NVIDIA GPU", False, mend, needed=False))
    return checks


def _libraries() -> list[dict[str, Any]]:
    from visrl_data.core.versions import versions

    checks = [_check(" ".join(f"{name} {version}" for name, version in versions().items()))]
    for module, (purpose, mend) in OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        checks.append(_check(f"{module}: for {purpose}", found, mend, needed=False))
    return checks


def _spotlight() -> dict[str, Any]:
    from visrl_data.models.model_folder import ALIASES

    here = all((path / "visrl.json").is_file() for path in ALIASES.values())
    return _check("Spotlight, the shipped model", here, "pip install --force-reinstall --no-deps . (in the clone)")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(".").free / 2**30
    return _check(f"{free:.0f} GiB free in this folder", free > 1, "free some space, or choose another --output")


def _token() -> dict[str, Any]:
    from huggingface_hub import get_token

    found = get_token() is not None
    return _check("A Hub token (needed only to publish and for gated models)", found, "hf auth login", needed=False)
