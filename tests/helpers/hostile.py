"""Texts that a stranger may put into any field: markup, links, escape sequences, and characters that act unseen."""

from collections.abc import Collection
from typing import Any

from markdown_it import MarkdownIt

_NAMED = {"by_source", "unparsed_reasons", "prompts"}  # of a report or manifest: their names are strangers' words
_COUNTED = {"source", "questions", "focus", "answer", "judge"}  # where these hold counts
_TEXT = {"text", "softbreak", "text_special", "entity", "code_inline"}  # names are code where they can be
PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    '"><b onmouseover=alert(1)>',
    "' autofocus onfocus=alert(1) x='",
    "<!-- comment",
    "]]><x>",
    "</textarea></title></style><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{ 91 * 91 }}{% raw %}",
    "${alert(1)}",
    "`code` ``` ~~~",
    "x`\n\n# head\n\n<script>alert(1)</script>",
    "a | b |\n|---|---|\n| c",
    "![x](https://evil.example/x.png)",
    "[click](javascript:alert(1))",
    "[a]: https://evil.example\n\n[a]",
    "<https://evil.example>",
    "https://evil.example/x www.evil.example",
    "\n---\nlicense: mit\n---\n",
    "**bold** _em_ ~~gone~~ $x$ \\\\ \\",
    "> quote\n- item\n1. one",
    "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "\x1b]0;title\x07\x9b31m\x90q\x9c",
    "\rvisrl: done\x08\x08\x7f",
    "[bold red]markup[/bold red] [/] [link=https://evil.example]x[/link] :bomb:",
    "\u202eevil\u202c \u2066x\u2069 \u200b\ufeff\u2028\u2029",
    "\U000e0041\U000e0042 \u115f\u3164 a\u0301\u0301\u0301",
]


def structure(markdown: str) -> list[str]:
    """Return what no stranger may change in a card: the kinds of all tokens but texts, and where links lead."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(markdown.split("\n---\n", 1)[1])
    inner = [child for token in tokens for child in token.children or () if child.type not in _TEXT]
    return [token.type for token in tokens] + [f"{child.type} {child.attrs or ''}" for child in inner]


def poisoned(value: Any, text: str, keep: Collection[str] = (), parent: str = "") -> Any:
    """Return nested data with this text in place of every string, and behind the names that strangers choose.

    keep: names of values that stay. parent: the name of the value.
    """
    if isinstance(value, dict):
        counts = parent in _COUNTED and all(isinstance(item, int) for item in value.values())
        suffix = f" {text}" if counts or parent in _NAMED else ""
        return {f"{n}{suffix}": item if n in keep else poisoned(item, text, keep, n) for n, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [poisoned(item, text, keep) for item in value]
    return text if isinstance(value, str) else value
