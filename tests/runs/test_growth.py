"""A larger --limit lets a run grow: the bytes of a run made at once, and nothing generated again but a cut chunk."""

import json
import shutil

import pytest

from tests.conftest import scripted_reply
from tests.pipeline.test_factory import config, file_bytes
from visrl_data.core.errors import VisRLError
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors.generation import generate
from visrl_data.pipeline import finalize
from visrl_data.runs import growth, run_folder


@pytest.fixture
def rows(photo_source):
    """Ten questions, with bad rows among them, and one without any box."""
    lines = photo_source.read_text().splitlines()
    bad = json.dumps({"id": "gone", "question": "q", "answers": ["a"], "image": "gone.png"})
    photo_source.write_text(
        "\n".join([*lines[:2], bad, *lines[2:5], "{not json", *lines[5:], bad.replace("gone", "lost")]) + "\n"
    )
    return photo_source


@pytest.fixture
def roles():
    def script(request, seed):
        reply = scripted_reply(request, seed)
        return "I see nothing" if "3?" in request.parts[1].text and reply.startswith("[") else reply

    engine = ScriptedEngine(script)
    return Role(engine, True), Role(engine, False)


@pytest.mark.parametrize("limits", [(4, 13), (3, 13), (6, 8, 10, 13), (1, 2, 3), (5, None)])
def test_a_finished_run_grows_to_the_bytes_of_one_made_at_once(rows, roles, tmp_path, limits):
    whole = generate(config(rows, limit=limits[-1]), tmp_path / "whole", roles=roles)
    for limit in limits:
        run = generate(config(rows, limit=limit), tmp_path / "grown", roles=roles)
    assert file_bytes(run) == file_bytes(whole)


def test_whole_chunks_are_not_made_again(rows, roles, tmp_path):
    generate(config(rows, limit=7), tmp_path / "grown", roles=roles)
    (tmp_path / "grown" / "times.jsonl").unlink()
    run = generate(config(rows, limit=10), tmp_path / "grown", roles=roles)
    assert [record["chunk"] for record in run_folder.times(run)] == [2, 3], "rows 1 to 6 are two whole chunks"


def test_a_limit_beyond_the_source_makes_nothing_again(rows, roles, tmp_path):
    generate(config(rows), tmp_path / "grown", roles=roles)
    (tmp_path / "grown" / "times.jsonl").unlink()
    whole = generate(config(rows, limit=99), tmp_path / "whole", roles=roles)
    run = generate(config(rows, limit=99), tmp_path / "grown", roles=roles)
    assert run_folder.times(run) == [] and file_bytes(run) == file_bytes(whole)


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_an_unfinished_run_grows_too(rows, roles, tmp_path, chunks):
    whole = generate(config(rows), tmp_path / "whole", roles=roles)
    generate(config(rows, limit=5), tmp_path / "grown", roles=roles, max_chunks=chunks)
    assert file_bytes(generate(config(rows), tmp_path / "grown", roles=roles)) == file_bytes(whole)


@pytest.mark.parametrize("limit", [5, 13])
@pytest.mark.parametrize("step", ["write_chunk", "write_json", "write_text", "fsync", "lock_folder"])
def test_after_a_kill_both_runs_can_be_resumed(rows, roles, tmp_path, monkeypatch, step, limit):
    expected = generate(config(rows, limit=limit), tmp_path / "whole", roles=roles)
    generate(config(rows, limit=5), tmp_path / "grown", roles=roles)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_folder if step == "write_chunk" else growth, step, killed)
        generate(config(rows, limit=13), tmp_path / "grown", roles=roles)
    if step == "write_text" and limit == 5:  # the larger run has begun
        with pytest.raises(VisRLError, match="source.rows: 13 -> 5"):
            generate(config(rows, limit=limit), tmp_path / "grown", roles=roles)
        return
    assert file_bytes(generate(config(rows, limit=limit), tmp_path / "grown", roles=roles)) == file_bytes(expected)


def test_a_grown_run_is_filtered_by_its_own_options(rows, roles, tmp_path):
    whole = generate(config(rows), tmp_path / "whole", roles=roles)
    small = generate(config(rows, limit=6), tmp_path / "grown", roles=roles)
    finalize.filter_run(small.path, {"box_win": 1.0})
    assert file_bytes(generate(config(rows), tmp_path / "grown", roles=roles)) == file_bytes(whole)


@pytest.mark.parametrize("options", [{"limit": 3}, {"limit": 13, "seed": 1}])
def test_a_run_does_not_shrink_nor_change(rows, roles, tmp_path, options):
    small = generate(config(rows, limit=6), tmp_path / "run", roles=roles)
    before = file_bytes(small)
    with pytest.raises(VisRLError, match="started with different options"):
        generate(config(rows, **options), tmp_path / "run", roles=roles)
    assert file_bytes(small) == before


def test_a_damaged_run_does_not_grow(rows, roles, tmp_path):
    small = generate(config(rows, limit=6), tmp_path / "run", roles=roles)
    part = small.path / "questions" / "part-00000.parquet"
    shutil.copyfile(part, part.with_name("part-00001.parquet"))
    with pytest.raises(VisRLError, match="part-00001.parquet is no file of this run"):
        generate(config(rows), tmp_path / "run", roles=roles)
    assert small.is_finished


def test_a_run_without_its_images_does_not_grow(rows, roles, tmp_path):
    small = generate(config(rows, limit=6), tmp_path / "run", roles=roles)
    shutil.rmtree(small.path / "images")
    with pytest.raises(VisRLError, match="images/part-00000.parquet is missing"):
        generate(config(rows), tmp_path / "run", roles=roles)
    assert small.is_finished
