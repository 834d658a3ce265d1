"""A run made by several processes is the run of one; a process that dies costs time and nothing else."""

import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import scripted_reply
from tests.pipeline.test_factory import file_bytes
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.protocol import EngineLost, Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors import generation, multiprocess
from visrl_data.executors.multiprocess import MultiprocessExecutor
from visrl_data.pipeline import factory
from visrl_data.runs import run_folder


def config(source, **options):
    return GenConfig(source=str(source), device="cpu", **{"chunk_size": 2, **options})


def scripted_work(script, options, place, pipe):
    """The process as it is, with a model made of dice in place of the one that the options name."""
    engine = ScriptedEngine(functools.partial(script, place))
    roles = Role(engine, True), Role(engine, False)
    real = factory.build
    factory.build = lambda config: dataclasses.replace(
        real(config, roles), identity=real(config, roles).identity | ({"place": str(place)} if script is odd else {})
    )
    multiprocess._work(options, place, pipe)


@pytest.fixture
def executor(monkeypatch, photo_source):
    """Make an executor of two whose processes answer by a function of (place, request, seed) of this module."""

    def made(script, **options):
        monkeypatch.setattr(multiprocess, "_work", functools.partial(scripted_work, script))
        return MultiprocessExecutor(config(photo_source, **options), 2)

    return made


def plain(place, request, seed):
    return scripted_reply(request, seed)


def odd(place, request, seed):
    return scripted_reply(request, seed)


def asks_of(request, thing):
    return any(f"thing {thing}?" in part.text for part in request.parts)


def killed_once(place, request, seed):
    """The process that is at question 5 kills itself in the middle of the chunk; the one after it does not."""
    mark = Path(os.environ["VISRL_TEST_MARK"])
    if asks_of(request, 5) and "Standard answer" in request.parts[1].text and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return scripted_reply(request, seed)


def killed_always(place, request, seed):
    if asks_of(request, 5):
        os.kill(os.getpid(), signal.SIGKILL)
    return scripted_reply(request, seed)


def lost(place, request, seed):
    if asks_of(request, 5):
        raise EngineLost("The server is gone.")
    return scripted_reply(request, seed)


def broken(place, request, seed):
    raise KeyError("a mistake in the code")


def test_two_processes_make_the_run_of_one(photo_source, scripted_roles, executor, tmp_path):
    """A run that one process began, two finish; nothing tells how it was made."""
    whole = generation.generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    generation.generate(config(photo_source), tmp_path / "run", max_chunks=1, roles=scripted_roles)
    told = []
    run = generation.generate(config(photo_source), tmp_path / "run", told.append, executor=executor(plain))
    assert file_bytes(run) == file_bytes(whole)
    assert [(step.done, step.resumed) for step in told] == [(n, 1) for n in range(1, 6)]
    assert sorted(record["chunk"] for record in run_folder.times(run)) == [0, 1, 2, 3, 4]
    assert not multiprocessing.active_children()


def test_the_chunk_of_a_killed_process_is_done_again(photo_source, scripted_roles, executor, tmp_path, monkeypatch):
    whole = generation.generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    monkeypatch.setenv("VISRL_TEST_MARK", str(tmp_path / "mark"))
    run = generation.generate(config(photo_source), tmp_path / "run", executor=executor(killed_once))
    assert (tmp_path / "mark").exists()
    assert file_bytes(run) == file_bytes(whole)
    events = {record["chunk"]: record["events"] for record in run_folder.times(run)}
    assert len(events.pop(2)) == 1 and not any(events.values())
    [event] = next(record["events"] for record in run_folder.times(run) if record["chunk"] == 2)
    assert "killed by signal 9 at chunk 2" in event


def test_a_process_that_dies_while_it_waits_is_replaced_and_no_chunk_is_blamed(executor, caplog):
    with executor(plain) as pair:
        first = pair._workers[0].process
        os.kill(first.pid, signal.SIGKILL)
        assert pair._poll() == ([], [])
        assert pair._workers[0].process is not first and "killed by signal 9 between two chunks" in caplog.text


def test_a_chunk_that_always_kills_ends_the_run_and_the_rest_is_kept(photo_source, executor, tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocess, "MAX_DEATHS", 2)
    with pytest.raises(VisRLError, match="killed by signal 9 at chunk 2, the last of 2 tries"):
        generation.generate(config(photo_source), tmp_path / "run", executor=executor(killed_always))
    run = run_folder.Run(tmp_path / "run")
    kept = [i for i in range(5) if run.has_chunk(i)]
    assert 2 not in kept and len(kept) >= 3, "it was tried again after the others"
    assert not run.is_finished and not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (lost, VisRLError, "The server is gone.*visrl gen --config"),
        (broken, RuntimeError, "in the process on CPU process .*a mistake in the code"),
        (odd, VisRLError, "started with different options:.*place: .*CPU process"),
    ],
)
def test_what_a_process_raises_is_raised_here(photo_source, executor, tmp_path, script, kind, message):
    with pytest.raises(kind, match=f"(?s){message}"):
        generation.generate(config(photo_source), tmp_path / "run", executor=executor(script))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {"device": "cpu"}, "--devices 0"),
        (2, {"device": "mps"}, "--device mps: expected cuda, cpu or auto"),
        (2, {"device": "cuda:1"}, "--device cuda:1: expected"),
        (999, {"device": "cuda"}, "--devices 999: this machine shows"),
        (2, {"engine": "openai"}, "--in-flight"),
        (2, {"engine": "vllm", "vllm_options": {"tensor_parallel_size": 2}}, "Leave one of the two out"),
        (2, {"engine": "vllm", "vllm_options": {"tensor_parallel_size": "two"}}, "Leave one of the two out"),
    ],
)
def test_what_can_t_be_spread_is_refused(count, options, message):
    with pytest.raises(UsageError, match=message):
        multiprocess.worker_devices(GenConfig(**options), count)


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(multiprocess, "_cores", lambda: 7)
    assert [place.threads for place in multiprocess.worker_devices(GenConfig(device="cpu"), 3)] == [2, 2, 2]
    assert [place.threads for place in multiprocess.worker_devices(GenConfig(device="cpu"), 9)] == [1] * 9


def command(folder, *more):
    given = ["gen", "--limit", "12", "--chunk-size", "2", "--device", "cpu", "-o", str(folder), *more]
    return [sys.executable, "-m", "visrl_cli", *given]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_command_under_kills_and_ctrl_c(tmp_path):
    """Spotlight itself: a worker is killed, then Ctrl-C reaches the whole group, then it goes on to the same bytes."""
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(
        command(tmp_path / "run", "--devices", "2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"COLUMNS": "500"},
    )
    wait_for_chunks(process, tmp_path / "run", 1)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    wait_for_chunks(process, tmp_path / "run", 3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "run the same command again" in err and "Traceback" not in err
    assert "was killed by signal 9" in err
    print(err)
    assert not run_folder.Run(tmp_path / "run").is_finished
    done = subprocess.run(command(tmp_path / "run", "--devices", "2"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert file_bytes(run_folder.Run(tmp_path / "run")) == file_bytes(run_folder.Run(tmp_path / "whole"))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["config"].get("devices") is None


def wait_for_chunks(process, folder, count):
    while len(list((folder / "work").glob("chunk-????????"))) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def children(pid):
    """The processes that work for it, without multiprocessing's own keeper of resources."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in status.with_name("cmdline").read_bytes():
                found.append(int(status.parent.name))
        except (OSError, IndexError):
            continue
    return sorted(found)
