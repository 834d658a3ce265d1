"""Process chunks on a Ray cluster: one actor for each GPU, or for each CPU where there is no GPU (extra `ray`).

Ray Data maps chunk numbers to tables. It retries the chunks of a lost actor or node without limit; an exception in a
chunk is not retried but raised here. Only the driver writes. Every node needs this package and its dependencies in
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

from visrl_data.core.conditions import check_same
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.protocol import EngineLost
from visrl_data.executors.protocol import check_local, silence_libraries
from visrl_data.pipeline.factory import ChunkResult
from visrl_data.runs.manifest import RunIdentity
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
        self._identity: RunIdentity

    @property
    def identity(self) -> RunIdentity:
        return self._identity

    def __enter__(self) -> RayExecutor:
        import ray

        try:
            dashboard = False if self._address == "local" else None
            ray.init(self._address, logging_level=logging.WARNING, include_dashboard=dashboard)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise VisRLError(f"--ray {self._address}: no Ray cluster answers there ({error}).") from error
        try:
            resources = ray.cluster_resources()
            gpus = int(resources.get("GPU", 0)) if self._config.device != "cpu" else 0
            if self._config.device == "cuda" and not gpus:
                raise UsageError(f"--ray with --device cuda: the cluster at {self._address} shows no GPU.")
            self._count = gpus or int(resources.get("CPU", 1))
            self._each = {"num_gpus": 1} if gpus else {"num_cpus": 1}
            self._config = dataclasses.replace(self._config, device="cuda" if gpus else "cpu")
            identity = ray.get(ray.remote(**self._each)(_identity).remote(self._config, os.getcwd()))
            if "raised" in identity:
                raise _error_from(identity)
            self._identity = identity
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def process_chunks(self, run: Run, indices: Sequence[int]) -> Iterator[ChunkResult]:
        """Process chunks on the cluster. Replies of servers to a lost chunk are lost: actors see no run folder."""
        import ray

        if not indices:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        chunks = ray.data.from_items([{"index": i} for i in indices], override_num_blocks=len(indices))
        tables = chunks.map_batches(
            ChunkActor,
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
                f"Ray failed: {str(error).strip().splitlines()[-1]}\n"
                "Finished chunks are kept; the same command resumes."
            ) from error


class ChunkActor:
    """Build the factory once, then process one chunk a call."""

    def __init__(self, config: GenConfig, expected: RunIdentity, folder: str) -> None:
        self._factory, identity = _build(config, folder, expected)
        self._failure = identity if "raised" in identity else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        from visrl_data.pipeline import factory

        [index] = batch["index"].to_pylist()
        if self._failure:
            return _pack(index, self._failure, {})
        try:
            chunk = factory.process_chunk(self._factory, index, None)
        except Exception as error:  # returned as data, since Ray would retry the chunk and fail again
            return _pack(index, _error_record(error), {})
        return _pack(index, chunk.record, chunk.tables)


def _identity(config: GenConfig, folder: str) -> Any:
    return _build(config, folder)[1]


def _build(config: GenConfig, folder: str, expected: RunIdentity | None = None) -> tuple[Any, Any]:
    """Return the factory and its identity, or None and the record of an error that the driver raises.

    expected: the identity that it must have.
    """
    from visrl_data.pipeline import factory

    try:
        silence_libraries()
        os.chdir(folder)  # relative paths are those of the command
        built = factory.build(config)
        advice = "Use a cluster whose nodes are all of one kind."
        check_same("The cluster's devices", expected or built.identity, built.identity, advice)
    except OSError as error:
        return None, _error_record(VisRLError(f"{error}. All nodes of the cluster must see the same files."))
    except Exception as error:
        return None, _error_record(error)
    return built, built.identity


def _error_record(error: Exception) -> dict[str, str]:
    """Return an error as a record: its own class where the user can fix it, else with the traceback."""
    kind = next((known.__name__ for known in _RAISED if isinstance(error, known)), None)
    if kind is None:
        return {"raised": "RuntimeError", "message": f"in a Ray actor:\n{traceback.format_exc()}"}
    return {"raised": kind, "message": str(error)}


def _error_from(record: dict[str, Any]) -> Exception:
    return next((kind for kind in _RAISED if kind.__name__ == record["raised"]), RuntimeError)(record["message"])


def _pack(index: int, record: dict[str, Any], tables: dict[str, pa.Table]) -> pa.Table:
    """Return a chunk as one row: the record as JSON, each table as an Arrow stream."""
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
        raise _error_from(record)
    return ChunkResult(row["index"], {name: pa.ipc.open_stream(row[name]).read_all() for name in TABLES}, record)
