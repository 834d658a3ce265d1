"""Make untrusted text readable on the page: invisible characters are shown, long texts are cut.

Used by page.py for every value that a template puts out, and by page_sample.py for the gallery. Markup is
not escaped here: autoescape and `embedded` do that.
"""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

MOST_CHARACTERS = 2_000

# Controls, line separators, and the marks that turn the direction of the text around them.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")
_FOR_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&'"}


def visible(text: str) -> str:
    """Replace invisible characters by their code points: an escape is ⟨U+001B⟩. Line ends become \\n."""
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def shown(text: str) -> str:
    """Return at most MOST_CHARACTERS of a text, made visible, and how many are missing."""
    missing = len(text) - MOST_CHARACTERS
    return visible(text if missing <= 0 else f"{text[:MOST_CHARACTERS]} … ({missing:,} more characters)")


def embedded(value: Any) -> Markup:
    """Return JSON that is safe inside a script element: ASCII, without any character that HTML reads."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_FOR_SCRIPT))
