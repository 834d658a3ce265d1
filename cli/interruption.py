"""Ctrl-C and SIGTERM: each ends a command with one message on where the finished work is and how to resume it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from visrl_data.core.errors import Terminated, VisRLError


class Interrupted(VisRLError):
    """Ctrl-C. Exit code 130."""

    exit_code = 130


class _Sigterm(KeyboardInterrupt):
    """SIGTERM, raised where the program is, so that it is handled as Ctrl-C is."""


@contextlib.contextmanager
def interruptible(target: Path | None = None, resumes: bool = False) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a message. target: the folder that keeps the finished work, once there is one.

    resumes: without a target, whether the same command goes on where it was.
    """
    with _sigterm_raises():
        try:
            yield
        except KeyboardInterrupt as error:
            text = f"Run the same command again{' to resume' * resumes}." if target is None else _where(target)
            if isinstance(error, _Sigterm):
                raise Terminated(f"Stopped by SIGTERM. {text}") from None
            raise Interrupted(f"Interrupted. {text}") from None


def _where(target: Path) -> str:
    from visrl_data.runs.run_folder import resume_command

    if not target.exists():
        return "Nothing was written yet. Run the same command again."
    is_run = (target / "run.json").is_file()
    how = f"Resume with: {resume_command(target)}" if is_run else "Run the same command again to resume."
    return f"Finished work is kept in {target}. {how}"


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Raise _Sigterm at the first SIGTERM; a second one ends the process at once."""
    is_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(_: int, __: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Sigterm
