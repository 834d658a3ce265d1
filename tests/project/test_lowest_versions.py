"""constraints-lowest.txt pins the lowest versions that pyproject.toml allows: a test with them tests its floors."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements():
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *extras["audit"], *extras["test"])]


def floor(requirement):
    (version,) = (part.version for part in requirement.specifier if part.operator == ">=")
    return Version(version)


def pins(name):
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(package): Version(version) for package, version in lines}


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_the_pin_is_the_floor(requirement):
    assert pins("constraints-lowest.txt")[canonicalize_name(requirement.name)] == floor(requirement)


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_the_newest_tested_version_is_allowed(requirement):
    newest = pins("constraints.txt").get(canonicalize_name(requirement.name))
    assert newest is None or newest in requirement.specifier
