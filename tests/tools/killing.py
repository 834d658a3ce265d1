"""A `visrl` command that is killed (SIGKILL) just before its n-th change on disk inside a folder.

    python -m tests.tools.killing FOLDER N COMMAND...

A change is a file or folder made, renamed or removed. What a reader of the disk can meet after a kill at any other
moment is what one of these leaves, or a file that was not written to its end; test_eval_kills.py and
test_evolve_kills.py kill by the clock too.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The command as a process of its own, in the folder `cwd`."""
    return _popen(["visrl_cli", *map(str, arguments)], cwd)


def killed_at(folder: Path, change: int, *arguments: object, cwd: Path) -> bool:
    """Run the command with a kill before that change (from 1) inside `folder`; False when it ended before."""
    process = _popen(["tests.tools.killing", str(folder), str(change), *map(str, arguments)], cwd)
    _, err = process.communicate(timeout=1200)
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode != 0


def finish(*arguments: object, cwd: Path) -> None:
    process = start(*arguments, cwd=cwd)
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err


def kill_by_the_clock(
    arguments: tuple[object, ...], times: int, longest: float, seed: int, check: Callable[[], None], cwd: Path
) -> None:
    """Start a command that works in cwd/e so many times, each killed up to `longest` seconds after it took its lock.

    Where it finished before its kill, `check` is called, and the next one starts anew; the kills still count.
    """
    moments = random.Random(seed)
    for _ in range(times):
        process = start(*arguments, cwd=cwd)
        while not (cwd / "e/.lock").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, longest))
        if process.poll() is not None:
            check()
            shutil.rmtree(cwd / "e")
            continue
        process.send_signal(signal.SIGKILL)
        process.communicate()


def _popen(module: list[str], cwd: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def content(folder: Path, without: set[str] = frozenset({".lock", "times.jsonl"})) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name not in without
    }


def _main(folder: str, change: str, *arguments: str) -> None:
    left, inside = int(change), str(Path(folder).resolve())

    def deadly(real: Any) -> Any:
        def instead(path: Any, *rest: Any, dir_fd: int | None = None, **options: Any) -> Any:
            nonlocal left
            where = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path) if dir_fd is not None else path
            if os.path.abspath(os.fsdecode(where)).startswith(inside):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(path, *rest, **options, **({} if dir_fd is None else {"dir_fd": dir_fd}))

        return instead

    for name in ("mkdir", "rename", "replace", "rmdir", "unlink"):
        setattr(os, name, deadly(getattr(os, name)))
    sys.argv = ["visrl", *arguments]
    from visrl_cli.main import main

    main()


if __name__ == "__main__":
    _main(*sys.argv[1:])
