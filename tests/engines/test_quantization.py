"""--quantize: what it needs, what the weights are loaded with, and where it is recorded. No GPU runs here."""

import pytest
import torch

from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines import loading, quantization, transformers
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.evaluation.config import EvalConfig
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline.model_pair import check_engines, load_engine


def test_it_needs_a_gpu_and_bitsandbytes(untrained, monkeypatch):
    folder = find_model(str(untrained))
    with pytest.raises(VisRLError, match="needs a GPU"):
        load_engine(GenConfig(device="cpu", quantize=True), folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(VisRLError, match=r"pip install '\.\[quant\]'"):
        quantization.four_bits(folder, torch.bfloat16, True, False)


def test_the_language_model_alone_is_loaded_in_4_bits(untrained, monkeypatch):
    folder, loaded, real = find_model(str(untrained)), {}, loading.AutoModelForImageTextToText.from_pretrained

    def load(path, *, quantization_config, device_map, **options):
        loaded.update(settings=quantization_config, device_map=device_map)
        return real(path, **options)

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", load)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr(transformers, "four_bits", lambda folder, dtype, on_gpu, trust: quantization.four_bits(
        folder, dtype, True, trust))  # fmt: skip
    engine = TransformersEngine(folder, device="cpu", dtype="bfloat16", quantize=True)
    settings = loaded["settings"]
    assert (settings.load_in_4bit, settings.bnb_4bit_quant_type) == (True, "nf4")
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    assert settings.llm_int8_skip_modules == quantization.other_linears(engine.model)
    assert loaded["device_map"] == {"": torch.device("cpu")}
    assert engine.identity()["quantization"] == "nf4"


def test_a_run_without_it_is_recorded_as_before(untrained):
    engine = load_engine(GenConfig(device="cpu"), find_model(str(untrained)))
    assert "quantization" not in engine.identity()
    assert "quantize" not in to_toml(GenConfig()) and "quantize = true" in to_toml(GenConfig(quantize=True))
    assert EvalConfig(quantize=True).gen_config("x").quantize


@pytest.mark.parametrize(("engine", "critic", "is_refused"), [
    ("vllm", None, True), ("openai", None, True), ("openai", "transformers", False), ("transformers", "openai", False),
])  # fmt: skip
def test_other_engines_refuse_it(engine, critic, is_refused):
    config = GenConfig(quantize=True, engine=engine, critic_engine=critic, base_url="http://host/v1")
    if engine == "vllm":
        config = GenConfig(quantize=True, engine=engine)
    if not is_refused:
        check_engines(config)
        return
    with pytest.raises(UsageError, match="--quantize: the .* engine does not load weights in 4 bits"):
        check_engines(config)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_lacks_at_loading_names_it(untrained, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(transformers, "load_model", fail)
    with pytest.raises(VisRLError, match="Out of memory on cpu while .* was loaded.*--quantize"):
        TransformersEngine(find_model(str(untrained)), device="cpu")
