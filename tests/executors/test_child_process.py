"""A function in a process of its own: what comes back, what it raises, and that neither process outlives the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.executors.child_process import run_in_child


def count(to, on_step):
    for step in range(to):
        on_step(step)
    return os.getpid()


def refuse(on_step):
    raise UsageError("--n: expected another one")


def fail(on_step):
    return {}["missing"]


def die(on_step):
    os.kill(os.getpid(), signal.SIGKILL)


def wait(path, on_step):
    path.write_text(str(os.getpid()))
    time.sleep(600)


def test_steps_and_the_result_come_from_another_process():
    steps = []
    assert run_in_child(count, 3, on_step=steps.append) != os.getpid()
    assert steps == [0, 1, 2]


def test_what_the_function_raises_is_raised_here():
    with pytest.raises(UsageError, match="expected another one"):
        run_in_child(refuse, on_step=print)
    with pytest.raises(RuntimeError, match="in the process that runs the models:\n(.*\n)*KeyError: 'missing'"):
        run_in_child(fail, on_step=print)


def test_a_process_that_dies_is_told_with_what_to_do():
    with pytest.raises(VisRLError, match="was killed by signal 9.*memory.*the same command resumes"):
        run_in_child(die, on_step=print)


def test_a_step_that_raises_here_ends_the_process(tmp_path):
    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_child(count, 10**9, on_step=stop)


def test_the_death_of_this_process_ends_the_other(tmp_path):
    code = (
        "from pathlib import Path\nfrom tests.executors.test_child_process import run_in_child, wait\n"
        f"if __name__ == '__main__':\n    run_in_child(wait, Path({str(tmp_path / 'pid')!r}), on_step=print)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], cwd=root, env=environment)
    while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    for _ in range(600):
        if not _is_alive(child):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} lives on")


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
