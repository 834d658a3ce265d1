"""Process chunks in several processes on one machine: one for each GPU, or several on a CPU.

Each worker builds the factory on its own device and receives one chunk at a time, so a slow chunk delays no other.
Only the parent process writes. A worker that dies (killed, out of memory) is replaced, and its chunk is repeated; a
chunk that kills three workers ends the run, which can be resumed.
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

from visrl_data.core.conditions import check_same
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.executors.protocol import check_local, silence_libraries
from visrl_data.pipeline.factory import ChunkResult
from visrl_data.runs.manifest import RunIdentity
from visrl_data.runs.run_folder import Run

MAX_DEATHS = 3  # of workers at one chunk, or in loading on one device
_EXIT_SECONDS = 10  # given to a terminated worker before it is killed
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """What a worker computes on: the n-th visible GPU, or the n-th share of the CPU's cores."""

    kind: str
    number: int
    threads: int

    def __str__(self) -> str:
        return f"cuda:{self.number}" if self.kind == "cuda" else f"CPU process {self.number + 1}"


@dataclass(slots=True)
class _Worker:
    """A process and our end of the pipe to it. index: the chunk that it processes."""

    device: WorkerDevice
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
        self._devices = worker_devices(config, count)
        self._workers: list[_Worker] = []
        self._identity: RunIdentity | None = None
        self._deaths: Counter[int | WorkerDevice] = Counter()

    @property
    def identity(self) -> RunIdentity:
        assert self._identity is not None, "known once the first process has loaded its models"
        return self._identity

    def __enter__(self) -> MultiprocessExecutor:
        try:
            self._workers = [_start(self._config, device) for device in self._devices]
            while not all(worker.ready for worker in self._workers):
                self._poll()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.pipe.close()  # which ends it, if it is idle
            if worker.index is not None or not worker.ready:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_EXIT_SECONDS)
            worker.process.kill()

    def process_chunks(self, run: Run, indices: Sequence[int]) -> Iterator[ChunkResult]:
        """Send the chunks to free workers; yield each as it is finished."""
        waiting, finished = deque(indices), 0
        events: dict[int, list[str]] = defaultdict(list)
        while finished < len(indices):
            for worker in self._workers:
                if worker.ready and worker.index is None and waiting:
                    _send(worker, waiting.popleft(), run)
            results, lost = self._poll()
            for index, event in lost:
                waiting.append(index)  # at the end, so that a chunk that kills workers delays no other
                events[index].append(event)
            for result in results:
                finished += 1
                result.record["events"] = events.pop(result.index, []) + result.record["events"]
                yield result

    def _poll(self) -> tuple[list[ChunkResult], list[tuple[int, str]]]:
        """Wait for messages of the workers. Return finished chunks, and lost ones with what happened to them."""
        results, lost = [], []
        readable = wait([worker.pipe for worker in self._workers])
        for worker in [worker for worker in self._workers if worker.pipe in readable]:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                event = self._replace(worker)
                if worker.index is not None:
                    lost.append((worker.index, event))
                continue
            if isinstance(message, Exception):
                raise message
            if isinstance(message, ChunkResult):
                worker.index = None
                results.append(message)
            else:
                self._on_ready(worker, message)
        return results, lost

    def _on_ready(self, worker: _Worker, identity: RunIdentity) -> None:
        """Take a worker that has loaded its models. Raises VisRLError when its rows would differ from the others'."""
        self._identity = self._identity or identity
        advice = "Name devices of one kind in CUDA_VISIBLE_DEVICES."
        check_same(f"The other devices and {worker.device}", self._identity, identity, advice)
        worker.ready = True

    def _replace(self, worker: _Worker) -> str:
        """Replace a worker that died. Return the event. Raises VisRLError after MAX_DEATHS of them."""
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        idle = "between two chunks" if worker.ready else "while loading the models"
        when = idle if worker.index is None else f"at chunk {worker.index}"
        event = f"The process on {worker.device} {how} {when}; it is restarted."
        self._deaths[worker.device if worker.index is None else worker.index] += 1
        if max(self._deaths.values()) >= MAX_DEATHS:
            raise VisRLError(
                f"The process on {worker.device} {how} {when}, the last of {MAX_DEATHS} tries. If memory ran out, "
                "use fewer --devices or a smaller --batch-size. Finished chunks are kept; the same command resumes."
            )
        logger.warning("%s", event)
        self._workers[self._workers.index(worker)] = _start(self._config, worker.device)
        return event


def worker_devices(config: GenConfig, count: int) -> list[WorkerDevice]:
    """Return `count` devices: GPUs if --device names or finds them, else shares of the CPU. Raises UsageError."""
    if count < 1:
        raise UsageError(f"--devices {count}: expected at least 1.")
    check_local(config, "--devices")
    if count > 1 and (config.vllm_options or {}).get("tensor_parallel_size", 1) != 1:
        raise UsageError(
            f"--devices {count} with --vllm-options tensor_parallel_size: each process has one device, and one model "
            "on several is one process. Leave one of the two out."
        )
    import torch

    kind = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    if kind not in ("cuda", "cpu"):
        raise UsageError(f"--devices with --device {kind}: expected cuda, cpu or auto.")
    if kind == "cuda" and count > torch.cuda.device_count():
        raise UsageError(f"--devices {count}: this machine shows {torch.cuda.device_count()} GPUs.")
    threads = max(1, _cores() // count)
    return [WorkerDevice(kind, number, threads) for number in range(count)]


def _cores() -> int:
    """Return how many cores this process may use, which in a job are often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(config: GenConfig, device: WorkerDevice) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(config, device, theirs), name=f"visrl {device}")
    process.start()
    theirs.close()  # else its death would not be noticed at our end
    return _Worker(device, process, ours)


def _send(worker: _Worker, index: int, run: Run) -> None:
    worker.index = index
    with contextlib.suppress(OSError):  # it died while idle: `_poll` finds out
        worker.pipe.send((index, run.replies_path(index)))


def _work(config: GenConfig, device: WorkerDevice, pipe: Connection) -> None:
    """Build the factory, then process chunks until the parent closes the pipe: a worker's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        _take_device(device)
        from visrl_data.pipeline import factory

        built = factory.build(dataclasses.replace(config, device=device.kind))
        pipe.send(built.identity)
        while True:
            try:
                index, replies = pipe.recv()
            except (EOFError, OSError):
                return
            pipe.send(factory.process_chunk(built, index, replies))
    except BrokenPipeError:  # the parent is gone
        return
    except VisRLError as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"in the process on {device}:\n{traceback.format_exc()}"))


def _take_device(device: WorkerDevice) -> None:
    """Set this process's device and share of the cores. Call it before torch is imported, which reads both."""
    logging.basicConfig(level=logging.WARNING, format=f"{device}: %(message)s")
    if device.kind == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.number] if visible else str(device.number)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(device.threads))
    silence_libraries()
