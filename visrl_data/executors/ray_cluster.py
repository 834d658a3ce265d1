"""Process chunks on a Ray cluster: one actor for each GPU, or for each CPU where there is no GPU (extra `ray`).

Ray Data maps the chunks' numbers to their tables and does those of a lost actor or node again, without end; an
exception is no loss, and is raised here. The process that started it alone writes. Every node needs this package in
the same versions, and the files that the options name at the same paths.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.protocol import EngineLost
from visrl_data.executors.protocol import check_local, silence_libraries
from visrl_data.pipeline.factory import ChunkResult
from visrl_data.runs.run_folder import TABLES, Run

_RAISED = (EngineLost, UsageError, VisRLError)  # the narrower ones first


class RayExecutor:
    """Process chunks on the devices of a Ray cluster; leaving the context disconnects.

    address: "auto" for the cluster that this machine belongs to, HOST:PORT or ray://HOST:PORT for another, "local"
    for one that is started here and ended afterwards. Raises UsageError where Ray is not installed or the options
    need no device, VisRLError when the cluster can't be reached or the models can't be loaded there.
    """

    def __init__(self, config: GenConfig, address: str) -> None:
        check_local(config, "--ray")
        if config.device not in ("auto", "cuda", "cpu"):
            raise UsageError(f"--ray with --device {config.device}: expected cuda, cpu or auto.")
        try:
            import ray  # noqa: F401
        except ImportError:
            raise UsageError("--ray needs Ray Data: pip install '.[ray]', on every node.") from None
        self._config, self._address = config, address
        self._identity: dict[str, Any] = {}

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def __enter__(self) -> RayExecutor:
        import ray

        try:
            ray.init(self._address, logging_level=logging.WARNING, include_dashboard=False if self._own else None)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise VisRLError(f"--ray {self._address}: no Ray cluster answers there ({error}).") from error
        try:
            found = ray.cluster_resources()
            gpus = int(found.get("GPU", 0)) if self._config.device != "cpu" else 0
            if self._config.device == "cuda" and not gpus:
                raise UsageError(f"--ray with --device cuda: the cluster at {self._address} shows no GPU.")
            self._count = gpus or int(found.get("CPU", 1))
            self._each = {"num_gpus": 1} if gpus else {"num_cpus": 1}
            self._config = dataclasses.replace(self._config, device="cuda" if gpus else "cpu")
            told = ray.get(ray.remote(**self._each)(_identity).remote(self._config, os.getcwd()))
            if "raised" in told:
                raise _raised(told)
            self._identity = told
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def _own(self) -> bool:
        return self._address == "local"

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def make(self, run: Run, indices: Sequence[int]) -> Iterator[ChunkResult]:
        """Replies of servers are not kept for a chunk that is lost: an actor may be where the run folder is not."""
        import ray

        if not indices:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        chunks = ray.data.from_items([{"index": i} for i in indices], override_num_blocks=len(indices))
        tables = chunks.map_batches(
            Actor,
            fn_constructor_args=(self._config, self._identity, os.getcwd()),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=min(self._count, len(indices)),
                initial_size=min(self._count, len(indices)),
                max_tasks_in_flight_per_actor=1,
            ),
            **self._each,
        )
        try:
            for batch in tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in batch.to_pylist():
                    yield _unpack(row)
        except ray.exceptions.RayError as error:
            raise VisRLError(
                f"Ray gave up: {str(error).strip().splitlines()[-1]}\n"
                "Finished chunks are kept; the same command goes on."
            ) from error


class Actor:
    """Builds the factory once, then makes a chunk a call."""

    def __init__(self, config: GenConfig, expected: dict[str, Any], folder: str) -> None:
        self._built, told = _build(config, folder)
        self._wrong = told if "raised" in told else _unlike(expected, told)

    def __call__(self, batch: pa.Table) -> pa.Table:
        from visrl_data.pipeline import factory

        [index] = batch["index"].to_pylist()
        if self._wrong:
            return _pack(index, self._wrong, {})
        try:
            made = factory.make_chunk(self._built, index, None)
        except Exception as error:  # no better at a second try, so Ray is not told
            return _pack(index, _told(error), {})
        return _pack(index, made.record, made.tables)


def _identity(config: GenConfig, folder: str) -> dict[str, Any]:
    return _build(config, folder)[1]


def _build(config: GenConfig, folder: str) -> tuple[Any, dict[str, Any]]:
    """The factory and its identity, or None and what to raise at home."""
    from visrl_data.pipeline import factory

    try:
        silence_libraries()
        os.chdir(folder)  # relative paths are those of the command
        built = factory.build(config)
    except OSError as error:
        return None, _told(VisRLError(f"{error}. All nodes of the cluster must see the same files."))
    except Exception as error:
        return None, _told(error)
    return built, built.identity


def _unlike(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, str] | None:
    changed = [key for key in found if found[key] != expected.get(key)]
    if not changed:
        return None
    shown = "\n".join(f"  {key}: {expected.get(key)} -> {found[key]}" for key in changed)
    return _told(VisRLError(f"The cluster's devices are not alike; rows would differ. One has -> another:\n{shown}"))


def _told(error: Exception) -> dict[str, str]:
    """An error as it travels: its own kind where the user can mend it, else with the place in the code."""
    kind = next((known.__name__ for known in _RAISED if isinstance(error, known)), None)
    if kind is None:
        return {"raised": "RuntimeError", "message": f"in a Ray actor:\n{traceback.format_exc()}"}
    return {"raised": kind, "message": str(error)}


def _raised(told: dict[str, str]) -> Exception:
    return next((kind for kind in _RAISED if kind.__name__ == told["raised"]), RuntimeError)(told["message"])


def _pack(index: int, record: dict[str, Any], tables: dict[str, pa.Table]) -> pa.Table:
    """One row that travels: the record as JSON, each table as an Arrow stream."""
    row: dict[str, Any] = {"index": index, "record": json.dumps(record)}
    for name, schema in TABLES.items():
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, schema) as writer:
            if name in tables:
                writer.write_table(tables[name].cast(schema))
        row[name] = buffer.getvalue()
    streams = [(name, pa.large_binary()) for name in TABLES]
    return pa.Table.from_pylist([row], pa.schema([("index", pa.int64()), ("record", pa.string()), *streams]))


def _unpack(row: dict[str, Any]) -> ChunkResult:
    record = json.loads(row["record"])
    if "raised" in record:
        raise _raised(record)
    return ChunkResult(row["index"], {name: pa.ipc.open_stream(row[name]).read_all() for name in TABLES}, record)
