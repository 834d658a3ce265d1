"""What a processor does not take is one question's fault: it alone is dropped, in generation and in evaluation."""

import json

import pytest
import torch
from PIL import Image

from tests.conftest import draw_photo
from tests.helpers.tiny_families import TINY, save, stand_ins
from visrl_data.core.config import GenConfig
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.refusals import RequestRefused, RequestTooLong, isolate_refused, raise_refusals, refusal
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_sources import OTHERS
from visrl_data.executors.generation import generate
from visrl_data.models.model_folder import find_model


@pytest.fixture(autouse=True, scope="module")
def _videos():
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch)
        yield


THIN, FLAT = (8, 3000), (3000, 8)  # beyond the aspect of 200 that Qwen's image processors take


@pytest.mark.parametrize(
    ("refused", "calls"),
    [
        ((), [8]),
        ((5,), [8, 4, 4, 2, 1, 1, 2]),
        ((0, 7), [8, 4, 2, 1, 1, 2, 4, 2, 2, 1, 1]),
    ],
)
def test_a_refused_item_is_found_by_halves_and_the_others_stay_together(refused, calls):
    sizes = []

    def run(items):
        sizes.append(len(items))
        if set(items) & set(refused):
            raise RequestRefused("no")
        return [item * 10 for item in items]

    results = isolate_refused(range(8), run)
    assert [i for i, result in enumerate(results) if isinstance(result, RequestRefused)] == list(refused)
    assert [result for result in results if not isinstance(result, RequestRefused)] == [
        10 * i for i in range(8) if i not in refused
    ]
    assert sizes == calls


def test_another_error_is_no_refusal():
    def run(items):
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        isolate_refused([1, 2], run)


@pytest.mark.parametrize(
    "error",
    [
        *(torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("can't allocate memory")),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB, max allowed: 6.80 GB)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_lack_of_memory_is_no_refusal(error):
    with pytest.raises(type(error)), raise_refusals(RuntimeError, MemoryError):
        raise error


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("size", [THIN, FLAT])
def test_the_engine_refuses_a_picture_that_its_processor_does_not_take(name, size, tmp_path):
    engine = TransformersEngine(find_model(str(save(TINY[name], tmp_path / name))))
    thin, parts = Image.new("RGB", size), PromptSet().focus.parts(question="What is it?")
    with pytest.raises(RequestRefused, match="aspect ratio"):
        engine.resized_size(thin)
    good, bad = (Request(parts, (image,), (1,), Sampling(max_new_tokens=2)) for image in (draw_photo(1), thin))
    with pytest.raises(RequestRefused, match="aspect ratio"):
        engine.generate([good, bad])
    assert len(engine.generate([good])) == 1


@pytest.fixture(scope="module")
def thin_source(tmp_path_factory):
    """Two thin pictures between two good ones, and a Qwen2.5-VL to look at them."""
    folder = tmp_path_factory.mktemp("thin")
    pictures = {"a": draw_photo(1), "tall": Image.new("RGB", THIN), "flat": Image.new("RGB", FLAT), "b": draw_photo(2)}
    rows = []
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
        row = {"id": name, "question": "What is it?", "answers": ["x"], "image": f"{name}.png", "license": "CC0-1.0"}
        rows.append(json.dumps(row))
    (folder / "q.jsonl").write_text("\n".join(rows))
    return folder / "q.jsonl", save(TINY["qwen2_5_vl"], folder / "model")


def test_generation_drops_a_thin_picture_and_goes_on(thin_source, tmp_path):
    file, model = thin_source
    run = generate(GenConfig(model=str(model), source=str(file), attempts=1, max_new_tokens=4), tmp_path / "run")
    drops = run.table("drops").to_pylist()
    refused = {drop["id"] for drop in drops if drop["reason"] == "model_refused"}
    assert refused == {"tall", "flat"}
    assert all("aspect ratio" in drop["detail"] for drop in drops if drop["id"] in refused)
    assert run.manifest()["counts"]["questions"] == 4


def test_evaluation_counts_a_thin_picture_as_wrong_and_goes_on(thin_source, tmp_path):
    file, model = thin_source
    config = EvalConfig(baseline=False, max_new_tokens=4)
    report = evaluate.evaluate([str(model)], [str(file)], config, tmp_path / "out")
    assert report["models"][0]["figures"]["all"]["unparsed"]["model_refused"] == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("This model's maximum context length is 4096 tokens. However, your messages resulted in 20040", "too_long"),
        ("The decoder prompt (length 20040) is longer than the maximum model length of 4096.", "too_long"),
        ("400: context_length_exceeded", "too_long"),
        ("422: Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000", "too_long"),
        ("422: Input validation error: `inputs` must have less than 4096 tokens. Given: 20040", "too_long"),
        ("400: request (20040 tokens) exceeds the available context size (4096 tokens)", "too_long"),
        ("400: The input token count (20040) exceeds the maximum number of tokens allowed (4096).", "too_long"),
        ("400: Requested token count exceeds the model's maximum context length", "too_long"),
        ("absolute aspect ratio must be smaller than 200, got 375.0", "model_refused"),
        ("413: this picture is too large", "model_refused"),
        ("400: seed must be at most 2147483647", "model_refused"),
    ],
)
def test_words_about_length_are_a_reason_of_their_own(text, reason):
    assert refusal(text).reason == reason


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "mllama"])
def test_a_prompt_beyond_the_context_is_refused_before_it_is_run(name, tmp_path, monkeypatch):
    """By families that share prefixes, and by those that do not."""
    engine = TransformersEngine(find_model(str(save(TINY[name], tmp_path / name))))
    parts = PromptSet().focus.parts
    long, short = (
        Request(parts(question=text), (draw_photo(1),), (1, 2), Sampling(temperature=1.0, max_new_tokens=2))
        for text in ("What is it? " * 2_000, "What is it?")
    )
    assert len(engine.generate([short])[0]) == 2
    monkeypatch.setattr(engine, "_context", 4096)  # the tiny models have those of the large ones
    monkeypatch.setattr(type(engine.model), "forward", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(RequestTooLong, match="do not fit the model's context of 4,096"):
        engine.generate([long])


@pytest.fixture(scope="module")
def long_source(tmp_path_factory):
    """A question of 60,000 characters, and a standard answer of as many, beside plain ones."""
    folder = tmp_path_factory.mktemp("long")
    draw_photo(1).save(folder / "a.png")
    row = {"question": "What is it?", "answers": ["x"], "image": "a.png", "license": "CC0-1.0"}
    long = {"question": {"question": "What is it? " * 5_000}, "answer": {"answers": ["no idea " * 7_500]}}
    rows = [row | {"id": name} | long.get(name, {}) for name in ("a", "question", "answer", "b")]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "q.jsonl"


def test_generation_drops_what_does_not_fit_the_context_and_goes_on(long_source, tmp_path):
    run = generate(GenConfig(source=str(long_source), attempts=1), tmp_path / "run")
    drops = {drop["id"]: drop for drop in run.table("drops").to_pylist() if drop["reason"] == "too_long"}
    assert drops.keys() == {"question", "answer"}
    assert "do not fit the model's context of 4,096" in drops["question"]["detail"]
    assert run.manifest()["counts"]["candidates"] == 4


def test_evaluation_counts_what_does_not_fit_as_wrong_and_goes_on(long_source, tmp_path):
    config = EvalConfig()
    report = evaluate.evaluate(["spotlight"], [str(long_source)], config, tmp_path / "out", {OTHERS: "critic"})
    one_step, two_steps = (model["figures"]["all"] for model in report["models"])
    assert one_step["unparsed"] == {"too_long": 1}
    assert two_steps["unparsed"]["too_long"] == 1
    assert one_step["unread_verdicts"] == 1, "the judge can't read the long answer"
