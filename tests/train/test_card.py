"""The card of a trained model: its facts, its commands, and texts from strangers, which stay texts."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from tests.helpers.hostile import PAYLOADS, structure
from visrl_train import card
from visrl_train.config import Rl1Config, Rl2Config, SftAnswersConfig


def record(text="x", **facts):
    """The content of visrl.json with this text wherever a model or a data set of others puts one."""
    return {
        "box_space": "unit",
        "crop_rule": {"min_side": 0.08, "max_aspect": 2.0},
        "origin_base": {"id": text, "digest": text},
        "trained_from": {"id": text, "digest": text},
        "base": {"id": "org/base@main", "digest": text},
        "data": {"name": text, "pairs": 11},
        "prompts": {"focus@1": f"<image>\n{{question}}\n{text}", "answer@1": "<image>\n{question}\n<crop>\nBriefly."},
        "stage": "rl1",
        "steps": 2,
        "versions": {"torch": text},
    } | facts


def render(output, config=None, **facts):
    return card.render(record(**facts), config or Rl1Config(), output, Path("nothing.jsonl"))


@pytest.mark.parametrize("text", PAYLOADS)
def test_texts_from_strangers_stay_texts(text, tmp_path):
    body = render(tmp_path / "model", Rl1Config(data=text, model=text), text=text)
    assert structure(body) == structure(render(tmp_path / "model", Rl1Config(data="x", model="x")))
    assert "\x1b" not in body and "<script" not in body.partition("```bash")[0]
    name = text.replace("/", " ").replace("\0", "") or "x"
    assert structure(render(tmp_path / name)) == structure(render(tmp_path / "model"))
    head = yaml.safe_load(body.split("---\n")[1])
    assert set(head) <= {"base_model", "library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize(("full", "library"), [(False, "peft"), (True, "transformers")])
def test_the_head_is_one_that_the_hub_takes(full, library, tmp_path):
    start = {"id": f"org/base@{'a' * 40}", "digest": "b" * 64}
    data = {"name": "me/cars@v1.0", "pairs": 11}
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "eval_focus/accuracy": 0.5}\n{"step": 2, "eval_focus/accuracy": 0.75}\n')
    body = card.render(record(origin_base=start, data=data), Rl1Config(full=full), tmp_path / "cars 🚗", metrics)
    head = ModelCard(body).data
    [result] = head.eval_results
    assert (head.model_name, head.base_model, head.library_name) == ("cars 🚗", "org/base", library)
    assert (head.pipeline_tag, head.tags, head.datasets) == ("image-text-to-text", ["visrl", "rl1"], ["me/cars"])
    assert (result.task_type, result.dataset_type, result.dataset_split) == (head.pipeline_tag, "me/cars", "validation")
    assert (result.metric_type, result.metric_value, head.metrics) == ("accuracy", 0.75, ["accuracy"])


@pytest.mark.parametrize("data", [{"name": "runs/cars"}, {"name": "x + y", "parts": [{"name": "runs/cars"}]}])
def test_a_run_of_this_machine_is_no_set_of_the_hub(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "cars").mkdir(parents=True)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 2, "eval_focus/accuracy": 0.75}\n')
    body = card.render(record(data=data), Rl1Config(), tmp_path / "model", metrics)
    assert not {"datasets", "model-index"} & yaml.safe_load(body.split("---\n")[1]).keys()


def test_the_commands_are_for_this_folder_and_this_model(tmp_path):
    folder = tmp_path / "my models" / "it's"
    commands = [line for line in render(folder).splitlines() if line.startswith("visrl ")]
    words = [shlex.split(line, comments=True) for line in commands]
    assert [line[1] for line in words] == ["eval", "gen", "merge", "train"]
    assert all(str(folder) in line for line in words[:3]) and f"{folder}/config.toml" in words[3]
    baseline = render(folder, SftAnswersConfig(full=True), stage="sft-answers", steps=1)
    assert "visrl gen --model" not in baseline and "visrl merge" not in baseline, "it has no boxes, and no adapter"


def test_models_of_this_machine_are_named_by_their_last_part(tmp_path):
    start = {"id": "/home/me/models/my_base", "digest": "a" * 64}
    body = render(tmp_path / "model", trained_from=start, origin_base=start)
    assert f"| Started from | `my_base` (digest `{'a' * 12}`) |" in body and "/home/me" not in body
    assert "base_model" not in json.dumps(yaml.safe_load(body.split("---\n")[1]))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Rl1Config(win_nll=0.5), "The loss is DPO + 0.5 x the NLL of the win (RPO), not the paper's DPO alone. A "),
        (Rl1Config(win_nll=1.0, beta_b=0.0), "Here the loss is the NLL of the win alone"),
        (Rl2Config(win_nll=1.0, beta_b=1e-6, beta_r=1e-6), "Here the loss is the NLL of the win alone"),
        (Rl2Config(win_nll=1.0, beta_r=1e-6), "DPO alone; that of the response has the NLL alone, since its beta"),
    ],
)
def test_a_loss_that_is_not_the_papers_is_named(config, sentence, tmp_path):
    assert sentence in render(tmp_path / "model", config)


def test_the_papers_loss_needs_no_such_sentence(tmp_path):
    assert not any("NLL" in render(tmp_path / "model", config) for config in (Rl1Config(), SftAnswersConfig()))
