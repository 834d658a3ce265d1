"""Every install line in the tree works from a clone: it names extras that exist, and no foreign package of our name."""

import re
import tomllib
from pathlib import Path

import pytest

from visrl_data.core.versions import DISTRIBUTION, visrl_version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KINDS = {".py", ".md", ".ipynb", ".toml", ".yaml", ".j2", ".html", ""}
THIS = Path(__file__)
OUTSIDE = {"build", "dist", "node_modules"}
INSTALL = re.compile(r"pip install ([^`\n]*)")
OURS = re.compile(r"(?:\.|visrl(?:[-_]toolkit)?)(?:\[(?P<extras>[^\]]*)\])?(?=[\s'\"`.,;:)(]|$)")


def files():
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts)
        if path.is_file() and path.suffix in KINDS and not hidden and not OUTSIDE & set(parts) and path != THIS:
            yield path


def install_lines():
    for path in files():
        for words in INSTALL.findall(path.read_text(encoding="utf-8", errors="ignore").replace("\\", "")):
            yield str(path.relative_to(ROOT)), words


def problems(words):
    """Return what is wrong with the words after `pip install`."""
    for word in words.split():
        target = OURS.match(word.lstrip("'\""))
        if target and not target[0].startswith("."):
            yield f"{target[0]} is not on a registry: install from the clone, '.[extra]'"
        for extra in (target["extras"] or "").split(",") if target else []:
            if extra and extra not in PROJECT["optional-dependencies"]:
                yield f"no extra {extra}"


def test_install_lines_work_from_a_clone():
    lines = list(install_lines())
    assert len(lines) > 15
    assert [(path, words, found) for path, words in lines if (found := list(problems(words)))] == []


@pytest.mark.parametrize("words", ["'visrl[vllm]'", "visrl", "-U visrl-toolkit", "'.[no-such]' torch", ".[vllm,nope]"])
def test_a_wrong_line_would_be_seen(words):
    assert list(problems(words))


@pytest.mark.parametrize("words", ["-c constraints.txt -e '.[test]'", ". torchvision", "deepspeed", "'.[vllm]'."])
def test_a_right_line_is_let_through(words):
    assert not list(problems(words))


def test_the_old_way_to_name_an_extra_is_gone():
    assert [str(path) for path in files() if "visrl[" in path.read_text(encoding="utf-8", errors="ignore")] == []


def test_the_distribution_is_the_projects():
    assert PROJECT["name"] == DISTRIBUTION
    assert PROJECT["version"] == visrl_version()
