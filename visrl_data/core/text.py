"""Put out text from strangers: ids, questions, replies, column and file names, what a server or the Hub says.

`visible` is the one function: no character acts in what it returns. The others build on it, one for each place:
`one_line` for a message or a cell of a table, `shown` and `embedded` for a page, `markdown`, `markdown_code`,
`markdown_link` and `fenced` for a card.
"""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

MOST_CHARACTERS = 2_000  # of a text on a page
MOST_IN_LINE = 300  # of a text in a message, a table on the terminal or a sentence on a card

# Controls; marks that hide, join or turn the text around them; surrogates, which no file can hold; tag characters.
# The joiners U+200C and U+200D stay: Persian, Hindi and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_FOR_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&'"}


def visible(text: str) -> str:
    """Replace characters that act by their code points: an escape is ⟨U+001B⟩. Tabs and line ends (as \\n) stay."""
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def one_line(text: object, most: int = MOST_IN_LINE) -> str:
    """Write a text on one line, made visible, at most `most` characters of it."""
    line = " ".join(str(text).split())
    return visible(line if len(line) <= most else f"{line[:most]}...")


def quantity(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural unless it is one: 1 row, 2,000 rows."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def shown(text: str) -> str:
    """Return at most MOST_CHARACTERS of a text, made visible, and how many are missing."""
    missing = len(text) - MOST_CHARACTERS
    return visible(text if missing <= 0 else f"{text[:MOST_CHARACTERS]} … ({missing:,} more characters)")


def embedded(value: Any) -> Markup:
    """Return JSON that is safe inside a script element: ASCII, without any character that HTML reads."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_FOR_SCRIPT))


class Markdown(str):
    """A text that is Markdown already. A card's template puts any other string out through `markdown`."""

    __slots__ = ()


def markdown(value: object) -> Markdown:
    """Write a text as text inside a sentence, a heading or a table cell of Markdown: no tag, link, picture or code."""
    text = one_line(value, MOST_CHARACTERS)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|#~!$])", r"\\\1", text)
    return Markdown(text.replace("://", ":&#47;/").replace("www.", "www&#46;"))  # else a renderer makes it a link


def markdown_code(value: object) -> Markdown:
    """Write an id as inline code; as text if it holds what could end the code or its table cell."""
    text = str(value)
    return Markdown(f"`{text}`") if re.fullmatch(r"[\w./:@+=, -]{1,200}", text, re.ASCII) else markdown(text)


def markdown_link(text: str) -> Markdown:
    """Write a web address as a link, anything else as text."""
    is_address = re.fullmatch(r"https?://[!-;=?-\[\]_a-z{}~]{1,1000}", text)
    return Markdown(f"<{text}>") if is_address else markdown(text)


def fenced(text: str, language: str = "text") -> Markdown:
    """Put a text between fences that are longer than any in it."""
    text = visible(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markdown(f"{fence}{language}\n{text}\n{fence}")
