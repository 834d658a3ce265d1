"""Interruptions: kills, SIGTERM, memory, a second start. The same final weights; nothing unfinished looks finished."""

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.train.test_helpers import QUICK
from visrl_data.core.errors import Terminated, VisRLError
from visrl_data.models.model_folder import find_model
from visrl_train import checkpoints, models, rl1, rl2, stage_folder, trainers
from visrl_train.config import Rl1Config, Rl2Config
from visrl_train.metrics_log import read_metrics

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


def test_a_killed_training_goes_on_to_the_same_weights(config, whole, tmp_path, capfd):
    target = tmp_path / "m"
    assert len(whole[1]) > 6, "the kill is to fall inside the second epoch"
    with pytest.raises(Killed):
        rl1.train(config, target, [At(6, kill)])
    assert not (target / "visrl.json").exists() and not (target / "adapter_config.json").exists()
    with pytest.raises(VisRLError, match="no model folder"):
        find_model(str(target))
    assert "Resuming" not in capfd.readouterr().err
    rl1.train(config, target)
    assert re.findall("Resuming from step .*", capfd.readouterr().err) == [f"Resuming from step 4 of {whole[1][-1][0]}"]
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
    assert checkpoints.last_checkpoint(target / "work" / "checkpoints").endswith("checkpoint-3")
    rl1.train(config, target)
    assert (find_model(str(target)).digest, metrics(target)) == whole


def test_a_checkpoint_cut_short_or_damaged_is_passed_over(tmp_path, capsys):
    for step in (2, 10, 12, 14):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"moments")
        if step != 14:
            checkpoints.seal(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-12" / "optimizer.pt").write_bytes(b"momentz")
    assert checkpoints.last_checkpoint(tmp_path).endswith("checkpoint-10")
    assert "checkpoint-12 was damaged" in capsys.readouterr().err
    (tmp_path / "checkpoint-10" / "sha256.json").write_text('{"opt')
    assert checkpoints.last_checkpoint(tmp_path).endswith("checkpoint-2")
    assert checkpoints.last_checkpoint(tmp_path / "none") is None


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_gives_no_other_weights(config, whole, tmp_path, capsys):
    target = tmp_path / "m"
    with pytest.raises(Killed):
        rl1.train(config, target, [At(6, kill)])
    newest = checkpoints.last_checkpoint(target / "work" / "checkpoints")
    flip(target / newest / "adapter_model.safetensors")
    rl1.train(config, target)
    assert f"{newest} was damaged" in capsys.readouterr().err
    assert (find_model(str(target)).digest, metrics(target)) == whole


def test_what_changed_before_a_resumption_is_refused(config, tmp_path):
    target = tmp_path / "m"
    with pytest.raises(Killed):
        rl1.train(config, target, [At(1, kill)])
    begun, rows = target / "work" / "begun.json", target / "work" / "rows.sha256"
    good, options = begun.read_text(), json.loads(begun.read_text())
    options["versions"]["transformers"] = "4.0.0"
    for text, message in (
        (json.dumps(options), r"versions\.transformers: 4\.0\.0 -> "),
        (good[: len(good) // 2], "begun.json is damaged"),
        ("{}", "begun.json is damaged"),
        ("[]", "begun.json is damaged"),
    ):
        begun.write_text(text)
        with pytest.raises(VisRLError, match=message):
            rl1.train(config, target)
    begun.write_text(good)
    rows.write_text("other rows")
    with pytest.raises(VisRLError, match="rows or images of .* have changed"):
        rl1.train(config, target)


def test_a_changed_model_is_not_taken_for_a_finished_one(config, tmp_path):
    import dataclasses

    config = dataclasses.replace(config, epochs=0.1)
    target = rl1.train(config, tmp_path / "m")
    assert rl1.train(config, target) == target
    flip(target / "adapter_model.safetensors")
    with pytest.raises(VisRLError, match=r"has changed since it was trained(.|\n)*Delete the folder"):
        rl1.train(config, target)


@pytest.mark.parametrize("warmup", [0.1, 1.0])
def test_a_training_of_one_step_changes_the_model(config, tmp_path, warmup):
    import dataclasses

    config = dataclasses.replace(config, epochs=0.01, warmup=warmup)
    target = rl1.train(config, tmp_path / "m")
    (record,) = [r for r in read_metrics(target / "metrics.jsonl") if "learning_rate" in r]
    assert record["learning_rate"] == config.learning_rate
    start = load_file(find_model(config.model).path / "adapter_model.safetensors")
    assert any(not torch.equal(w, start[name]) for name, w in load_file(target / "adapter_model.safetensors").items())
    assert (target / "adapter_model.safetensors").stat().st_mode == (target / "config.toml").stat().st_mode


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
    with pytest.raises(VisRLError, match=r"--learning-rate: 0.001 -> 0.5\nChoose another --output"):
        rl1.train(dataclasses.replace(config, learning_rate=0.5), target)


def test_a_stage_that_ended_before_its_rows_were_read_takes_other_options(config, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise VisRLError("no row can be used")

    target = tmp_path / "m"
    with monkeypatch.context() as patch, pytest.raises(VisRLError, match="no row"):
        patch.setattr(stage_folder, "with_rows", fail)
        rl1.train(config, target)
    other = dataclasses.replace(config, epochs=0.1)
    assert rl1.train(other, target) == target
    assert "nothing was trained" not in capsys.readouterr().err
    rl1.train(other, target)
    assert f"{target} is finished: nothing was trained." in capsys.readouterr().err


def test_a_training_goes_on_after_its_project_has_moved(config, whole, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(config.model, "sft")
    moved, target = dataclasses.replace(config, model="sft"), Path("m")
    with pytest.raises(Killed):
        rl1.train(moved, target, [At(6, kill)])
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    rl1.train(moved, target)
    assert (find_model("m").digest, metrics(target)) == whole
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(trainers, "fit", None)
    assert rl1.train(moved, target) == target
    shutil.copytree("m", "other")
    with pytest.raises(VisRLError, match="trained_from.digest"):
        rl1.train(dataclasses.replace(config, model="other"), target)


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


def test_memory_that_lacks_at_loading_is_reported_alike(config, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(models, "load_policy", fail)
    with pytest.raises(VisRLError, match=r"Out of memory(.|\n)*--quantize"):
        rl1.train(config, tmp_path / "m")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/1"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said(config, tmp_path, error):
    def fail():
        raise error

    with pytest.raises(VisRLError, match=r"The disk is full(.|\n)*Free some space, then run the same command again"):
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
