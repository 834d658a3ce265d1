"""A run on a Ray cluster of two nodes that loses an actor and a node is the run of one process."""

import dataclasses
import functools
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import scripted_reply
from tests.pipeline.test_factory import file_bytes
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.protocol import EngineLost, Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors import generation, ray_cluster
from visrl_data.pipeline import factory
from visrl_data.runs import run_folder


def config(source, **options):
    return GenConfig(source=str(source), device="cpu", **{"chunk_size": 1, **options})


def with_dice(function):
    """The function, while the factory is built with a model made of dice."""

    @functools.wraps(function)
    def wrapped(*given):
        real, engine = factory.build, ScriptedEngine(scripted_reply)
        factory.build = lambda options: real(options, (Role(engine, True), Role(engine, False)))
        try:
            return function(*given)
        finally:
            factory.build = real

    return wrapped


def scripted_identity(options, folder):
    return with_dice(ray_cluster._build)(options, folder)[1]


class SlowActor(ray_cluster.ChunkActor):
    """Notes when it begins and ends a chunk, and where; a chunk takes two seconds."""

    def __init__(self, options, expected, folder):
        with_dice(super().__init__)(options, expected, folder)
        self._marks = Path(folder) / "marks"

    def _mark(self, index, state):
        import ray

        node = ray.get_runtime_context().get_node_id()
        with self._marks.open("a") as file:
            file.write(json.dumps({"index": index, "state": state, "pid": os.getpid(), "node": node}) + "\n")

    def __call__(self, batch):
        [index] = batch["index"].to_pylist()
        self._mark(index, "begin")
        time.sleep(2)
        result = super().__call__(batch)
        self._mark(index, "end")
        return result


def marks(folder):
    file = folder / "marks"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def at_work(folder):
    """The last mark of each actor that is in the middle of a chunk."""
    last = {mark["pid"]: mark for mark in marks(folder)}
    return [mark for mark in last.values() if mark["state"] == "begin"]


@pytest.fixture
def cluster():
    pytest.importorskip("ray.data", reason="needs Ray (pip install '.[ray]')")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.second = made.add_node(**node)
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_lost_actor_and_a_lost_node_change_no_byte(cluster, photo_source, scripted_roles, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "_identity", scripted_identity)
    monkeypatch.setattr(ray_cluster, "ChunkActor", SlowActor)
    monkeypatch.chdir(tmp_path)
    whole = generation.generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    lost = []

    def lose():
        """First an actor of one node, then the other node, each as soon as it is in the middle of a chunk."""
        for second in (False, True):
            while not (busy := [m for m in at_work(tmp_path) if (m["node"] == cluster.second.node_id) == second]):
                time.sleep(0.05)
            lost.append(busy[0])
            if second:
                cluster.remove_node(cluster.second, allow_graceful=False)
            else:
                os.kill(busy[0]["pid"], signal.SIGKILL)

    threading.Thread(target=lose, daemon=True).start()
    run = generation.generate(
        config(photo_source), tmp_path / "run", executor=ray_cluster.RayExecutor(config(photo_source), cluster.address)
    )
    assert len(lost) == 2 and lost[0]["node"] != lost[1]["node"], "an actor of one node, then the other node"
    begun = [mark["index"] for mark in marks(tmp_path) if mark["state"] == "begin"]
    assert all(begun.count(mark["index"]) >= 2 for mark in lost), "what they held was begun again"
    assert sorted(record["chunk"] for record in run_folder.times(run)) == list(range(10)), "each chunk is written once"
    assert file_bytes(run) == file_bytes(whole)


@pytest.mark.slow
def test_what_an_actor_raises_is_raised_here(cluster, tmp_path):
    """The models are looked for on the cluster, not here; nothing is left behind."""
    wrong = GenConfig(model=str(tmp_path / "nowhere"), device="cpu")
    with pytest.raises(VisRLError, match="nowhere"):
        generation.generate(wrong, tmp_path / "run", executor=ray_cluster.RayExecutor(wrong, cluster.address))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="shows no GPU"):
        ray_cluster.RayExecutor(dataclasses.replace(wrong, device="cuda"), cluster.address).__enter__()


def test_a_chunk_travels_unchanged(photo_source, scripted_roles):
    """Without a cluster: what an actor sends is what it made, and an error is raised by its kind."""
    made = factory.process_chunk(factory.build(config(photo_source), scripted_roles), 3, None)
    [row] = ray_cluster._pack(made.index, made.record, made.tables).to_pylist()
    assert ray_cluster._unpack(row) == made
    for error, kind in ((UsageError("no"), UsageError), (EngineLost("no"), EngineLost), (KeyError("no"), RuntimeError)):
        [row] = ray_cluster._pack(3, ray_cluster._error_record(error), {}).to_pylist()
        with pytest.raises(kind):
            ray_cluster._unpack(row)


def test_a_served_model_needs_no_cluster():
    with pytest.raises(UsageError, match="--in-flight"):
        ray_cluster.RayExecutor(GenConfig(engine="openai"), "auto")
