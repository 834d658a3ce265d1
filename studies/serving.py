"""Serve a model on this machine, for the cell whose critic is behind the OpenAI engine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

TIMEOUT = 300  # seconds until the server must respond


@contextlib.contextmanager
def serve(name: str, model: Path, port: int, folder: Path) -> Iterator[str]:
    """Run `transformers serve` with the model under this name in `folder`; yield the address.

    The name is that of a link in the folder, since the server identifies a model by its path alone. Raises
    RuntimeError, with the path of the log, when the server does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / name).symlink_to(model)
    log = folder / "served.txt"
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    start = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", name, *options]
    with log.open("w", encoding="utf-8") as out, subprocess.Popen(start, cwd=folder, stdout=out, stderr=out) as process:
        try:
            _wait_for(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait_for(process: subprocess.Popen, health: str, log: Path) -> None:
    until = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(health, timeout=5)
            return
        time.sleep(0.5)
    raise RuntimeError(f"transformers serve did not start; see {log}")
