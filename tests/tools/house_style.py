"""Measure two rules of the house: docstrings begin with a verb, and a class name has one meaning.

    python -m tests.tools.house_style            the figures, and every offender with its place
    python -m tests.tools.house_style visrl_data/core

Counted are the docstrings of functions and methods in FOLDERS; properties are left out, as PEP 257's checkers leave
them: they are read like attributes, so theirs name what they are. A docstring begins with a verb when its first word
stands in VERBS, a list of imperatives, and the second does not make a noun of it ("Record of ..."). The list holds what
the code needs; a new verb is added here, and a word that is no verb is seen in review.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("visrl_data", "visrl_train", "cli", "cards", "studies", "benchmarks")
_VERBS = """
abort accept add adjust advance align allow append apply ask assemble assert assign attach audit average await begin
bind break bring build calibrate call cancel capture chart check choose clean clear clip close collate collect combine
compact compare compile complete compose compress compute connect construct convert copy count create cut decide
declare decode decrypt delete derive describe detach detect disable discard dispatch divide do download draw drop
embed empty enable encode end enforce ensure enter enumerate escape estimate evaluate exchange exclude execute expand
explain export extend extract feed fetch fill filter finalize find finish fit fix flatten flush follow format forward
free freeze gather generate get give group grow guard guess halve hand handle hash hide hold ignore import include
increment indent infer inherit initialize insert inspect install interpolate interpret interrupt invert invoke iterate
join judge keep kill launch lay learn leave let lift list listen load locate look lower make map mark mask match
measure merge mix mount move multiply name normalize note notify obtain omit open organize override pack pad parse
pass perform pick place poll pop predict prefill prepare present preserve print process produce propose protect prove
provide publish pull push put quantize raise read rebind rebuild receive recompute reconstruct record recover redirect
reduce refuse register reject reload remove rename render reopen repeat replace replay request require rerun reset
resize resolve respond restore restrict resume retry return reuse reverse rewrite roll rotate round run sample save
say scale scan score search select send separate serve set settle show shrink shuffle silence simplify simulate skip
sleep snap solve sort split stamp start store strip submit subtract sum summarize suppress switch tabulate take tally
tell terminate tokenize train transform translate transpose trim truncate try turn unfold unlock unpack unwind unwrap
update upload validate verify visit wait warm warn weigh widen wrap write yield zip
"""
VERBS = frozenset(_VERBS.split())
_MAKES_A_NOUN = frozenset(("of", "is", "are", "that", "which", "with", "in", "at", "per", "from", "for", "by"))
_TAKES_THESE_TOO = """
ask assert begin check count end ensure fail fit follow generate iterate lay learn listen look pass point prove read
report resume return run sample say search show start stop switch turn verify wait walk warn weigh work yield
"""


@dataclass(frozen=True, slots=True)
class Definition:
    """A class or function of the code. where: path:line. docstring: its first line, "" for none."""

    name: str
    where: str
    docstring: str
    is_class: bool


def definitions(folders: Sequence[str] = FOLDERS) -> Iterator[Definition]:
    """Yield every class and function, nested ones too, but for properties."""
    for folder in folders:
        base = ROOT / folder
        for path in [base] if base.is_file() else sorted(base.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node):
                    first_line = (ast.get_docstring(node) or "").partition("\n")[0]
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield Definition(node.name, where, first_line, isinstance(node, ast.ClassDef))


def _is_property(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id in ("property", "cached_property") for d in node.decorator_list)


def begins_with_verb(docstring: str) -> bool:
    """Return whether the first word is an imperative, and read as one."""
    first, *rest = docstring.lower().split() or [""]
    verb, second = first.strip(".,:;"), rest[0].strip(".,:;") if rest else ""
    reads_as_noun = second == "of" or (second in _MAKES_A_NOUN and verb not in _TAKES_THESE_TOO.split())
    return verb in VERBS and not reads_as_noun


def without_verb(code: Sequence[Definition]) -> list[Definition]:
    """Return the functions whose docstrings begin with no verb."""
    return [one for one in code if not one.is_class and one.docstring and not begins_with_verb(one.docstring)]


def repeated_classes(code: Sequence[Definition]) -> dict[str, list[str]]:
    """Return the places of each class name that occurs more than once."""
    places = defaultdict(list)
    for one in code:
        if one.is_class:
            places[one.name].append(one.where)
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def verb_share(code: Sequence[Definition]) -> float:
    """Return the share of the functions' docstrings that begin with a verb."""
    documented = sum(bool(one.docstring) and not one.is_class for one in code)
    return 1 - len(without_verb(code)) / documented if documented else 1.0


def main(folders: Sequence[str]) -> None:
    """Print the offenders, then the figures."""
    code = list(definitions(folders or FOLDERS))
    for one in without_verb(code):
        print(f"{one.where}: {one.name}: {one.docstring[:90]}")
    repeated = repeated_classes(code)
    for name, places in repeated.items():
        print(f"class {name}: {', '.join(places)}")
    print(
        f"{100 * verb_share(code):.1f} % of the docstrings begin with a verb; {len(repeated)} class names occur twice"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
