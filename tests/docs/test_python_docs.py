"""docs/python.md: its blocks run one after the other, as they stand, in an empty folder, beside a loopback Hub."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import visrl_data
import visrl_train
from tests.helpers.loopback_hub import LoopbackHub

PAGES = {name: Path(__file__).parents[2] / name for name in ("docs/python.md", "README.md")}


def program(page):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[page].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    return "\n".join(blocks)


@pytest.mark.parametrize("page", ["docs/python.md", pytest.param("README.md", marks=pytest.mark.slow)])
def test_the_blocks_of_a_page_run(page, tmp_path):
    with LoopbackHub() as hub:
        environment = os.environ | hub.environment(tmp_path / "home") | {"TQDM_DISABLE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program(page)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    if page == "docs/python.md":
        assert "pairs of 16 questions" in done.stdout and "published http" in done.stdout
        assert (tmp_path / "pair.png").is_file() and (tmp_path / "models" / "rl2" / "visrl.json").is_file()


def test_every_name_of_the_package_is_there():
    for package in (visrl_data, visrl_train):
        for name in package.__all__:
            assert callable(getattr(package, name)), name
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            package.nonsense  # noqa: B018
