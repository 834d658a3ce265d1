"""An export in ms-swift: its loader and template take every row, and its DPO runs by the export's own script."""

import json
import re
import shlex

import pytest

from tests.peers.reports import result
from visrl_data.publishing.export import export

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]
SIDES = ("chosen", "rejected")
TYPES = {"llava": "llava1_5_hf", "qwen2_vl": "qwen2_vl"}
# Of a tiny model on a CPU; all else is as the export says.
TINY = (
    "--target_modules q_proj v_proj --max_steps 2 --use_cpu true --bf16 false --torch_dtype float32 --report_to none \
--save_strategy no --logging_steps 1 --gradient_checkpointing false --dataset_num_proc 1 --dataloader_num_workers 0"
)


@pytest.fixture(scope="module")
def program(environment):
    return environment("swift")


def script_of(folder, model, model_type):
    """The export's rl2.sh with a tiny model in place of the actor: its environment, and its command as it stands."""
    text = (folder / "rl2.sh").read_text()
    text = re.sub(r"--adapters \S+ \\\n\s*", "", text)
    text = re.sub(
        r"--model \S+", f"--model {shlex.quote(str(model))} --model_type {model_type} --template {model_type}", text
    )
    (folder / "tiny.sh").write_text(f"{text.rstrip()} {TINY}\n")
    bounds = dict(re.findall(r"^\s*(\w+)=(\S+) \\$", text, re.MULTILINE))
    return folder / "tiny.sh", bounds


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_its_template_takes_every_row_and_its_training_runs(program, peers_run, tiny_model, tmp_path, family):
    folder, model = tmp_path / "out", tiny_model(family)
    exported = export(peers_run, "swift", folder)
    loaded = result(program.python("swift_loader.py", folder / "rl2.jsonl", model, TYPES[family], cwd=tmp_path))
    rows = [json.loads(line) for line in (folder / "rl2.jsonl").read_text().splitlines()]
    assert loaded["rows"] == len(rows) == exported.rows["rl2"] > 0
    # the end of a turn is a text to the tiny tokenizer, which has no such token
    chosen, rejected = ([re.sub(r"</s>$|<\|im_end\|>\n?$", "", text) for text in loaded[side]] for side in SIDES)
    assert chosen == [row["messages"][-1]["content"] for row in rows]
    assert rejected == [row["rejected_response"] for row in rows]
    script, _ = script_of(folder, model, TYPES[family])
    assert "train_loss" in program.run("bash", script, cwd=tmp_path)


@pytest.mark.parametrize("bound", [None, 56 * 56])
def test_it_shows_pictures_at_the_size_that_the_boxes_are_about(program, pixel_run, tiny_model, tmp_path, bound):
    run, expected = pixel_run(bound)
    export(run, "swift", tmp_path / "out")
    model = tiny_model("qwen2_vl")
    _, bounds = script_of(tmp_path / "out", model, "qwen2_vl")
    rows = tmp_path / "out" / "rl1.jsonl"
    loaded = result(program.python("swift_loader.py", rows, model, "qwen2_vl", cwd=tmp_path, **bounds))
    assert loaded["rows"] and all(sizes == [expected] for sizes in loaded["shown"])
