"""An export in LLaMA-Factory: its own loader takes every row, and two steps of its DPO run."""

import json

import pytest
import yaml

from tests.peers.reports import result
from visrl_data.publishing.export import export

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def program(environment):
    return environment("llamafactory")


def arguments(folder, model, family, name="rl2", **more):
    """What the export says, with a tiny model and two steps."""
    settings = {
        "stage": "dpo", "do_train": True, "finetuning_type": "lora", "lora_target": "q_proj,v_proj",
        "model_name_or_path": str(model), "dataset_dir": str(folder), "dataset": f"visrl-{name}",
        "template": family, "output_dir": str(folder / f"out-{family}"), "max_steps": 2, "cutoff_len": 8192,
        "per_device_train_batch_size": 2, "logging_steps": 1, "report_to": "none", "use_cpu": True,
        "overwrite_cache": True, "preprocessing_num_workers": 1, "save_strategy": "no", **more,
    }  # fmt: skip
    path = folder / f"{family}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_its_loader_takes_every_row_and_its_training_runs(program, peers_run, tiny_model, tmp_path, family):
    folder = tmp_path / "out"
    exported = export(peers_run, "llamafactory", folder)
    path = arguments(folder, tiny_model(family), family)
    loaded = result(program.python("llamafactory_loader.py", path, cwd=tmp_path))
    rows = json.loads((folder / "rl2.json").read_text())
    assert loaded["rows"] == len(rows) == exported.rows["rl2"] > 0
    assert loaded["pictures"] == [len(row["images"]) for row in rows]
    for side in ("chosen", "rejected"):
        assert loaded[side] == [row[side]["value"] for row in rows]
    printed = program.run("llamafactory-cli", "train", path, cwd=tmp_path)
    assert "train_loss" in printed
