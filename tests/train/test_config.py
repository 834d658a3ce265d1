"""Options, presets and commands of training; merging; the files for accelerate."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from typer.testing import CliRunner

from tests.helpers.command import visrl
from tests.helpers.tiny_families import TINY, stand_ins
from tests.train.test_helpers import QUICK
from visrl_cli.main import app
from visrl_data.core.boxes import SPACES
from visrl_data.core.config import to_toml
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.quantization import other_linears
from visrl_data.models.model_folder import find_model
from visrl_train import launch, models, rl1, trainers
from visrl_train.config import Rl1Config, Rl2Config, SftConfig
from visrl_train.launch import PRESETS, load_train_config, resolve
from visrl_train.stages import STAGES

pytest_plugins = ["tests.train.test_helpers"]

SEVEN = ["llama-3.2-vision-11b", "llava-1.5-7b", "llava-next-7b", "minicpm-o-2.6", "paligemma2-10b", "qwen2.5-vl-7b",
         "yi-vl-6b"]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_is_documented_and_comes_back(stage, tmp_path):
    kind = STAGES[stage].config
    assert all(spec.metadata["help"] for spec in dataclasses.fields(kind))
    config = kind(model="a/b@c", seed=3, learning_rate=0.5, gradient_checkpointing=False)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert load_train_config(stage, str(file), {}) == config


def test_a_tracker_that_is_not_known_or_not_installed_is_said(sft_model, scripted_run, tmp_path, monkeypatch):
    assert trainers.trackers("wandb, tensorboard") == ["wandb", "tensorboard"]
    for wrong in ("wandbb", "wandb,,mlflow", ""):
        with pytest.raises(UsageError, match=f"--report-to {wrong}: expected none, all, or some of .*, wandb"):
            trainers.trackers(wrong)

    class Missing:
        def __init__(self):
            raise RuntimeError("WandbCallback requires wandb to be installed. Run `pip install wandb`.")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", Missing)
    config = Rl1Config(model=str(sft_model), data=str(scripted_run), report_to="wandb", **QUICK)
    with pytest.raises(UsageError, match=r"--report-to wandb: .*`pip install wandb`"):
        rl1.train(config, tmp_path / "m")


def test_defaults_are_those_of_the_reference_code():
    sft, rl1, rl2 = (STAGES[name].config() for name in ("sft", "rl1", "rl2"))
    assert (sft.learning_rate, sft.epochs, sft.batch_size, sft.accumulation) == (1e-4, 3, 2, 8)
    for rl in (rl1, rl2):
        assert (rl.learning_rate, rl.epochs, rl.batch_size, rl.accumulation) == (5e-6, 5, 3, 8)
    assert (rl2.lambda_b, rl2.lambda_r, rl2.beta_b, rl2.beta_r, rl2.response_crop) == (0.5, 0.5, 0.1, 0.1, "win")
    assert {sft.warmup, sft.validation} == {0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 'three'", "expected float"),
        ("epochs = 0.0", "--epochs 0.0: expected above 0.0"),
        ("epocs = 3", "unknown option 'epocs'; `visrl train rl2 --help`"),
        ("[rl2]\nlambda_r = -1", "--lambda-r -1: expected at least 0"),
        ("rl2 = 1", r"expected a table \[rl2\]"),
        ("response_crop = 'both'", "expected one of win, own"),
        ("[sft]\nsource = 'x'\n[rl2]\nsource = 'x'", "unknown option 'source'"),
    ],
)
def test_wrong_files_are_named(text, message, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_train_config("rl2", str(file), {})


def test_flags_win_over_the_stages_table_over_the_top(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text(
        "seed = 1\nepochs = 2\nlearning_rate = 0.1\n[rl1]\nepochs = 4\nlearning_rate = 0.2\n[sft]\nseed = 9\n"
    )
    config = load_train_config("rl1", str(file), {"learning_rate": 0.3})
    assert (config.seed, config.epochs, config.learning_rate) == (1, 4, 0.3)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", [path.stem for path in PRESETS.glob("*.toml")])
def test_every_preset_is_read_by_every_stage(preset, stage):
    config = load_train_config(stage, preset, {})
    start = load_train_config("sft", preset, {})
    assert launch.preset_for(start.model) == preset.removesuffix("-rounds")
    assert start.box_space is None or start.box_space in SPACES
    if preset in SEVEN:
        reference = STAGES[stage].config()
        for name in ("learning_rate", "epochs", "batch_size", "accumulation", "warmup"):
            assert getattr(config, name) == getattr(reference, name)
        assert "GB" in (PRESETS / f"{preset}.toml").read_text()


def test_the_papers_seven_models_have_presets():
    assert sorted(path.stem for path in PRESETS.glob("*.toml")) == sorted([*SEVEN, "spotlight", "spotlight-rounds"])
    with pytest.raises(UsageError, match="Presets: llama-3.2-vision-11b, "):
        load_train_config("rl1", "no-such", {})


def test_the_preset_for_rounds_differs_from_spotlights_in_the_preference_of_rl2_alone():
    rounds, one = (load_train_config("rl2", preset, {}) for preset in ("spotlight-rounds", "spotlight"))
    assert rounds == dataclasses.replace(one, beta_b=1e-6, beta_r=1e-6) and rounds.win_nll == 1
    assert load_train_config("rl1", "spotlight-rounds", {}) == load_train_config("rl1", "spotlight", {})


def test_the_preset_follows_the_original_model(untrained, capsys):
    assert resolve("sft", None, {}).learning_rate == load_train_config("sft", "spotlight", {}).learning_rate
    assert "preset spotlight" in capsys.readouterr().err
    assert resolve("sft", None, {"model": str(untrained)}).learning_rate == SftConfig().learning_rate
    assert resolve("rl2", "llava-1.5-7b", {"lambda_b": 1.0}) == Rl2Config(lambda_b=1.0)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed_zero3"])
def test_accelerate_reads_the_shipped_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    file = Path(launch.__file__).parent / "accelerate" / f"{name}.yaml"
    found = load_config_from_file(str(file))
    assert found.mixed_precision == "bf16"
    assert found.distributed_type == yaml.safe_load(file.read_text())["distributed_type"]


def test_the_commands_train_and_merge(sft_model, scripted_run, tmp_path):
    """From the command line: rl1, one line of JSON, and its merged weights, which answer as the adapter does."""
    quick = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    rl1 = ["train", "rl1", "--model", str(sft_model), "--data", str(scripted_run), "-o", str(tmp_path / "m 1"), *quick]
    result = CliRunner().invoke(app, [*rl1, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["model"] == str(tmp_path / "m 1") and said["stage"] == "rl1"
    again = CliRunner().invoke(app, rl1, catch_exceptions=False)
    assert again.stdout == f"{tmp_path}/m 1\n"
    assert f"rl1: from {sft_model}, on {scripted_run}, to {tmp_path}/m 1" in again.stderr
    assert f"Next: visrl train rl2 --data {scripted_run} --model '{tmp_path}/m 1'" in again.stderr
    merged = CliRunner().invoke(
        app, ["merge", str(tmp_path / "m 1"), "-o", str(tmp_path / "whole")], catch_exceptions=False
    )
    assert merged.exit_code == 0
    check_merged(tmp_path / "m 1", tmp_path / "whole")


def check_merged(adapter, whole):
    import torch

    from visrl_data.engines.transformers import TransformersEngine

    one, other = find_model(str(adapter)), find_model(str(whole))
    assert other.base is None and other.origin_base == one.origin_base
    assert (other.box_space, other.crop_rule) == (one.box_space, one.crop_rule)
    record = json.loads((whole / "visrl.json").read_text())
    assert record["origin_base"] == json.loads((adapter / "visrl.json").read_text())["origin_base"]
    assert record["merged_from"] == {"id": str(adapter), "digest": one.digest}
    ids = torch.tensor([[11, 12, 13, 14]])
    with torch.no_grad():
        logits = [TransformersEngine(folder).model(input_ids=ids).logits for folder in (one, other)]
    assert torch.allclose(*logits, atol=1e-4)
    from visrl_train.merge import merge

    with pytest.raises(VisRLError, match="is no adapter"):
        merge(str(whole), whole.parent / "again")
    with pytest.raises(VisRLError, match="not empty"):
        merge(str(adapter), whole)


def test_help_shows_the_options_of_each_stage():
    for stage, flag in (("sft", "--gold-target"), ("rl1", "--cache-reference"), ("rl2", "--response-crop")):
        result = CliRunner().invoke(app, ["train", stage, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0 and flag in result.stdout


def test_a_stage_that_was_asked_to_stop_exits_with_143(scripted_run, sft_model, monkeypatch):
    from visrl_data.core.errors import Terminated
    from visrl_train import rl1

    def stop(*_):
        raise Terminated("Stopped at step 3; run the same command again to go on.")

    monkeypatch.setattr(rl1, "train", stop)
    code, _, err = visrl("train", "rl1", "--data", scripted_run, "--model", sft_model)
    assert code == 143 and "run the same command again" in err


def test_quantizing_says_what_it_needs(sft_model, monkeypatch):
    with pytest.raises(UsageError, match="--full with --quantize"):
        Rl2Config(full=True, quantize=True)
    folder, config = find_model(str(sft_model)), Rl2Config(quantize=True)
    with pytest.raises(VisRLError, match="needs a GPU"):
        models.load_policy(folder, config)
    monkeypatch.setattr(models, "on_cpu", lambda _: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(VisRLError, match=r"pip install '\.\[quant\]'"):
        models.load_policy(folder, config)


@pytest.mark.parametrize("model_type", TINY)
def test_4_bits_are_for_the_language_model_alone(model_type, monkeypatch):
    """By transformers' own rule, which looks for a pattern at a name's beginning or end, and not within.

    Llama 4's decoder holds a router and the output layer, which stay as they are too.
    """
    from torch import nn
    from transformers.quantizers.quantizers_utils import should_convert_module

    stand_ins(monkeypatch)
    _, model = TINY[model_type]()
    kept, decoder = other_linears(model), model.get_decoder()
    ours = {id(module) for module in decoder.modules()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            expected = id(module) in ours and not name.endswith((".router", ".lm_head"))
            assert should_convert_module(name, kept) == expected, name
