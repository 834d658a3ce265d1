"""With the settings of an export as they stand, LLaMA-Factory shows pictures at the size that its boxes are about."""

import pytest
import yaml

from tests.peers.reports import result
from visrl_data.publishing.export import export

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]
# Of a tiny model on a CPU; all else is as the export says.
TINY = {
    "lora_target": "q_proj,v_proj", "max_steps": 2, "use_cpu": True, "bf16": False, "report_to": "none",
    "overwrite_cache": True, "preprocessing_num_workers": 1, "save_strategy": "no",
}  # fmt: skip


@pytest.mark.parametrize("bound", [None, 56 * 56])
def test_llamafactory_trains_by_the_exports_own_yaml(environment, pixel_run, tiny_model, tmp_path, bound):
    run, expected = pixel_run(bound)
    export(run, "llamafactory", tmp_path / "out")
    path = tmp_path / "out" / "rl1.yaml"
    settings = yaml.safe_load(path.read_text()) | TINY | {"model_name_or_path": str(tiny_model("qwen2_vl"))}
    path.write_text(yaml.safe_dump(settings))
    program = environment("llamafactory")
    loaded = result(program.python("llamafactory_loader.py", path, cwd=tmp_path))
    assert loaded["rows"] and all(sizes == [expected] for sizes in loaded["shown"])
    assert "train_loss" in program.run("llamafactory-cli", "train", path, cwd=tmp_path)
