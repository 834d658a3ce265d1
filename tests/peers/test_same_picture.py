"""With the settings of an export as they stand, LLaMA-Factory shows pictures at the size that its boxes are about."""

import pytest
import yaml
from PIL import Image

from tests.helpers.dataset_runs import SHIPPED, photos
from tests.helpers.processor_engine import ProcessorEngine
from tests.helpers.tiny_families import qwen2_vl, stand_ins
from tests.peers.reports import result
from visrl_data.core.config import GenConfig
from visrl_data.engines.image_processing import limit_pixels, picture_size
from visrl_data.engines.protocol import Role
from visrl_data.executors import generation
from visrl_data.models.families import family_of
from visrl_data.publishing.export import export

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]
# Of a tiny model on a CPU; all else is as the export says.
TINY = {
    "lora_target": "q_proj,v_proj", "max_steps": 2, "use_cpu": True, "bf16": False, "report_to": "none",
    "overwrite_cache": True, "preprocessing_num_workers": 1, "save_strategy": "no",
}  # fmt: skip


@pytest.mark.parametrize("bound", [None, 56 * 56])
def test_llamafactory_trains_by_the_exports_own_yaml(environment, tiny_model, tmp_path, bound):
    processor, family = load(bound), family_of("qwen2_vl")
    engine = ProcessorEngine(processor, family, bound)
    source = photos(tmp_path / "photos", 24, **SHIPPED)
    config = GenConfig(source=str(source), box_space="resized_pixels", box_win=0.5, box_lose=0.4)
    run = generation.generate(config, tmp_path / "run", roles=(Role(engine, True), Role(engine, False)))
    export(run.path, "llamafactory", tmp_path / "out")
    path = tmp_path / "out" / "rl1.yaml"
    settings = yaml.safe_load(path.read_text()) | TINY | {"model_name_or_path": str(tiny_model("qwen2_vl"))}
    path.write_text(yaml.safe_dump(settings))
    program = environment("llamafactory")
    loaded = result(program.python("llamafactory_loader.py", path, cwd=tmp_path))
    expected = list(picture_size(processor, Image.new("RGB", (120, 90))))
    assert loaded["rows"] and all(sizes == [expected] for sizes in loaded["shown"])
    assert "train_loss" in program.run("llamafactory-cli", "train", path, cwd=tmp_path)


def load(bound):
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch)
        processor, _ = qwen2_vl()
    if bound:
        limit_pixels(processor, family_of("qwen2_vl"), bound, "it")
    return processor
