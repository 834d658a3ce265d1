"""Run the factory into a run folder: open it, process the missing chunks on an executor, finalize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.errors import VisRLError
from visrl_data.engines.protocol import EngineLost, Role
from visrl_data.executors import shards
from visrl_data.executors.local import LocalExecutor
from visrl_data.executors.protocol import Executor
from visrl_data.executors.shards import Shard
from visrl_data.pipeline import finalize
from visrl_data.pipeline.factory import build, open_questions
from visrl_data.runs import growth, run_folder
from visrl_data.runs.run_folder import Run


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is, at its start and after each chunk.

    chunks, questions: how many this process has to do. resumed: the chunks of them that an earlier start did.
    events: what is worth saying of this chunk, a halved batch for one.
    """

    done: int
    chunks: int
    resumed: int
    questions: int
    events: tuple[str, ...]


def generate(
    config: GenConfig,
    output: Path,
    on_chunk: Callable[[RunProgress], None] = lambda _: None,
    max_chunks: int | None = None,
    roles: tuple[Role, Role] | None = None,
    executor: Executor | None = None,
    shard: Shard | None = None,
) -> Run:
    """Run the factory into the folder `output`, or resume it there. Return the run; a finished one at once.

    A larger limit than the run in `output` has lets that run grow (runs/growth.py).

    on_chunk: called once the models are loaded, and after each chunk. max_chunks: stop after this many new chunks,
    leaving the run unfinished (for `--estimate`). roles: actor and critic on engines of your own, in place of loading
    `config.model`. executor: where chunks are processed; default: this process. shard: process only its chunks,
    leaving the run unfinished; `output` is then the shard's folder.
    Raises VisRLError for anything that the user can fix; finished chunks are kept.
    """
    text = to_toml(config)
    with executor or LocalExecutor(build(config, roles)) as executor:
        if shard:
            shards.check_siblings(output, text, executor.identity)
        else:
            growth.grow(output, text, executor.identity, lambda: open_questions(config).ids())
        with run_folder.open_run(output, text, executor.identity) as run:
            if run.is_finished:
                run_folder.remove_chunks(run)
                return run
            chunk_ids = shard.chunks(run.chunks) if shard else range(run.chunks)
            missing = [i for i in chunk_ids if not run.has_chunk(i)]
            done = resumed = len(chunk_ids) - len(missing)
            size, rows = config.chunk_size, executor.identity["source"]["rows"]
            questions = sum(min(size, rows - i * size) for i in chunk_ids)
            on_chunk(RunProgress(done, len(chunk_ids), resumed, questions, ()))
            try:
                for chunk in executor.process_chunks(run, missing[:max_chunks]):
                    run_folder.write_chunk(run, chunk.index, chunk.tables)
                    run.replies_path(chunk.index).unlink(missing_ok=True)
                    run_folder.log_time(run, chunk.record)
                    done += 1
                    on_chunk(RunProgress(done, len(chunk_ids), resumed, questions, tuple(chunk.record["events"])))
            except EngineLost as error:
                raise VisRLError(
                    f"{error}\n{done} of {len(chunk_ids)} chunks are done; what a server replied since then is kept "
                    f"too. When it runs again, resume with: {run_folder.resume_command(run.path)}"
                ) from error
            if not shard and done == len(chunk_ids):
                finalize.finish(run, config, [run.chunk_path(i) for i in chunk_ids])
            return run
