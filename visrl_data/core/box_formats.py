"""The text formats in which models write a box: how each is read, written, and enforced by a grammar.

Used by boxes.py, whose spaces are a lattice and one of these formats. A format knows nothing of images: it turns
text into four numbers in the order x1, y1, x2, y2, and integers of a lattice into its canonical text.

Some formats have special tokens around the numbers (<|box_start|>, <box>). Engines drop special tokens from
replies: a format is read with them and without. Some formats put y first, in lists as in loc tokens.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)"
_NUMBER_RE = re.compile(_NUMBER, re.IGNORECASE | re.ASCII)
_LIST_RE = re.compile(r"\[([^\[\]]*)\]")
_LOCS_RE = re.compile(r"<loc[0-9]{4}>(?:\s*<loc[0-9]{4}>)*", re.ASCII)
_PLAIN = r"[+-]?[0-9]+(?:\.[0-9]+)?"
_PLAIN_RE = re.compile(_PLAIN, re.ASCII)
_POINT = rf"\(\s*{_PLAIN}\s*,\s*{_PLAIN}\s*\)"
_POINTS_RE = re.compile(rf"(\)\s*,\s*)?({_POINT}(?:\s*,\s*{_POINT})*)(\s*,\s*\()?", re.ASCII)
_TAGS_RE = re.compile(r"<box>([^<>]*)</box>")
_ROW_RE = re.compile(rf"{_PLAIN}(?:\s+{_PLAIN})*", re.ASCII)
_LOOSE_ROW_RE = re.compile(rf"((?:[^\W\d_]|[:=(\[\"'*<>,;])*)({_PLAIN}(?: {_PLAIN}){{3}})([^\d\s]*)")
_PIECES_RE = re.compile(r"(<loc[xy][12]>|<[^<>]+>|[xy][12])")

Quads = list[list[float]]


@dataclass(frozen=True, slots=True)
class BoxFormat:
    """One format of the text of a box.

    template: the canonical text, with x1, y1, x2, y2 where the numbers stand. number: "decimal" (thousandths
    with three decimals), "integer", or "loc" (four digits). read: all boxes of a reply as numbers, never raises.
    """

    template: str
    number: str
    read: Callable[[str], Quads]

    @property
    def has_special_tokens(self) -> bool:
        """Whether its text holds what may be single tokens of a tokenizer."""
        return "<" in self.template

    def write(self, cells: Sequence[int]) -> str:
        """Return the canonical text of x1, y1, x2, y2."""
        form = {"decimal": "{:.3f}", "integer": "{:d}", "loc": "{:04d}"}[self.number]
        shown = [form.format(cell / 1000 if self.number == "decimal" else cell) for cell in cells]
        numbers = dict(zip(("x1", "y1", "x2", "y2"), shown, strict=True))
        return re.sub(r"[xy][12]", lambda match: numbers[match[0]], self.template)

    def grammar(self, tops: tuple[int, int]) -> str:
        """Return a Lark grammar of the canonical texts whose x are 0 to tops[0] and whose y are 0 to tops[1].

        It can't ask for x1 < x2. A mark, and each loc, is a string of its own, so that an engine may put the
        token of that name in its place.
        """
        names = {"<locx1>": "x", "<locx2>": "x", "<locy1>": "y", "<locy2>": "y"}
        names |= {"x1": "X", "x2": "X", "y1": "Y", "y2": "Y"}
        pieces = [piece for piece in _PIECES_RE.split(self.template) if piece]
        lines = ["start: " + " ".join(names.get(piece) or json.dumps(piece) for piece in pieces)]
        for name, top in zip("xy", tops, strict=True):
            if self.number == "loc":
                lines.append(f"{name}: " + " | ".join(f'"<loc{n:04d}>"' for n in range(top + 1)))
            else:
                numbers = r"0\.[0-9]{3}|1\.000" if self.number == "decimal" else integers_pattern(top)
                lines.append(f"{name.upper()}: /{numbers}/")
        return "\n".join(lines)


def integers_pattern(top: int) -> str:
    """Return a regular expression for the integers from 0 to top, without leading zeros."""
    digits = str(top)
    patterns = [f"[1-9][0-9]{{{more}}}" for more in range(1, len(digits) - 1)]
    if len(digits) > 1:
        patterns.insert(0, "[0-9]")
    for place, digit in enumerate(digits):
        least = 1 if place == 0 and len(digits) > 1 else 0
        if int(digit) > least:
            patterns.append(f"{digits[:place]}[{least}-{int(digit) - 1}][0-9]{{{len(digits) - place - 1}}}")
    return "|".join([*patterns, digits])


def _read_lists(text: str) -> Quads:
    """Read bracketed lists of four numbers, wherever they stand; a list of any other length is none."""
    lists = [[item.strip() for item in body.split(",")] for body in _LIST_RE.findall(text)]
    return [[float(item) for item in items] for items in lists if len(items) == 4 and all(map(_is_number, items))]


def _read_lists_y_first(text: str) -> Quads:
    """Read the same lists as y1, x1, y2, x2."""
    return [[x1, y1, x2, y2] for y1, x1, y2, x2 in _read_lists(text)]


def _is_number(item: str) -> bool:
    return _NUMBER_RE.fullmatch(item) is not None


def _read_points(text: str) -> Quads:
    """Read two points in a row, (x1,y1),(x2,y2); a row of any other length is none, nor is the rest of a spoilt one."""
    whole = [row for before, row, after in _POINTS_RE.findall(text) if not before and not after]
    rows = [_PLAIN_RE.findall(row) for row in whole]
    return [list(map(float, row)) for row in rows if len(row) == 4]


def _read_tagged(text: str) -> Quads:
    """Read four numbers between <box> tags; where the tags were dropped, four numbers in a row.

    Without tags a word may touch either end of the row, but a digit may not: no part of "1e5 20 30 40", of
    "1 2 3 4.5.6" or of "1 2 3 4 5" is a box.
    """
    tagged = [body.strip() for body in _TAGS_RE.findall(text)]
    rows = [row for row in tagged if _ROW_RE.fullmatch(row)] if tagged else _loose_rows(text)
    quads = [list(map(float, row.split())) for row in rows]
    return [quad for quad in quads if len(quad) == 4]


def _loose_rows(text: str) -> list[str]:
    runs = [" ".join(words) for numeric, words in itertools.groupby(text.split(), key=_holds_a_digit) if numeric]
    rows = [match.groups() for match in map(_LOOSE_ROW_RE.fullmatch, runs) if match]
    return [row for before, row, after in rows if not _holds_a_digit(before + after)]


def _holds_a_digit(word: str) -> bool:
    """Return whether it holds a digit of any script, raised, or in a fraction."""
    return any(unicodedata.category(c)[0] == "N" for c in word)


def _read_locs(text: str) -> Quads:
    """Read four consecutive loc tokens, y first."""
    runs = [[float(digits) for digits in re.findall("[0-9]{4}", run)] for run in _LOCS_RE.findall(text)]
    return [[x1, y1, x2, y2] for y1, x1, y2, x2 in (run for run in runs if len(run) == 4)]


DECIMALS = BoxFormat("[x1, y1, x2, y2]", "decimal", _read_lists)
LIST = BoxFormat("[x1, y1, x2, y2]", "integer", _read_lists)
BBOX_2D = BoxFormat('{"bbox_2d": [x1, y1, x2, y2]}', "integer", _read_lists)
BOX_2D = BoxFormat('{"box_2d": [y1, x1, y2, x2]}', "integer", _read_lists_y_first)
POINTS = BoxFormat("<|box_start|>(x1,y1),(x2,y2)<|box_end|>", "integer", _read_points)
NESTED = BoxFormat("<box>[[x1, y1, x2, y2]]</box>", "integer", _read_lists)
MARKED = BoxFormat("<|begin_of_box|>[[x1,y1,x2,y2]]<|end_of_box|>", "integer", _read_lists)
TAGGED = BoxFormat("<box>x1 y1 x2 y2</box>", "integer", _read_tagged)
LOCS = BoxFormat("<locy1><locx1><locy2><locx2>", "loc", _read_locs)
