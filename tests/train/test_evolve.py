"""`visrl evolve`: who makes what in each round, resumption at every stage, the original critic, what can be mended."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import scripted_reply
from tests.helpers.command import visrl
from tests.train.test_helpers import QUICK
from visrl_data.core import files
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.models.model_folder import digest_folder, find_model
from visrl_data.pipeline import factory, model_pair
from visrl_data.runs import run_folder
from visrl_train import evolve as evolving
from visrl_train import rl1, rl2
from visrl_train.evolve_config import EvolveConfig
from visrl_train.evolve_curves import curves, points

pytest_plugins = ["tests.train.test_helpers"]


class Acting(ScriptedEngine):
    """Dice with the identity of the folder that was asked for."""

    def __init__(self, folder):
        super().__init__(lambda request, seed: self._say(request, seed))
        self._folder = folder

    def _say(self, request, seed):
        said = scripted_reply(request, seed)
        return (
            "7" if request.sampling.temperature == 0 and said in ("6", "8") and "crop" in str(request.parts) else said
        )

    def identity(self):
        digests = {"digest": self._folder.digest, "weights_digest": self._folder.weights.digest}
        return {"engine": self.name, "model": self._folder.id, **digests}


@pytest.fixture
def acts(monkeypatch):
    """Generation and evaluation by dice; the folders that were loaded for them."""
    loaded = []

    def load(config, folder, logprobs):
        loaded.append(Path(folder.id).name)
        return Acting(folder)

    monkeypatch.setattr(model_pair, "load_engine", load)
    return loaded


@pytest.fixture
def trains(monkeypatch):
    """Training that takes no time: the model with its weights moved. What was asked for, in order."""
    asked = []

    def stand_in(stage):
        def train(config, output):
            asked.append((stage, Path(config.model).name, Path(config.data).name))
            source, pairs = find_model(config.model), Path(config.data) / "manifest.json"
            shutil.copytree(source.path, output)
            weights = load_file(output / "adapter_model.safetensors")
            save_file({name: w + 1e-3 for name, w in weights.items()}, output / "adapter_model.safetensors")
            record = json.loads((output / "visrl.json").read_text()) | {
                "trained_from": {"id": source.id, "digest": source.digest}
            }
            record |= {"digest": digest_folder(output), "data": {"manifest_sha256": files.file_digest(pairs)}}
            files.write_json(output / "visrl.json", record)
            return output

        return train

    monkeypatch.setattr(rl1, "train", stand_in("rl1"))
    monkeypatch.setattr(rl2, "train", stand_in("rl2"))
    return asked


def options(sft_model, **more):
    return GenConfig(model=str(sft_model), box_win=0.5, box_lose=0.4, **{"limit": 8, "chunk_size": 4} | more)


def rounds(**more):
    return EvolveConfig(**{"rounds": 2, "eval_limit": 4} | more)


def test_the_new_model_makes_the_next_round_and_the_critic_stays(sft_model, acts, trains, tmp_path):
    report = evolving.evolve(rounds(), options(sft_model), tmp_path / "e")
    assert trains == [("rl1", "sft", "round0"), ("rl2", "round0-rl1", "round0"),
                      ("rl1", "round0-rl2", "round1"), ("rl2", "round1-rl1", "round1")]  # fmt: skip
    runs = [run_folder.Run(tmp_path / "e" / f"round{k}") for k in (0, 1)]
    assert [Path(run.config()["model"]).name for run in runs] == ["sft", "round0-rl2"]
    assert [run.config()["round"] for run in runs] == [0, 1]
    base = find_model(str(sft_model)).base.digest
    for run in runs:
        assert run.identity()["origin_base"]["digest"] == base == run.identity()["critic"]["weights_digest"]
        assert run.identity()["critic"]["adapter"] is False
    entries = report["models"]
    assert [Path(e["model"]).name for e in entries] == ["sft", "round0-rl2", "round1-rl2"]
    assert [e["round"] and Path(e["round"]["run"]).name for e in entries] == ["round0", "round1", None]
    for entry, run in zip(entries, runs, strict=False):
        counts = run.manifest()["counts"]
        assert (entry["round"]["questions"], entry["round"]["pairs"]) == (counts["questions"], counts["pairs"])
        assert entry["round"]["yield"] == counts["pairs"] / 8
        assert entry["figures"]["all"]["questions"] == 4
    same_questions = [run.table("questions")["id"].to_pylist() for run in runs]
    assert same_questions[0] == same_questions[1]
    seeds = [run.table("candidates")["focus_seed"].to_pylist() for run in runs]
    assert not set(seeds[0]) & set(seeds[1]), "equal questions, other draws"


def test_restart_trains_from_the_first_model_on_the_new_models_pairs(sft_model, acts, trains, tmp_path):
    evolving.evolve(rounds(restart=True, stages="rl1"), options(sft_model), tmp_path / "e")
    assert trains == [("rl1", "sft", "round0"), ("rl1", "sft", "round1")]
    assert Path(run_folder.Run(tmp_path / "e/round1").config()["model"]).name == "round0-rl1"


def test_vllm_is_gone_before_training_begins(sft_model, acts, trains, tmp_path, monkeypatch):
    """Pairs and predictions in processes of their own, each with one set of weights: the baseline apart."""
    calls = []

    def here(function, *arguments, on_step):
        calls.append(function.__name__)
        return function(*arguments, on_step)

    monkeypatch.setattr(evolving, "run_in_child", here)
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model, engine="vllm"), tmp_path / "e")
    assert calls == ["evaluate", "evaluate", "generate", "evaluate"]
    assert acts[:2] == ["sft", Path(find_model(str(sft_model)).origin_base).name], "the model, then the baseline"


def test_fresh_rounds_ask_the_next_rows(sft_model, acts, trains, tmp_path):
    evolving.evolve(rounds(fresh=True, stages="rl1"), options(sft_model, skip=5), tmp_path / "e")
    ids = [run_folder.Run(tmp_path / f"e/round{k}").table("questions")["id"].to_pylist() for k in (0, 1)]
    assert [int(name.rpartition("-")[2]) for name in ids[0] + ids[1]] == [*range(5, 21)]


def test_skip_passes_over_rows(photo_source):
    source = factory.open_questions(GenConfig(source=str(photo_source), skip=3, limit=2))
    assert source.ids() == ["q3", "q4"] == [source.read(i).id for i in range(len(source))]
    with pytest.raises(IndexError):
        source.read(2)
    assert factory.open_questions(GenConfig(source=str(photo_source), skip=9)).ids() == ["q9"]
    with pytest.raises(VisRLError, match="--skip 10: questions has only 10 rows"):
        factory.open_questions(GenConfig(source=str(photo_source), skip=10))


class Killed(Exception):
    pass


def killed_after(step, call):
    """The step, with a kill when it has been done for the call-th time."""
    done = []

    def once(*given):
        found = step(*given)
        done.append(found)
        if len(done) == call:
            raise Killed
        return found

    return once


def test_killed_after_any_stage_it_goes_on_and_repeats_none(sft_model, acts, trains, tmp_path, monkeypatch):
    """A kill after each step of two rounds; in the end every stage ran once and the report says the same."""
    whole = evolving.evolve(rounds(stages="rl1"), options(sft_model), tmp_path / "whole")
    trained, loaded = list(trains), len(acts)
    trains.clear()
    acts.clear()
    for call in (1, 2):
        for step in ("_evaluate", "_generate", "_train"):
            with monkeypatch.context() as patch:
                patch.setattr(evolving, step, killed_after(getattr(evolving, step), call))
                with pytest.raises(Killed):
                    evolving.evolve(rounds(stages="rl1"), options(sft_model), tmp_path / "cut")
    again = evolving.evolve(rounds(stages="rl1"), options(sft_model), tmp_path / "cut")
    assert trains == trained and len(acts) == loaded
    for one, other in zip(again["models"], whole["models"], strict=True):
        assert one["digest"] == other["digest"] and one["figures"] == other["figures"]


def test_a_run_killed_in_the_middle_goes_on_with_its_chunks(sft_model, acts, trains, tmp_path):
    def stop(what, done, total):
        if (what, done) == ("round0", 4):
            raise Killed

    with pytest.raises(Killed):
        evolving.evolve(rounds(rounds=1), options(sft_model), tmp_path / "e", progress=stop)
    assert len(list((tmp_path / "e/round0/work").glob("chunk-????????"))) == 1
    told = []
    evolving.evolve(rounds(rounds=1), options(sft_model), tmp_path / "e", progress=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "round0"] == [("round0", 4, 8), ("round0", 8, 8)]


def test_work_files_that_a_kill_left_beside_a_whole_model_go(sft_model, acts, trains, tmp_path):
    """As after a kill while they were removed, when visrl.json was there already."""
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model), tmp_path / "e")
    left = tmp_path / "e/models/round0-rl1/work/checkpoints"
    left.mkdir(parents=True)
    (left / "optimizer.pt").write_bytes(b"large")
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model), tmp_path / "e")
    assert not left.parent.exists() and len(trains) == 1


def test_work_files_that_a_kill_left_beside_a_whole_run_go(sft_model, acts, trains, tmp_path):
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model), tmp_path / "e")
    left = tmp_path / "e" / "round0" / "work" / "chunk-00000000"
    left.mkdir(parents=True)
    (left / "drops.parquet").write_bytes(b"x")
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model), tmp_path / "e")
    assert not left.parent.exists()


def test_more_rounds_go_on_from_the_last(sft_model, acts, trains, tmp_path):
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model), tmp_path / "e")
    trains.clear()
    report = evolving.evolve(rounds(rounds=2, stages="rl1"), options(sft_model), tmp_path / "e")
    assert trains == [("rl1", "round0-rl1", "round1")] and len(report["models"]) == 3


def test_how_a_server_is_used_may_change_between_starts(sft_model, acts, trains, tmp_path):
    """As in a run: after a crash its address is another, or it takes fewer requests."""
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model, in_flight=8), tmp_path / "e")
    report = evolving.evolve(rounds(rounds=2, stages="rl1"), options(sft_model, in_flight=4), tmp_path / "e")
    assert report["rounds"] == 2


def test_fewer_rounds_than_there_are_change_nothing(sft_model, acts, trains, tmp_path):
    report = evolving.evolve(rounds(rounds=2, stages="rl1"), options(sft_model), tmp_path / "e")
    before = {file: file.read_bytes() for file in (tmp_path / "e").rglob("*") if file.is_file()}
    said: list[str] = []
    again = evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model), tmp_path / "e", said.append)
    assert again == json.loads(json.dumps(report)) and "2 rounds already" in said[0]
    assert {file: file.read_bytes() for file in (tmp_path / "e").rglob("*") if file.is_file()} == before


def test_other_options_and_other_weights_are_refused(sft_model, acts, trains, tmp_path):
    begun = tmp_path / "e"
    evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model), begun)
    with pytest.raises(VisRLError, match=r"evolve.stages: rl1 -> rl1,rl2"):
        evolving.evolve(rounds(rounds=1), options(sft_model), begun)
    with pytest.raises(VisRLError, match="temperature: 2.0 -> 1.0"):
        evolving.evolve(rounds(rounds=1, stages="rl1"), options(sft_model, temperature=1.0), begun)
    weights = begun / "models/round0-rl1/adapter_model.safetensors"
    evolving.evolve(rounds(rounds=2, stages="rl1"), options(sft_model), begun)
    good = weights.read_bytes()
    save_file({name: w + 1 for name, w in load_file(weights).items()}, weights)
    with pytest.raises(VisRLError, match=r"round0-rl1 has changed since it was trained(.|\n)*Delete the folder"):
        evolving.evolve(rounds(rounds=2, stages="rl1"), options(sft_model), begun)
    weights.write_bytes(good)
    evolving.evolve(rounds(rounds=2, stages="rl1"), options(sft_model), begun)
    pairs = begun / "round0/pairs.parquet"
    pairs.write_bytes(pairs.read_bytes()[:-1] + b"?")
    with pytest.raises(VisRLError, match=r"round0/pairs\.parquet is missing or was changed"):
        evolving.evolve(rounds(rounds=2, stages="rl1"), options(sft_model), begun)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rounds": "2"}', "[[[["])
@pytest.mark.parametrize(("name", "advice"), [("begun.json", "another --output"), ("report.json", "Delete it")])
def test_a_damaged_record_is_one_error(sft_model, tmp_path, name, advice, text):
    (tmp_path / "begun.json").write_text("{}")
    (tmp_path / name).write_text(text)
    with pytest.raises(VisRLError, match=f"{name} is damaged.*{advice}"):
        evolving._read_started(tmp_path / name) if name == "begun.json" else evolving._report(tmp_path)


def test_a_critic_that_changed_is_refused(sft_model, acts, trains, tmp_path, monkeypatch):
    real = Acting.identity

    def other(engine):
        known = real(engine)
        return known | {"weights_digest": "other"} if "round0-rl1" in known["model"] else known

    monkeypatch.setattr(Acting, "identity", other)
    with pytest.raises(VisRLError, match="Round 0 and .*round1 started with different options:\n  critic: "):
        evolving.evolve(rounds(stages="rl1"), options(sft_model), tmp_path / "e")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fresh"], "give --limit"),
        (["--stages", "rl2"], "expected one of rl1, rl1,rl2"),
        (["--rounds", "0"], "expected at least 1"),
        (["--train-config", "spotligt"], "no such file, and no preset of that name. Presets: "),
        (["--eval-split", "train"], "is what the rounds train on"),
        (["--round", "1"], "No such option"),
    ],
)
def test_what_the_user_can_mend_is_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = visrl("evolve", *arguments)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_cannot_be_both_learnt_from_and_measured_on(photo_source, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--eval-source"):
        evolving.evolve(EvolveConfig(), GenConfig(source=str(photo_source)), tmp_path / "e")
    with pytest.raises(UsageError, match="2 rounds of 6 rows are more than"):
        evolving.evolve(EvolveConfig(fresh=True), GenConfig(source=str(photo_source), limit=6), tmp_path / "e")


def test_curves_show_the_report():
    def figures(answer, box):
        return {"all": {"answer": answer, "answer_interval": [answer - 0.1, answer + 0.1], "box_accuracy": box,
                        "box_accuracy_interval": None if box is None else [box, box]}}  # fmt: skip

    report = {"models": [{"figures": figures(0.5, 0.25), "round": {"yield": 0.75}},
                         {"figures": figures(0.6, None), "round": None}]}  # fmt: skip
    assert points(report) == {
        "answer score": [(0.5, 0.4, 0.6), (0.6, 0.5, 0.7)],
        "box accuracy": [(0.25, 0.25, 0.25), None],
        "pairs per question": [(0.75, 0.75, 0.75), None],
    }
    assert sorted(re.findall(r">(0\.\d\d)</text>", curves(report))) == ["0.25", "0.50", "0.60", "0.75"]


def test_real_training_between_the_rounds(sft_model, acts, tmp_path):
    """The trainer's chain: one adapter through both rounds, and each round's set is a run that push takes."""
    from visrl_data.publishing.push import kind_of

    file = tmp_path / "quick.toml"
    file.write_text("\n".join(f"{name} = {value}" for name, value in QUICK.items()))
    arguments = ["--model", sft_model, "--limit", 24, "--box-win", 0.5, "--box-lose", 0.4, "--eval-limit", 3]
    code, out, err = visrl("evolve", "--rounds", 2, "--stages", "rl1", "--train-config", file, *arguments,
                           "-o", tmp_path / "e", "--json")  # fmt: skip
    assert code == 0, err
    assert err.startswith(f"Writing the rounds to {tmp_path / 'e'}.")
    report = json.loads(out)
    digests = [entry["digest"] for entry in report["models"]]
    assert len(set(digests)) == 3
    record = json.loads((tmp_path / "e/models/round1-rl1/visrl.json").read_text())
    assert record["trained_from"]["digest"] == digests[1]
    assert record["origin_base"]["digest"] == record["base"]["digest"] == find_model(str(sft_model)).base.digest
    assert (
        ">rounds of training</text>" in (tmp_path / "e/curves.svg").read_text()
        and kind_of(tmp_path / "e/round1") == "run"
    )
    code, out, _ = visrl("evolve", "--rounds", 2, "--stages", "rl1", "--train-config", file, *arguments,
                         "-o", tmp_path / "e")  # fmt: skip
    assert code == 0 and re.findall(r"^ *(no box|\d) ", out, re.MULTILINE) == ["no box", "0", "1", "2"]
