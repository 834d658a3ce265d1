"""Process chunks in several processes on one machine: one for each GPU, or several on a CPU.

Each process builds the factory on its own device and is handed one chunk at a time, so a slow chunk holds up nobody
else. Only the process that started them writes. One that dies (killed, out of memory) is replaced, and its chunk is
done again; a chunk that ends its process three times ends the run, which can go on later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.executors.protocol import check_local, silence_libraries
from visrl_data.pipeline.factory import ChunkResult
from visrl_data.runs.run_folder import Run

MOST_DEATHS = 3  # of processes at one chunk, or in loading on one device
_SECONDS = 10  # that an ended process may take to go
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """Where a process works: the n-th visible GPU, or the n-th share of the CPU's cores."""

    kind: str
    number: int
    threads: int

    def __str__(self) -> str:
        return f"cuda:{self.number}" if self.kind == "cuda" else f"CPU process {self.number + 1}"


@dataclass(slots=True)
class _Worker:
    """A process with our end of the pipe to it. index: the chunk that it processes."""

    place: WorkerDevice
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    index: int | None = None


class MultiprocessExecutor:
    """Process chunks in `count` worker processes; leaving the context ends them.

    Raises UsageError when there are not so many devices, VisRLError when the models can't be loaded or the devices
    are not of one kind.
    """

    def __init__(self, config: GenConfig, count: int) -> None:
        self._config = config
        self._places = places(config, count)
        self._workers: list[_Worker] = []
        self._identity: dict[str, Any] | None = None
        self._deaths: Counter[int | WorkerDevice] = Counter()

    @property
    def identity(self) -> dict[str, Any]:
        assert self._identity is not None, "known once the first process has loaded its models"
        return self._identity

    def __enter__(self) -> MultiprocessExecutor:
        try:
            self._workers = [_start(self._config, place) for place in self._places]
            while not all(worker.ready for worker in self._workers):
                self._poll()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_SECONDS)
            worker.process.kill()

    def make(self, run: Run, indices: Sequence[int]) -> Iterator[ChunkResult]:
        """Hand the chunks out one by one; yield each as it is finished."""
        waiting, finished = deque(indices), 0
        events: dict[int, list[str]] = defaultdict(list)
        while finished < len(indices):
            for worker in self._workers:
                if worker.ready and worker.index is None and waiting:
                    _hand(worker, waiting.popleft(), run)
            made, lost = self._poll()
            for index, event in lost:
                waiting.append(index)  # last, so that a chunk that ends processes keeps no other from being done
                events[index].append(event)
            for one in made:
                finished += 1
                one.record["events"] = events.pop(one.index, []) + one.record["events"]
                yield one

    def _poll(self) -> tuple[list[ChunkResult], list[tuple[int, str]]]:
        """Wait for news: chunks that are finished, and chunks whose process died, with what to say of it."""
        made, lost = [], []
        heard = wait([worker.pipe for worker in self._workers])
        for worker in [worker for worker in self._workers if worker.pipe in heard]:
            try:
                news = worker.pipe.recv()
            except (EOFError, OSError):
                event = self._replace(worker)
                if worker.index is not None:
                    lost.append((worker.index, event))
                continue
            if isinstance(news, Exception):
                raise news
            if isinstance(news, ChunkResult):
                worker.index = None
                made.append(news)
            else:
                self._on_ready(worker, news)
        return made, lost

    def _on_ready(self, worker: _Worker, identity: dict[str, Any]) -> None:
        """A process has loaded its models: what its rows depend on must be as it is with the others."""
        self._identity = self._identity or identity
        changed = [key for key in identity if identity[key] != self._identity.get(key)]
        if changed:
            shown = "\n".join(f"  {key}: {self._identity.get(key)} -> {identity[key]}" for key in changed)
            raise VisRLError(
                f"{worker.place} is not like the other devices; its rows would differ. They have -> it has:\n{shown}\n"
                "Name those of one kind in CUDA_VISIBLE_DEVICES."
            )
        worker.ready = True

    def _replace(self, worker: _Worker) -> str:
        """Start another process in the place of one that died. Raises VisRLError when that has not helped before."""
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        doing = "loading the models" if worker.index is None else f"chunk {worker.index}"
        event = f"The process on {worker.place} {how} at {doing}; a new one does it again."
        self._deaths[worker.place if worker.index is None else worker.index] += 1
        if max(self._deaths.values()) >= MOST_DEATHS:
            raise VisRLError(
                f"The process on {worker.place} {how} at {doing}, the last of {MOST_DEATHS} tries. If memory ran out, "
                "use fewer --devices or a smaller --batch-size. Finished chunks are kept; the same command goes on."
            )
        logger.warning("%s", event)
        self._workers[self._workers.index(worker)] = _start(self._config, worker.place)
        return event


def places(config: GenConfig, count: int) -> list[WorkerDevice]:
    """Where `count` processes go: GPUs if --device names or finds them, else shares of the CPU. Raises UsageError."""
    if count < 1:
        raise UsageError(f"--devices {count}: expected at least 1.")
    check_local(config, "--devices")
    import torch

    kind = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    if kind not in ("cuda", "cpu"):
        raise UsageError(f"--devices with --device {kind}: expected cuda, cpu or auto.")
    if kind == "cuda" and count > torch.cuda.device_count():
        raise UsageError(f"--devices {count}: this machine shows {torch.cuda.device_count()} GPUs.")
    threads = max(1, _cores() // count)
    return [WorkerDevice(kind, number, threads) for number in range(count)]


def _cores() -> int:
    """Those that this process may use, which in a job are often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(config: GenConfig, place: WorkerDevice) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(config, place, theirs), name=f"visrl {place}")
    process.start()
    theirs.close()  # else its death would not be noticed at our end
    return _Worker(place, process, ours)


def _hand(worker: _Worker, index: int, run: Run) -> None:
    worker.index = index
    with contextlib.suppress(OSError):  # it died while idle: `_poll` finds out
        worker.pipe.send((index, run.replies_path(index)))


def _work(config: GenConfig, place: WorkerDevice, pipe: Connection) -> None:
    """The process: build the factory, then make chunks until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process decides
    try:
        _settle(place)
        from visrl_data.pipeline import factory

        built = factory.build(dataclasses.replace(config, device=place.kind))
        pipe.send(built.identity)
        while True:
            try:
                index, replies = pipe.recv()
            except (EOFError, OSError):
                return
            pipe.send(factory.make_chunk(built, index, replies))
    except BrokenPipeError:  # nobody is there to hear
        return
    except VisRLError as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"in the process on {place}:\n{traceback.format_exc()}"))


def _settle(place: WorkerDevice) -> None:
    """Take this process's device and share of the cores, before torch is imported and looks for them."""
    logging.basicConfig(level=logging.WARNING, format=f"{place}: %(message)s")
    if place.kind == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place.number] if visible else str(place.number)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(place.threads))
    silence_libraries()
