"""Run the factory into a run folder: open it, make the missing chunks on an executor, finalize."""

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
from visrl_data.pipeline.factory import build
from visrl_data.runs import run_folder
from visrl_data.runs.run_folder import Run


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each chunk. chunks, questions: those to be made here. resumed: chunks of an earlier start."""

    done: int
    chunks: int
    resumed: int
    questions: int
    events: tuple[str, ...]


def generate(
    config: GenConfig,
    output: Path,
    on_chunk: Callable[[Progress], None] = lambda _: None,
    max_chunks: int | None = None,
    roles: tuple[Role, Role] | None = None,
    executor: Executor | None = None,
    shard: Shard | None = None,
) -> Run:
    """Run the factory into the folder `output`, going on where an earlier start stopped.

    max_chunks: stop after so many new chunks, leaving an unfinished run (for `--estimate`).
    roles: actor and critic on engines of one's own, in place of loading `config.model`.
    executor: who makes the chunks; default: this process. shard: make only its chunks, leaving an unfinished run;
    `output` is then its folder. Raises VisRLError for anything the user can mend; what was made until then stays.
    """
    text = to_toml(config)
    with executor or LocalExecutor(build(config, roles)) as executor:
        if shard:
            shards.check_siblings(output, text, executor.identity)
        with run_folder.open_run(output, text, executor.identity) as run:
            if run.finished:
                run_folder.remove_chunks(run)
                return run
            mine = shard.chunks(run.chunks) if shard else range(run.chunks)
            missing = [i for i in mine if not run.has_chunk(i)]
            done = resumed = len(mine) - len(missing)
            size, rows = config.chunk_size, executor.identity["source"]["rows"]
            questions = sum(min(size, rows - i * size) for i in mine)
            try:
                for made in executor.make(run, missing[:max_chunks]):
                    run_folder.write_chunk(run, made.index, made.tables)
                    run.replies_path(made.index).unlink(missing_ok=True)
                    run_folder.log_time(run, made.record)
                    done += 1
                    on_chunk(Progress(done, len(mine), resumed, questions, tuple(made.record["events"])))
            except EngineLost as error:
                raise VisRLError(_lost(error, done, len(mine), run_folder.go_on(run.path))) from error
            if not shard and done == len(mine):
                finalize.finish(run, config, [run.chunk_path(i) for i in mine])
            return run


def _lost(error: EngineLost, done: int, chunks: int, again: str) -> str:
    return (
        f"{error}\n{done} of {chunks} chunks are done; the replies received since then are kept too. "
        f"Once the server answers again, go on with: {again}"
    )
