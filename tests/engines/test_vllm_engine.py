"""The vllm engine on a stand-in: how it sets vLLM up, and what it makes of what vLLM says and raises."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import shutil
from typing import Any

import pytest

from tests.conftest import draw_photo
from tests.helpers import fake_vllm
from visrl_data.core.config import GenConfig, load_config
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import PromptPart
from visrl_data.engines.protocol import EngineLost, Request, Sampling
from visrl_data.engines.refusals import RequestRefused, RequestTooLong
from visrl_data.engines.vllm import VLLMEngine, import_vllm
from visrl_data.engines.vllm_options import default_options, model_impl, options_of_replies, parse_vllm_options
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline import model_pair
from visrl_data.spotlight import ACTOR

BOX = "[0.100, 0.200, 0.300, 0.400]"


def say_box(parts: Any, images: Any, seed: int, adapter: str | None) -> str:
    return BOX


def ask(text: str = "where", **options: Any) -> Request:
    parts = (PromptPart("image"), PromptPart("text", text))
    return Request(parts, (draw_photo(1),), (1,), Sampling(max_new_tokens=64), **options)


def make_engine(monkeypatch: Any, is_cpu: bool = False, **options: Any) -> tuple[VLLMEngine, Any]:
    fake = fake_vllm.install(monkeypatch, say_box, is_cpu)
    return VLLMEngine(find_model("spotlight"), options=options), fake


def test_its_engine_core_runs_in_this_process_and_logs_to_stderr(monkeypatch, capfd):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "ext://sys.stdout")
    make_engine(monkeypatch)
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "vLLM is here\n")
    print("ours")
    assert capfd.readouterr().out == "ours\n"


@pytest.mark.parametrize(("is_cpu", "dtype", "device"), [(True, "float32", "cpu"), (False, "bfloat16", "Some GPU")])
def test_defaults_follow_the_device(monkeypatch, is_cpu, dtype, device):
    engine, fake = make_engine(monkeypatch, is_cpu)
    [llm] = fake.made
    assert (llm.options.dtype, engine.identity()["dtype"], engine.identity()["device"]) == (dtype, dtype, device)
    assert (llm.options.enforce_eager, llm.options.enable_chunked_prefill) == (
        (True, False) if is_cpu else (False, None)
    )
    assert llm.options.limit_mm_per_prompt == {"image": 2, "video": 0}
    assert llm.options.max_model_len == -1
    assert llm.options.model_impl == "transformers"


def test_settings_of_the_user_win_and_what_replies_depend_on_is_recorded(monkeypatch):
    engine, fake = make_engine(monkeypatch, True, gpu_memory_utilization=0.3, max_model_len=512, quantization="fp8")
    options = fake.made[0].options
    assert (options.gpu_memory_utilization, options.max_model_len, options.quantization) == (0.3, 512, "fp8")
    assert options.kv_cache_memory_bytes is None, "it would win over the share of the memory"
    recorded = engine.identity()["vllm_options"]
    assert (recorded["max_model_len"], recorded["quantization"]) == (512, "fp8")
    assert "gpu_memory_utilization" not in recorded
    assert options_of_replies({"enforce_eager": True, "quantization": "fp8"}) == {"quantization": "fp8"}


@pytest.mark.parametrize(
    ("name", "words"),
    [("max_model_length", "Did you mean max_model_len"), ("dtype", "Use --dtype"), ("enable_lora", "VisRL sets this")],
)
def test_settings_that_vllm_does_not_have_or_that_are_ours_are_refused(monkeypatch, name, words):
    with pytest.raises(UsageError, match=words):
        make_engine(monkeypatch, **{name: 1})


def test_settings_are_read_from_the_command_line_and_from_a_file(tmp_path):
    text = "max-model-len=8192, enforce_eager=true,quantization=fp8,gpu_memory_utilization=0.5"
    expected = {"max_model_len": 8192, "enforce_eager": True, "quantization": "fp8", "gpu_memory_utilization": 0.5}
    assert parse_vllm_options(text) == expected
    file = tmp_path / "run.toml"
    file.write_text('engine = "vllm"\n[vllm_options]\nmax_model_len = 8192\nenforce_eager = true\n')
    assert load_config(file, {}).vllm_options == {"max_model_len": 8192, "enforce_eager": True}
    for wrong in ("max_model_len", "=3", "a=1,,b=2"):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            parse_vllm_options(wrong)
    with pytest.raises(UsageError, match="block_size is there twice"):
        parse_vllm_options("block-size=16,block_size=32")
    for null in ("null", '{"mode": null}', "[[null]]", "NaN", "[1e999]"):
        with pytest.raises(UsageError, match="compilation_config=.*: expected no null"):
            parse_vllm_options(f"compilation_config={null}")


def test_the_cache_on_a_cpu_leaves_memory_to_others():
    assert default_options({}, True, 1000)["kv_cache_memory_bytes"] == 250
    assert default_options({}, True, 10**12)["kv_cache_memory_bytes"] == 2 * 2**30
    assert "kv_cache_memory_bytes" not in default_options({}, False, 10**12)


@pytest.mark.parametrize(
    ("model_type", "tower", "expected"),
    [("llava", "clip_vision_model", "auto"), ("llava", "focalnet", "transformers"), ("qwen2_vl", "qwen2_vl", "auto")],
)
def test_a_llava_with_an_encoder_that_vllm_lacks_runs_on_transformers_classes(model_type, tower, expected):
    assert model_impl({"model_type": model_type, "vision_config": {"model_type": tower}}) == expected


def test_one_process_does_not_hold_transformers_beside_classes_that_vllm_changed():
    config = GenConfig(engine="vllm", critic_engine="transformers")
    actor, critic = find_model("spotlight"), find_model("spotlight-base")
    with pytest.raises(UsageError, match="the transformers engine can't run beside it"):
        model_pair.load_roles(config, actor, critic)


def test_a_model_that_vllm_can_not_load_says_why(monkeypatch):
    def refuse(self: Any, **options: Any) -> None:
        raise ValueError(
            "1 validation error for ModelConfig\n  Value error, No such head size. [type=value_error, x]\n"
        )

    fake = fake_vllm.install(monkeypatch, say_box)
    monkeypatch.setattr(fake, "__init__", refuse)
    with pytest.raises(VisRLError, match=r"could not load spotlight: No such head size$"):
        VLLMEngine(find_model("spotlight"))


def test_an_adapter_that_vllm_does_not_take_is_said_at_the_start_and_no_refusal_of_each_question(monkeypatch, tmp_path):
    fake_vllm.install(monkeypatch, say_box)
    adapter = shutil.copytree(ACTOR, tmp_path / "my actor")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(VisRLError, match=r"vLLM does not yet support DoRA\. `visrl merge '.*my actor' -o FOLDER`"):
        VLLMEngine(find_model(str(adapter)))


def test_a_model_with_a_part_that_vllm_does_not_find_says_so(monkeypatch):
    def refuse(self: Any, **options: Any) -> None:
        raise AttributeError("'MllamaProcessor' object has no attribute '_get_num_multimodal_tokens'")

    fake = fake_vllm.install(monkeypatch, say_box)
    monkeypatch.setattr(fake, "__init__", refuse)
    with pytest.raises(VisRLError, match="could not load spotlight: 'MllamaProcessor' object has no attribute"):
        VLLMEngine(find_model("spotlight"))


@pytest.mark.parametrize("error", [RuntimeError("Executor failed."), fake_vllm.VLLMServerError("EngineCore is dead.")])
def test_a_dead_part_of_vllm_is_a_lost_engine(monkeypatch, error):
    engine, fake = make_engine(monkeypatch)
    fake.made[0].error = error
    with pytest.raises(EngineLost, match="vLLM stopped on Some GPU"):
        engine.generate([ask()])


def test_a_dead_process_of_several_is_a_lost_engine_without_a_dump_of_the_inputs(monkeypatch):
    engine, fake = make_engine(monkeypatch, tensor_parallel_size=2)
    fake.made[0].error = RuntimeError("cancelled")
    with pytest.raises(EngineLost, match="cancelled. If a process of its own died"):
        engine.generate([ask()])
    assert logging.getLogger("vllm.logging_utils.dump_input").disabled


def test_a_lack_of_memory_says_what_to_lower(monkeypatch):
    engine, fake = make_engine(monkeypatch)
    fake.made[0].error = MemoryError("out of memory")
    with pytest.raises(EngineLost, match="gpu_memory_utilization=0.8"):
        engine.generate([ask()])


def test_the_text_is_decoded_from_the_tokens_and_greedy_replies_are_asked_for_once(monkeypatch):
    engine, fake = make_engine(monkeypatch)
    request = Request(ask().parts, ask().images, (1, 2, 3), Sampling(max_new_tokens=64))
    [replies] = engine.generate([request])
    assert [reply.text for reply in replies] == [BOX] * 3
    assert len(fake.made[0].calls[0]) == 1


def test_those_with_the_adapter_run_apart(monkeypatch):
    engine, fake = make_engine(monkeypatch)
    engine.generate([ask("a", adapter=True), ask("b"), ask("c", adapter=True)])
    calls = [[(prompt["prompt"], lora is not None) for prompt, _, lora in call] for call in fake.made[0].calls]
    assert [[(text.split("<|sl_image|>")[1][0], lora) for text, lora in call] for call in calls] == [
        [("b", False)],
        [("a", True), ("c", True)],
    ]


def test_prompt_tokens_that_vllm_had_in_its_cache_are_counted(monkeypatch):
    engine, _ = make_engine(monkeypatch)
    assert engine.usage.cached_prompt_tokens is None
    engine.generate([ask("a"), ask("b")])
    engine.generate([ask(prefix="s: ", choices=("0.0", "0.5", "1.0"))])
    assert engine.usage.cached_prompt_tokens == 3 * fake_vllm.CACHED


def test_grammars_and_choices_reach_vllm(monkeypatch):
    engine, fake = make_engine(monkeypatch)
    engine.generate([ask(grammar='start: "a"')])
    [(_, params, _)] = fake.made[0].calls[0]
    assert params.structured_outputs.grammar == 'start: "a"'
    [[reply]] = engine.generate([ask(prefix="s: ", choices=("0.0", "0.5", "1.0"))])
    assert reply.choice_probs == pytest.approx([1 / 3] * 3)
    assert reply.choice_mass == pytest.approx(1)


def test_a_grammar_that_does_not_compile_is_an_error_and_no_refused_question(monkeypatch):
    engine, fake = make_engine(monkeypatch)
    with pytest.raises(VisRLError, match="does not support the grammar 'start: nothing'") as raised:
        engine.generate([ask(grammar="start: nothing")])
    assert not isinstance(raised.value, RequestRefused)
    assert not fake.made[0].calls


def test_a_prompt_that_leaves_no_room_for_a_reply_is_too_long(monkeypatch):
    engine, fake = make_engine(monkeypatch)
    monkeypatch.setattr(engine, "_context", 70)
    with pytest.raises(RequestTooLong):
        engine.generate([ask("where is it, if it is anywhere?")])


@pytest.mark.vllm
def test_the_stand_in_has_no_name_that_vllm_lacks():
    """What keeps it honest, where vLLM is installed: its classes and calls take what the real ones take."""
    vllm = import_vllm()
    for fake in (fake_vllm.EngineArgs, fake_vllm.SamplingParams, fake_vllm.StructuredOutputsParams):
        assert names(fake) <= names(getattr(vllm, fake.__name__, None) or getattr(vllm.sampling_params, fake.__name__))
    outputs = importlib.import_module("vllm.outputs")
    assert names(fake_vllm.RequestOutput) <= names(outputs.RequestOutput)
    assert names(fake_vllm.CompletionOutput) <= names(outputs.CompletionOutput)
    assert names(fake_vllm.LoRARequest) <= names(vllm.lora.request.LoRARequest)
    assert names(fake_vllm.LLM.generate) <= names(vllm.LLM.generate)
    for error in ("VLLMClientError", "VLLMServerError"):
        assert issubclass(getattr(vllm.exceptions, error), Exception)


def names(call: Any) -> set[str]:
    return set(inspect.signature(call).parameters)
