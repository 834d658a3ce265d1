"""The benchmark for a GPU, in tiny shapes on a CPU: every part gives its rows, and a part that fails costs itself."""

import json
import math

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import decoding, estimates, families, generation, parts, spotlight, training


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    """The parts stand in for videos for the rest of their process."""
    from benchmarks import models
    from tests.helpers.tiny_parts import stand_in_for_videos

    stand_in_for_videos(monkeypatch)
    monkeypatch.setattr(models, "stand_in_for_videos", lambda: None)
    monkeypatch.setattr(parts.traceback, "print_exc", lambda: None)
    monkeypatch.setenv("VISRL_CACHE", "")


def test_a_family_has_the_boxes_of_the_cpu_and_learns():
    (row,) = families.rows(small=True)
    assert "failed" not in row and row["candidates"] > 10
    assert row["boxes"] == row["all"] == 1, "the same device, so the same draws"
    assert row["bf16 scored"] > 0
    assert math.isclose(row["float32 sft"], row["bfloat16 sft"], rel_tol=0.02)
    assert math.isclose(row["bfloat16 rl1"], math.log(2), abs_tol=0.01)


@pytest.mark.parametrize("shape", [generation.qwen, generation.llava])
def test_generation_tells_its_speed_and_its_memory(shape):
    rows = list(shape(small=True))
    assert [row["batch"] for row in rows] == [32, 96] and not any("failed" in row for row in rows)
    assert all(row["questions/s"] > 0 and row["written tokens/s"] > 0 and row["halved"] == 0 for row in rows)
    assert all(0 < row["in the model"] < 1 for row in rows)
    assert rows[0]["estimate"] == rows[1]["estimate"] > 0, "a chunk of one question fills neither batch"


def test_each_recorded_peak_is_near_its_estimate():
    """No generation takes more than was estimated, nor a quarter less; nor do our own steps take more."""
    found = {peak.run: peak.estimate / peak.measured for peak in estimates.peaks(estimates.RECORDS)}
    generated = {run: ratio for run, ratio in found.items() if ", gen," in run}
    assert len(generated) == 4 and all(1 < ratio < 1.25 for ratio in generated.values()), found
    other = {run for run in found if "stock" in run or "no checkpointing" in run}
    trained = {run: ratio for run, ratio in found.items() if run not in {*generated, *other}}
    assert len(trained) > 3 and all(1 < ratio < 1.4 for ratio in trained.values()), found
    assert found["Qwen2.5-VL-7B, rl2, branches, no checkpointing"] < 1, "the estimate reckons with checkpointing"


def test_a_run_that_was_recorded_twice_counts_with_its_highest_peak():
    row = {"stage": "rl1", "method": "branches", "checkpointing": "yes"}
    calls = [{"parts": {"training": {"rows": [row | {"GiB": peak}, row]}}} for peak in (17.8, 17.9, 17.7)]
    ((run, (part, found)),) = estimates.highest(calls).items()
    assert (run, part, found["GiB"]) == ("Qwen2.5-VL-7B, rl1, branches", "training", 17.9)


def test_training_has_stocks_loss():
    ours, stock = training.rows(small=True)
    assert (stock["method"], ours["method"], ours["checkpointing"]) == ("stock", "branches", "yes")
    assert "failed" not in stock and abs(stock["ours - stock's"]) < 1e-4
    assert abs(stock["loss"] - math.log(2)) > 1e-4, "the policy has left its reference"


def test_without_a_gpu_there_is_no_row_in_4_bits_but_its_reason():
    (row,) = training.quantized(small=True)
    assert row["failed"].startswith("--quantize needs a GPU")


def test_spotlight_and_decoding_are_timed():
    (eyes,) = spotlight.rows(small=True)
    assert (eyes["device"], eyes["stage"]) == ("cpu", "eyes")
    assert eyes["minutes"] == pytest.approx(9000 / 60 * eyes["s a step"])
    (eager,) = decoding.rows(small=True)
    assert eager["way"] == "eager" and eager["ms a step"] > 0


def test_the_command_writes_a_table_and_json_after_each_part(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--small", "--output", str(tmp_path), "--parts", "quantized,decoding"])
    monkeypatch.setattr(command, "run", lambda name, seconds, *_: command.Result(name, 1.0, [{"a": 0.5}], {}, "by me"))
    command.main()
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert list(told["parts"]) == ["quantized", "decoding"] and told["parts"]["decoding"]["rows"] == [{"a": 0.5}]
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("| 0.5 |") == 2 and "Failed: by me" in table and table in capsys.readouterr().out


def test_without_time_a_part_is_not_begun(tmp_path, monkeypatch):
    argv = ["gpu", "--minutes", "0", "--output", str(tmp_path), "--parts", "decoding"]
    monkeypatch.setattr("sys.argv", argv)
    command.main()
    assert "Failed: no time" in (tmp_path / "gpu.md").read_text()


def test_a_part_runs_is_stopped_or_says_why_it_failed(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        done = command.run("decoding", 300, True, log)
        stopped = command.run("decoding", 1, True, log)
        failed = command.run("nothing", 300, True, log)
    assert done.rows[0]["way"] == "eager" and done.machine["versions"]["torch"] and not done.failed
    assert stopped.failed == "stopped after 1 s" and not stopped.rows
    assert "invalid choice: 'nothing'" in failed.failed


def test_a_row_that_fails_says_so():
    def fail():
        raise RuntimeError("first\nCUDA out of memory | all of it\n")

    assert parts.attempt({"way": "x"}, fail) == {"way": "x", "failed": "CUDA out of memory / all of it"}


def test_unknown_parts_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--parts", "families,wings"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--parts wings: expected some of generation-qwen" in capsys.readouterr().err
