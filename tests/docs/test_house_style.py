"""The two measured rules of the house hold, and the measure sees what breaks them."""

import pytest

from tests.tools import house_style
from tests.tools.house_style import Definition


@pytest.mark.parametrize(
    ("docstring", "is_verb"),
    [
        ("Return the pairs of a finished run.", True),
        ("Check that a chunk is whole.", True),
        ("Score as the critic does.", True),
        ("The pairs of a finished run.", False),
        ("Pairs of a finished run.", False),
        ("Returns the pairs.", False),  # imperative, not third person
        ("Count in ten bins.", True),
        ("Count of the rows.", False),
        ("Score of a response.", False),
        ("Record that a run keeps.", False),
        ("What a run holds.", False),
    ],
)
def test_begins_with_verb(docstring, is_verb):
    assert house_style.begins_with_verb(docstring) == is_verb


def test_offenders_are_named_and_properties_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(house_style, "ROOT", tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text(
        "class A:\n    def f(self):\n        'Return it.'\n    @property\n    def p(self):\n        'The p.'\n"
    )
    (tmp_path / "code" / "b.py").write_text("class A:\n    'A.'\n    def g(self):\n        'The g.'\n")
    code = list(house_style.definitions(["code"]))
    assert house_style.without_verb(code) == [Definition("g", "code/b.py:3", "The g.", False)]
    assert house_style.repeated_classes(code) == {"A": ["code/a.py:1", "code/b.py:1"]}
    assert house_style.verb_share(code) == 0.5


def test_docstrings_begin_with_a_verb_and_class_names_are_used_once():
    """`python -m tests.tools.house_style` lists the offenders."""
    code = list(house_style.definitions())
    assert house_style.verb_share(code) >= 0.95
    assert house_style.repeated_classes(code) == {}
