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
from visrl_data.engines.refusals import RequestRefused, isolate_refused, raise_refusals
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
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
    "error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("can't allocate memory")]
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
