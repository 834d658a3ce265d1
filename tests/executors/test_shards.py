"""A run in shards: joined it is the run of one process, byte for byte; what does not fit together is told."""

import json
import shutil

import pytest

from tests.helpers.command import visrl
from tests.helpers.hub_world import scripted_generate
from tests.pipeline.test_factory import file_bytes
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.executors import generation
from visrl_data.executors.shards import Shard, join, parse_shard


def config(source, **options):
    return GenConfig(source=str(source), **{"chunk_size": 2, **options})


def make(source, output, roles, number, of, **options):
    shard = Shard(number, of)
    return generation.generate(config(source, **options), shard.folder(output), roles=roles, shard=shard)


@pytest.mark.parametrize("of", [1, 3, 7])
def test_joined_shards_are_the_run_of_one_process(photo_source, scripted_roles, tmp_path, of):
    """Five chunks; with seven shards two of these have none."""
    whole = generation.generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    shards = [make(photo_source, tmp_path / "run", scripted_roles, number, of) for number in range(1, of + 1)]
    assert not any(shard.is_finished for shard in shards)
    assert sum(len(list((shard.path / "work").glob("chunk-*"))) for shard in shards) == 5, "each chunk is made once"
    run = join([shard.path for shard in reversed(shards)], tmp_path / "joined")
    assert file_bytes(run) == file_bytes(whole)


def test_a_run_is_joined_around_its_shards_and_joined_again_in_vain(photo_source, scripted_roles, tmp_path):
    whole = generation.generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    folders = [make(photo_source, tmp_path / "run", scripted_roles, number, 2).path for number in (1, 2)]
    before = [sorted(folder.rglob("*")) for folder in folders]
    for _ in range(2):
        run = join(folders, tmp_path / "run")
        assert run.manifest() == whole.manifest()
    assert [sorted(folder.rglob("*")) for folder in folders] == before, "the shards are left as they were"


def test_an_interrupted_shard_goes_on(photo_source, scripted_roles, tmp_path):
    shard = Shard(1, 2)
    folder = shard.folder(tmp_path / "run")
    told = []
    generation.generate(config(photo_source), folder, told.append, max_chunks=1, roles=scripted_roles, shard=shard)
    generation.generate(config(photo_source), folder, told.append, roles=scripted_roles, shard=shard)
    assert [(step.done, step.chunks, step.resumed, step.questions) for step in told] == [
        (0, 3, 0, 6), (1, 3, 0, 6), (1, 3, 1, 6), (2, 3, 1, 6), (3, 3, 1, 6),
    ]  # fmt: skip


def test_missing_chunks_are_told_with_the_commands_that_make_them(photo_source, scripted_roles, tmp_path):
    first, third = (make(photo_source, tmp_path / "run", scripted_roles, number, 3) for number in (1, 3))
    shutil.rmtree(first.chunk_path(3))
    with pytest.raises(VisRLError) as told:
        join([first.path, third.path], tmp_path / "joined")
    text = str(told.value)
    assert "3 of 5 chunks are missing: 1, 3, 4" in text
    for number in (1, 2):
        assert f"visrl gen --config {first.path}/config.toml --shard {number}/3 -o {tmp_path}/run" in text
    assert "--shard 3/3" not in text
    assert not (tmp_path / "joined").exists()


def test_a_shard_of_another_run_is_refused(photo_source, scripted_roles, tmp_path):
    mine = make(photo_source, tmp_path / "a", scripted_roles, 1, 2)
    other = make(photo_source, tmp_path / "b", scripted_roles, 2, 2, seed=1)
    with pytest.raises(VisRLError, match=r"(?s)started with different options:.*seed: 0 -> 1"):
        join([mine.path, other.path], tmp_path / "joined")
    moved = json.loads((mine.path / "run.json").read_text()) | {"versions": {"torch": "0.1"}}
    same = make(photo_source, tmp_path / "c", scripted_roles, 2, 2)
    (same.path / "run.json").write_text(json.dumps(moved))
    with pytest.raises(VisRLError, match=r"versions\.torch: .* -> 0\.1"):
        join([mine.path, same.path], tmp_path / "joined")


def test_a_shard_begun_otherwise_than_those_beside_it_is_refused_at_once(photo_source, scripted_roles, tmp_path):
    make(photo_source, tmp_path / "run", scripted_roles, 1, 2)
    with pytest.raises(VisRLError, match="temperature: 2.0 -> 1.5"):
        make(photo_source, tmp_path / "run", scripted_roles, 2, 2, temperature=1.5)
    assert not (tmp_path / "run" / "shard-2-of-2").exists()


def test_what_is_no_shard_is_refused(photo_source, scripted_roles, tmp_path):
    whole = generation.generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    with pytest.raises(UsageError, match="not a shard of a run"):
        join([whole.path], tmp_path / "joined")
    cuts = [make(photo_source, tmp_path / "run", scripted_roles, 1, of).path for of in (2, 3)]
    with pytest.raises(UsageError, match="Shards of 2 and of 3"):
        join(cuts, tmp_path / "joined")


@pytest.mark.parametrize(("text", "message"), [("0/8", "--array=1-N"), ("9/8", "from 1 to N"), ("2", "like 2/8")])
def test_a_wrong_part_is_told(text, message):
    with pytest.raises(UsageError, match=message):
        parse_shard(text)


def test_the_commands(photo_source, tmp_path):
    """As a job array types them; what each prints is the next one's command."""
    given = ["gen", "--source", photo_source, "--chunk-size", 2]
    with scripted_generate():
        assert visrl(*given, "-o", tmp_path / "whole")[0] == 0
        for number in (1, 2):
            code, out, err = visrl(*given, "-o", tmp_path / "run", "--shard", f"{number}/2")
            assert code == 0, err
            assert f"visrl join {tmp_path}/run/shard-*-of-2 -o {tmp_path}/run" in out
        assert visrl("inspect", tmp_path / "run" / "shard-1-of-2")[0] == 1, "unfinished"
        assert visrl(*given, "-o", tmp_path / "x", "--shard", "1/2", "--push-to-hub")[0] == 2
    code, out, err = visrl("join", *(tmp_path / "run").glob("shard-*"), "-o", tmp_path / "run", "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == str(tmp_path / "run")
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("whole", "run")]
    assert manifests[0] == manifests[1]


def test_a_folder_of_somebody_else_gets_no_shard(photo_source, scripted_roles, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(VisRLError, match="is not empty .it holds thesis.txt"):
        make(photo_source, tmp_path / "run", scripted_roles, 1, 2)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["thesis.txt"]
