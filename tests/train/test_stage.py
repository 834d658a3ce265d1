"""Interruptions: kills, SIGTERM, memory, a second start. The same final weights; nothing unfinished looks finished."""

import json
import os
import shutil
import signal

import pytest
import torch
from transformers import TrainerCallback

from tests.train.test_helpers import QUICK
from visrl_data.core.errors import VisRLError
from visrl_data.models.model_folder import find_model
from visrl_train import rl1, rl2, trainers
from visrl_train.config import Rl1Config, Rl2Config
from visrl_train.metrics_log import read_metrics
from visrl_train.trainers import Terminated

pytest_plugins = ["tests.train.test_helpers"]


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.action()


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def kill():
    raise Killed


@pytest.fixture
def config(sft_model, scripted_run):
    return several_steps(sft_model, scripted_run)


def several_steps(model, run):
    """Two epochs of several steps, shuffled, with a schedule and a validation split."""
    quick = {**QUICK, "epochs": 2, "batch_size": 2, "warmup": 0.1, "validation": 0.2}
    return Rl1Config(model=str(model), data=str(run), save_steps=2, **quick)


@pytest.fixture(scope="module")
def whole(sft_model, scripted_run, tmp_path_factory):
    """The digest and metrics of the training of `config` that nothing interrupted."""
    config = several_steps(sft_model, scripted_run)
    folder = rl1.train(config, tmp_path_factory.mktemp("whole") / "m")
    return find_model(str(folder)).digest, metrics(folder)


def metrics(folder):
    return [(r["step"], r["loss"]) for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]


def test_a_killed_training_goes_on_to_the_same_weights(config, whole, tmp_path):
    target = tmp_path / "m"
    assert len(whole[1]) > 6, "the kill is to fall inside the second epoch"
    with pytest.raises(Killed):
        rl1.train(config, target, [At(6, kill)])
    assert not (target / "visrl.json").exists() and not (target / "adapter_config.json").exists()
    with pytest.raises(VisRLError, match="no model folder"):
        find_model(str(target))
    rl1.train(config, target)
    assert (find_model(str(target)).digest, metrics(target)) == whole
    assert not (target / "work").exists()


def test_full_weights_go_on_after_a_kill(config, tmp_path):
    """The optimizer's state of every weight of the language model, and the reference from the previous stage."""
    import dataclasses

    full = dataclasses.replace(config, full=True, learning_rate=1e-4)
    whole = rl1.train(full, tmp_path / "whole")
    with pytest.raises(Killed):
        rl1.train(full, tmp_path / "m", [At(6, kill)])
    with pytest.raises(VisRLError, match="no model folder"):
        find_model(str(tmp_path / "m"))
    rl1.train(full, tmp_path / "m")
    assert find_model(str(tmp_path / "m")).digest == find_model(str(whole)).digest
    assert metrics(tmp_path / "m") == metrics(whole)


def test_sigterm_saves_a_checkpoint_at_once(config, whole, tmp_path):
    target = tmp_path / "m"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match="step 3; run the same command again"):
        rl1.train(config, target, [At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    assert signal.getsignal(signal.SIGTERM) == before
    assert trainers.last_checkpoint(target / "work" / "checkpoints").endswith("checkpoint-3")
    rl1.train(config, target)
    assert (find_model(str(target)).digest, metrics(target)) == whole


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"epo'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert trainers.last_checkpoint(tmp_path).endswith("checkpoint-10")
    assert trainers.last_checkpoint(tmp_path / "none") is None


def test_a_kill_while_the_folder_is_written_is_mended(config, whole, tmp_path, monkeypatch):
    target = tmp_path / "m"
    replace = os.replace

    def cut(source, goal):
        if os.path.basename(goal) == "adapter_config.json":
            raise Killed
        replace(source, goal)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(Killed):
        rl1.train(config, target)
    with pytest.raises(VisRLError, match="no model folder"):
        find_model(str(target))
    monkeypatch.undo()
    rl1.train(config, target)
    assert find_model(str(target)).digest == whole[0]


def test_a_finished_stage_is_left_alone_and_another_is_refused(config, whole, tmp_path, monkeypatch):
    target = tmp_path / "m"
    with pytest.raises(Killed):
        rl1.train(config, target, [At(1, kill)])
    other = Rl1Config(model=config.model, data=config.data, **{**QUICK, "learning_rate": 0.5})
    with pytest.raises(VisRLError, match=r"started with different options:(.|\n)*--learning-rate: 0.001 -> 0.5"):
        rl1.train(other, target)
    rl1.train(config, target)
    stamp = (target / "visrl.json").stat().st_mtime_ns
    monkeypatch.setattr(trainers, "fit", None)
    assert rl1.train(config, target) == target
    assert (target / "visrl.json").stat().st_mtime_ns == stamp
    with pytest.raises(VisRLError, match="stage: rl1 -> rl2"):
        rl2.train(Rl2Config(model=config.model, data=config.data), target)


def test_a_folder_with_something_else_is_refused(config, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.tex").write_text("x")
    with pytest.raises(VisRLError, match=r"holds thesis\.tex"):
        rl1.train(config, tmp_path / "m")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_names_the_levers(config, tmp_path, error):
    def fail():
        raise error

    with pytest.raises(VisRLError, match=r"--batch-size(.|\n)*--accumulation(.|\n)*--max-pixels"):
        rl1.train(config, tmp_path / "m", [At(1, fail)])


def test_other_errors_are_not_taken_for_memory(config, tmp_path):
    def fail():
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        rl1.train(config, tmp_path / "m", [At(1, fail)])


def test_a_cached_reference_trains_the_same(config, whole, tmp_path, monkeypatch):
    """Its numbers are kept under a key of model, data, crop rule and prompts; --full keeps no second model."""
    import dataclasses

    monkeypatch.setenv("VISRL_CACHE", str(tmp_path / "cache"))
    cached = dataclasses.replace(config, cache_reference=True)
    folder = rl1.train(cached, tmp_path / "m")
    losses = [loss for _, loss in metrics(folder)]
    assert losses == pytest.approx([loss for _, loss in whole[1]], abs=1e-4)
    files = list((tmp_path / "cache" / "reference").iterdir())
    assert len(files) == 1 and len(json.loads(files[0].read_text())) > 0
    both = Rl2Config(model=config.model, data=config.data, cache_reference=True, full=True, **QUICK)
    rl2.train(both, tmp_path / "rl2")
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 2


def test_the_default_folder_is_found_again(config, tmp_path, monkeypatch):
    shutil.copytree(config.data, tmp_path / "runs" / "drawn")
    monkeypatch.chdir(tmp_path)
    quick = Rl1Config(model=config.model, **QUICK)
    made = rl1.train(quick)
    assert made.parent.name == "models" and made.name.startswith("rl1-drawn-")
    assert rl1.train(quick) == made
    assert 'data = "runs/drawn"' in (made / "config.toml").read_text(), "the card's command names what was taken"
    assert rl2.find_rl1_model(rl2.read_pairs(None)).path == made.resolve()
    shutil.rmtree(made)
    with pytest.raises(VisRLError, match="visrl train rl1 --data runs/drawn"):
        rl2.train(Rl2Config())
