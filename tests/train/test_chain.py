"""SFT -> RL1 -> RL2 -> the next round: one adapter, its frozen copy as the reference, one original model."""

import json
import math

import pytest

from tests.conftest import draw_photo
from tests.train.test_helpers import QUICK
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.models.model_folder import find_model
from visrl_train import rl1, rl2
from visrl_train.config import Rl1Config, Rl2Config
from visrl_train.metrics_log import read_metrics

pytest_plugins = ["tests.train.test_helpers"]

LOG2 = math.log(2)  # -log sigma(0): policy and reference agree
# Each step sees all pairs, so that the margins of two steps are of the same pairs.
WHOLE = {**QUICK, "batch_size": 64, "epochs": 3}


def record(folder):
    return json.loads((folder / "visrl.json").read_text())


def check_stage(seen, first_loss, steps):
    assert seen.logs[0]["loss"] == pytest.approx(first_loss, abs=1e-4)
    assert seen.after["trained"] != seen.before["trained"]
    assert not any(".ref." in name for name, p in seen.trainer.model.named_parameters() if p.requires_grad)
    assert seen.after["rest"] == seen.before["rest"]
    assert seen.after["reference"] == seen.before["reference"]
    for step in steps:
        assert seen.logs[0][f"{step}/margin"] == pytest.approx(0, abs=1e-5)
        margins = [log[f"{step}/margin"] for log in seen.logs if f"{step}/margin" in log]
        assert margins[-1] > 0.01, "the margin must rise"


def answers(folder):
    """What a saved model says as an actor."""
    found = find_model(str(folder))
    engine = TransformersEngine(found)
    request = Request(PromptSet().focus.parts(question="where?"), (draw_photo(1),), (0, 1), Sampling(1.0, 1.0, 0, 8))
    return [r.text for r in engine.generate([Request(**{**_fields(request), "adapter": True})])[0]]


def _fields(request):
    return {name: getattr(request, name) for name in request.__slots__}


def test_one_adapter_goes_through_all_stages(untrained, sft_model, scripted_run, tmp_path, seen):
    base = find_model(str(untrained))
    origin = {"id": str(untrained), "digest": base.digest}
    assert record(sft_model)["origin_base"] == origin

    first = rl1.train(Rl1Config(model=str(sft_model), data=str(scripted_run), **WHOLE), tmp_path / "rl1")
    check_stage(seen, LOG2, ["focus"])

    config = Rl2Config(model=str(first), data=str(scripted_run), lambda_b=0.3, lambda_r=0.6, **WHOLE)
    second = rl2.train(config, tmp_path / "rl2")
    answered = [pair["has_response"] for pair in seen.trainer.train_dataset]
    assert all(answered)
    check_stage(seen, (0.3 + 0.6) * LOG2, ["focus", "response"])

    third = rl1.train(Rl1Config(model=str(second), data=str(scripted_run), **WHOLE), tmp_path / "round2")
    check_stage(seen, LOG2, ["focus"])

    digests = [find_model(str(sft_model)).digest]
    for folder, before in ((first, sft_model), (second, first), (third, second)):
        found = find_model(str(folder))
        digests.append(found.digest)
        assert found.base.digest == base.digest
        assert record(folder)["origin_base"] == origin
        assert record(folder)["trained_from"] == {"id": str(before), "digest": digests[-2]}
        assert (found.box_space, found.crop_rule) == (base.box_space, base.crop_rule)
        assert not (folder / "ref").exists() and not (folder / "work").exists()
        assert {"adapter_model.safetensors", "README.md", "config.toml", "metrics.jsonl", "curves.svg"} <= {
            file.name for file in folder.iterdir()
        }
    assert len(set(digests)) == 4
    assert len({tuple(answers(folder)) for folder in (sft_model, first, third)}) == 3, "each is another actor"


@pytest.mark.parametrize("full", [False, True])
def test_gradient_checkpointing_changes_no_weight(full, sft_model, scripted_run, tmp_path, seen):
    digests = set()
    for on in (False, True):
        config = Rl2Config(model=str(sft_model), data=str(scripted_run), full=full, gradient_checkpointing=on, **WHOLE)
        digests.add(find_model(str(rl2.train(config, tmp_path / str(on)))).digest)
        assert seen.trainer.model.is_gradient_checkpointing == on
    assert len(digests) == 1


def test_full_weights_take_the_previous_stage_as_reference(sft_model, scripted_run, tmp_path, seen):
    quick = {**WHOLE, "learning_rate": 1e-4, "full": True}
    first = rl1.train(Rl1Config(model=str(sft_model), data=str(scripted_run), **quick), tmp_path / "rl1")
    check_stage(seen, LOG2, ["focus"])
    moved = {n for n, p in seen.trainer.model.named_parameters() if p.requires_grad}
    assert moved and not any("vision" in name or "projector" in name for name in moved)
    second = rl2.train(Rl2Config(model=str(first), data=str(scripted_run), **quick), tmp_path / "rl2")
    check_stage(seen, LOG2, ["focus", "response"])
    found = find_model(str(second))
    assert found.base is None and found.digest != find_model(str(first)).digest
    assert record(second)["origin_base"] == record(sft_model)["origin_base"]
    assert answers(second)


def test_metrics_stand_apart_for_both_steps_and_terms(sft_model, scripted_run, tmp_path, capsys):
    config = Rl2Config(model=str(sft_model), data=str(scripted_run), win_nll=1.0, **{**QUICK, "validation": 0.3})
    folder = rl2.train(config, tmp_path / "rl2")
    records = read_metrics(folder / "metrics.jsonl")
    wanted = {f"{step}/{name}" for step in ("focus", "response")
              for name in ("loss", "reward_chosen", "reward_rejected", "margin", "accuracy", "dpo", "nll")}  # fmt: skip
    assert wanted <= set(records[0])
    validation = next(r for r in records if "eval_loss" in r)
    assert {f"eval_{name}" for name in wanted} <= set(validation)
    together = 0.5 * (validation["eval_focus/loss"] + validation["eval_response/loss"])
    assert validation["eval_loss"] == pytest.approx(together, abs=0.02)
    assert ">loss</text>" in (folder / "curves.svg").read_text()
    card = (folder / "README.md").read_text()
    assert "The loss is DPO + 1 x the NLL of the win (RPO), not the paper's DPO alone." in card
    assert all(f"| {step}/{term} |" in card for step in ("focus", "response") for term in ("dpo", "nll"))
    console = capsys.readouterr().err
    assert all(f"  {step}/{term} " in console for step in ("focus", "response") for term in ("dpo", "nll"))
    assert "| focus/margin |" in card and "visrl train rl2 --config" in card and "None" not in card


def test_an_image_is_on_one_side_only(scripted_run):
    from visrl_data.runs.dataset_files import split_of
    from visrl_train.pairs import read_pairs
    from visrl_train.stage_folder import split

    pairs = read_pairs(str(scripted_run)).pairs
    train, validation = split(pairs, 0.3)
    assert len(train) + len(validation) == len(pairs) and validation
    assert not {row["image"] for row in train} & {row["image"] for row in validation}
    assert all(split_of(row["image"], 0.3) == "validation" for row in validation)
    assert split(pairs[:1], 0.9) in (([], []), (split(pairs[:1], 0.0)[0], []))


def test_model_and_pairs_must_agree(sft_model, scripted_run, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(sft_model, other)
    for change, message in (
        ({"box_space": "per_mille"}, "trained with box space per_mille"),
        ({"crop_rule": {"min_side": 0.2, "max_aspect": 1.0}}, "trained with crop rule"),
    ):
        (other / "visrl.json").write_text(json.dumps({**record(sft_model), **change}))
        with pytest.raises(VisRLError, match=message):
            rl1.train(Rl1Config(model=str(other), data=str(scripted_run)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_an_actor_needs_a_model(scripted_run, tmp_path):
    with pytest.raises(VisRLError, match="--model"):
        rl1.train(Rl1Config(data=str(scripted_run)), tmp_path / "out")


def test_an_adapter_whose_base_has_changed_is_refused(sft_model, scripted_run, tmp_path):
    import shutil

    from visrl_train.merge import merge

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(find_model(str(sft_model)).base.path, base)
    shutil.copytree(sft_model, adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VisRLError, match="what lies there now"):
        rl1.train(Rl1Config(model=str(adapter), data=str(scripted_run)), tmp_path / "out")
    with pytest.raises(VisRLError, match="what lies there now"):
        merge(str(adapter), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
