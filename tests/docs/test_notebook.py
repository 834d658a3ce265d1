"""notebooks/spotlight.ipynb: every cell runs, in order, and none carries an output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "spotlight.ipynb"
# What a notebook's kernel offers to a cell, for a plain Python.
KERNEL = """
import sys, types
shown = []
module = types.ModuleType("IPython.display")
module.display = shown.append
sys.modules["IPython"], sys.modules["IPython.display"] = types.ModuleType("IPython"), module
sys.modules["IPython"].version_info = (9, 0, 0)  # matplotlib reads it
"""


def cells(kind):
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_committed_without_outputs_and_its_cells_are_python():
    assert len(cells("code")) > 8 and len(cells("markdown")) > 8
    for cell in cells("code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        compile("".join(cell["source"]), NOTEBOOK.name, "exec")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebook_runs(tmp_path):
    program = "\n\n".join([KERNEL, *("".join(cell["source"]) for cell in cells("code"))])
    program += "\nassert len(shown) == 4 and all(picture.size == (320, 320) for picture in shown)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("sft", "rl1", "rl2"):
        assert (tmp_path / "spotlight-notebook" / name / "visrl.json").is_file()
    assert "WP-LN" in done.stdout and "answers" in done.stdout
    print(done.stdout)
