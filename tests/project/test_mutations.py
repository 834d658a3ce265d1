"""Check the list of mutations: each mistake still has its place and its tests.

`python -m tests.tools.mutations` runs them.
"""

from __future__ import annotations

import pytest

from tests.tools.mutations import MUTATIONS, ROOT, Mutation, tried


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_mutation_has_its_place(mutation: Mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.right) == 1 and mutation.right != mutation.wrong
    compile(text.replace(mutation.right, mutation.wrong), mutation.file, "exec")
    assert mutation.tests and all("\ndef test_" in (ROOT / test).read_text(encoding="utf-8") for test in mutation.tests)


def test_a_mutation_that_is_gone_is_told(tmp_path, capsys):
    (tmp_path / "a.py").write_text("x = 1\n")
    assert tried(Mutation("gone", "a.py", "x = 2", "x = 3", ("tests/test_a.py",)), tmp_path) == "no place"
    assert "no place" in capsys.readouterr().out


@pytest.mark.slow
def test_a_mistake_is_caught_or_survives(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    (tmp_path / "test_a.py").write_text("from a import x\n\n\ndef test_x():\n    assert x == 1\n")
    assert tried(Mutation("noticed", "a.py", "x = 1", "x = 2", ("test_a.py",)), tmp_path) == "caught"
    assert tried(Mutation("not noticed", "a.py", "y = 1", "y = 2", ("test_a.py",)), tmp_path) == "survived"
    assert tried(Mutation("no code any more", "a.py", "x = 1", "x = (", ("test_a.py",)), tmp_path) == "broken"
    assert (tmp_path / "a.py").read_text() == "x = 1\ny = 1\n"
