"""Run a function in a process of its own, whose memory and whose changes to libraries end with it.

Used by `visrl evolve --engine vllm`: vLLM keeps its memory as long as its process lives, and may change classes of
transformers, with which the next stage trains.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from visrl_data.core.errors import VisRLError
from visrl_data.executors.protocol import silence_libraries

Result = TypeVar("Result")
Step = TypeVar("Step")

_EXIT_SECONDS = 10  # given to a terminated process before it is killed


def run_in_child(function: Callable[..., Result], *arguments: Any, on_step: Callable[[Step], None]) -> Result:
    """Return function(*arguments, callback) from a process of its own; what it calls back with comes to `on_step`.

    Raises what the function raises; VisRLError when its process dies. Leaving it early ends the process, and so does
    the death of this one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function, arguments), name=f"visrl {function.__name__}")
    process.start()
    theirs.close()  # else its death would not be noticed at our end
    try:
        while True:
            kind, content = ours.recv()
            if kind == "step":
                on_step(content)
            elif kind == "error":
                raise content
            else:
                result: Result = content
                return result
    except EOFError:
        process.join()
        raise VisRLError(
            f"{_death(process.exitcode or 0)} Finished chunks are kept; the same command resumes."
        ) from None
    finally:
        ours.close()
        process.terminate()
        process.join(_EXIT_SECONDS)
        process.kill()
        process.join()


def _death(code: int) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    hint = " If memory ran out, leave it less or make it smaller." if code == -signal.SIGKILL else ""
    return f"The process that runs the models {how}.{hint}"


def _work(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run the function and send what it calls back with, and returns or raises: the process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    silence_libraries()
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        try:
            pipe.send(("result", function(*arguments, lambda step: pipe.send(("step", step)))))
        except VisRLError as error:
            pipe.send(("error", error))
        except Exception:
            pipe.send(("error", RuntimeError(f"in the process that runs the models:\n{traceback.format_exc()}")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
