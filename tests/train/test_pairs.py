"""--data A --data B: the pairs of several runs train together."""

import dataclasses
import json

import pytest

from tests.helpers.command import visrl
from tests.train.test_helpers import QUICK, make_run
from visrl_data.core.errors import UsageError, VisRLError
from visrl_train.pairs import join, read_pairs
from visrl_train.rl1 import find_actor
from visrl_train.rl2 import find_rl1_model

pytest_plugins = ["tests.train.test_helpers"]


@pytest.fixture(scope="module")
def second_run(tmp_path_factory):
    """Other draws for the same questions, and more of them."""
    return make_run(tmp_path_factory.mktemp("runs") / "second", limit=30, seed=1)


def test_pairs_of_all_sets_under_ids_of_their_own(scripted_run, second_run):
    one, two = read_pairs(str(scripted_run)), read_pairs(str(second_run))
    joined = read_pairs([str(scripted_run), str(second_run)])
    assert len(joined.pairs) == len(one.pairs) + len(two.pairs)
    ids = [pair.id for pair in joined.pairs]
    assert len(set(ids)) == len(ids) and {pair.id for pair in one.pairs} & {pair.id for pair in two.pairs}
    for pair, alone in zip(joined.pairs, one.pairs + two.pairs, strict=True):
        assert dataclasses.replace(pair, id=alone.id) == alone
        assert joined.read_image(pair.image)
    other_way = read_pairs([str(second_run), str(scripted_run)])
    assert other_way.digest == joined.digest and set(ids) == {pair.id for pair in other_way.pairs}


def test_sets_that_do_not_go_together_are_refused(scripted_run, second_run):
    one, two = read_pairs(str(scripted_run)), read_pairs(str(second_run))
    with pytest.raises(UsageError, match="the same pairs twice"):
        join([one, two, one])
    with pytest.raises(VisRLError, match=r"box space: .* -> per_mille\n(.|\n)*made alike"):
        join([one, dataclasses.replace(two, box_space="per_mille")])
    made = [dataclasses.replace(pairs, actor="m", actor_digest=d) for pairs, d in ((one, "a"), (two, "b"))]
    with pytest.raises(VisRLError, match="were made by different models. Name the one to train with --model"):
        find_actor(join(made))


def test_the_command_takes_several(sft_model, scripted_run, second_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**QUICK, "batch_size": 16}.items()]
    data = ["--data", scripted_run, "--data", second_run]
    code, out, err = visrl("train", "rl1", *data, "--model", sft_model, *flags)
    assert code == 0, err
    folder = out.strip().splitlines()[-1]
    assert folder.startswith("models/rl1-drawn+second-")
    assert f"visrl train rl2 --data {scripted_run} --data {second_run} --model " in err
    record = json.loads((tmp_path / folder / "visrl.json").read_text())["data"]
    assert record["pairs"] == sum(part["pairs"] for part in record["parts"])
    again = visrl("train", "rl1", "--config", f"{folder}/config.toml", "-o", folder)
    assert again[0] == 0, again[2]
    assert find_rl1_model(read_pairs([str(second_run), str(scripted_run)])).path == (tmp_path / folder).resolve()
