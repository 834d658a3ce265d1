"""The benchmarks' own code: equal work in every method, calls as counted, ratios from the times."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import attempts, generation, memory_growth, methods, photos, refilter
from benchmarks.engine_profiler import MODEL, EngineProfiler
from studies.spotlight.tokenizer import build_tokenizer
from visrl_data.core import boxes
from visrl_data.core.config import GenConfig
from visrl_data.engines.decoding import GrammarCompiler
from visrl_data.pipeline import finalize

QUESTIONS = 2


@pytest.fixture(scope="module")
def timed() -> dict[str, generation.GenerationTiming]:
    """Each method on the same two questions of Spotlight."""
    config = GenConfig(source="spotlight", limit=QUESTIONS, seed=1)
    return {
        method: generation.measure(generation.GenerationJob("spotlight", method, config, None))
        for method in generation.METHODS
    }


def test_the_plain_ways_call_once_and_twice_for_each_reply(timed):
    assert [timed[method].made.calls / QUESTIONS for method in ("plain", "twice")] == [24, 48]
    assert timed["twice"].made.prompt_tokens == 2 * timed["plain"].made.prompt_tokens
    assert timed["twice"].made.completion_tokens == 2 * timed["plain"].made.completion_tokens


def test_the_factory_does_the_same_work(timed):
    """In float32 on a CPU a reply depends on its seed alone, so every box, response and score is the same."""
    ours = timed["factory"].made
    assert len(ours.candidates) == 6 * QUESTIONS
    assert ours.candidates == timed["plain"].made.candidates == timed["twice"].made.candidates
    assert 4 * 6 * QUESTIONS >= ours.calls > 0  # equal inputs are judged once
    against = generation.agreement(timed["plain"], timed["factory"])
    assert against == {"candidates": 12, "same_box": 1, "same_everything": 1}


def test_time_adds_up(timed):
    for row in timed.values():
        assert sum(row.parts.values()) == pytest.approx(row.seconds, rel=0.02, abs=0.02)
        assert all(row.parts[name] > 0 for name in (*MODEL, "preprocess", "sample"))
        assert 0 < row.in_model < 1 and row.peak_mib > 50
        assert 0 < sum(row.made.stages.values()) <= row.seconds + 0.02
    assert timed["factory"].parts["write"] > 0 == timed["plain"].parts["write"]


def row(method: str, questions: int, seconds: float, candidates: dict) -> generation.GenerationTiming:
    made = methods.MethodResult(
        questions, 24 * questions, 1, 1, {"focus": 0.1, "answer": 0.1, "judge": 0.1}, candidates
    )
    parts = dict.fromkeys(("vision", "prefill", "decode", "preprocess", "sample", "write", "rest"), seconds / 7)
    return generation.GenerationTiming("m", method, made, seconds, seconds / 2, parts, 100.0, None)


def test_ratios_are_of_seconds_a_question():
    mine = row("factory", 8, 16.0, {"q/0": ("[1]", "a", 1.0, 1.0), "q/1": ("[2]", "b", 1.0, 0.0)})
    other = row("plain", 2, 20.0, {"q/0": ("[1]", "c", 1.0, 1.0), "q/1": ("[2]", "b", 1.0, 0.0)})
    found = generation.summary([other, mine])
    assert found["m"]["plain"] == {
        "times_factory": 5, "times_factory_cpu": 5, "candidates": 2, "same_box": 1, "same_everything": 0.5,
    }  # fmt: skip
    shown = generation.tables([other, mine])
    assert "| m | plain | 2 | 10.00 | 5.0 | 100% |" in shown and "| m | factory | 8 | 2.00 |" in shown


def test_a_stretch_within_another_counts_for_itself(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    profiler = EngineProfiler(argparse.Namespace(type="cpu"))  # at 0
    profiler.begin("prefill")  # 1
    profiler.begin("vision")  # 2
    profiler.end()  # 3
    profiler.end()  # 4
    assert {name: s for name, s in profiler.seconds.items() if s} == {"rest": 1, "prefill": 2, "vision": 1}


def test_the_listed_boxes_of_an_untrained_model_are_valid():
    tokenizer = build_tokenizer()
    for space, size in (("resized_pixels_json", (640, 480)), ("unit_padded_square", (480, 640))):
        frame = boxes.make_frame(space, size, (644, 476))
        texts = [
            piece.replace('\\"', '"')[1:-1] for piece in methods.listed_grammar(frame)[len("start: ") :].split(" | ")
        ]
        assert len(texts) == methods.LISTED and len(set(texts)) > 100
        assert {frame.parse(text)[1] for text in texts} == {"ok"}
        GrammarCompiler(tokenizer, [tokenizer.eos_token_id]).matchers([methods.listed_grammar(frame)], len(tokenizer))


def test_pictures_have_true_sizes(tmp_path: Path):
    from PIL import Image

    file = photos.questions(tmp_path / "photos", 4)
    assert [Image.open(tmp_path / "photos" / f"{i}.jpg").size for i in range(4)] == list(photos.SIZES)
    assert len(file.read_text().splitlines()) == 4


def test_crutches_are_for_untrained_models_only():
    built = argparse.Namespace(config=GenConfig())
    with methods.crutches(built):
        assert boxes.make_frame("unit", (10, 10)).grammar.startswith('start: "["')


def test_memory_of_a_run_is_sampled_and_has_a_slope(tmp_path: Path):
    count = 2 * memory_growth.CHUNK
    found = memory_growth.measure(memory_growth.source(tmp_path, count), count, tmp_path / "run")
    assert [done for done, _ in found.held] == [100, 200] and found.peak >= found.generated > 50
    grows = memory_growth.MemoryCurve([(10_000 * i, 100.0 + 3 * i) for i in range(1, 5)], 0, 0, 0)
    assert grows.slope == pytest.approx(3)


def test_a_made_pool_is_a_run_that_filters(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(refilter, "QUESTIONS", 20)
    run = refilter.build(tmp_path, 200)
    assert run.rows("questions") == 40 and run.rows("candidates") >= 200
    was, now = finalize.filter_run(run.path, {"box_win": 0.5})
    assert was["questions"] == 40 and now["pairs"] >= was["pairs"]


def test_unknown_names_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["generation", "--methods", "plain,fast"])
    with pytest.raises(SystemExit):
        generation.main()
    assert "--methods fast: expected some of factory, plain, twice" in capsys.readouterr().err


def test_the_table_of_attempts_adds_the_seeds_up():
    [name] = [plan for plan in attempts.PLANS if plan == "`--stop-early`"]
    cells = [attempts.PlanCell(plan, seed, 100, 1000, 50.0, 60, 50, 40) for plan in attempts.PLANS for seed in (0, 1)]
    [line] = [line for line in attempts.table(cells).splitlines() if line.startswith(f"| {name} |")]
    assert line == f"| {name} | 10.0 | 0.60 | 60.0 | 1.20 | 80.0 (71 to 87) |"


def test_a_plan_is_measured():
    cell = attempts.measure("`--stop-early`", seed=1, questions=2)
    assert cell.questions == 2 and 0 < cell.calls <= 48 and cell.seconds > 0
