"""Text from strangers stays text: on the terminal, in Markdown, in a page's data."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from tests.helpers.hostile import PAYLOADS
from visrl_data.core import text
from visrl_data.core.text import MOST_CHARACTERS, embedded, shown, visible
from visrl_data.report.formats import make_table, stack

ANY_TEXT = st.text(st.characters(), max_size=200) | st.text("`|<>[]()!#*_~\\\\\n\x1b&;:/.-+1 a", max_size=60)
PLAIN = {"inline", "text", "softbreak", "text_special", "entity"}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_embedded_data_come_back_and_hold_no_markup(value):
    text = str(embedded(value))
    assert json.loads(text) == value and text.isascii() and not set("<>&'") & set(text)


def test_text_is_made_visible_and_bounded():
    assert visible("a\tb\r\nc\x00\x1b[0m\u202ed\x85") == "a\tb\nc⟨U+0000⟩⟨U+001B⟩[0m⟨U+202E⟩d⟨U+0085⟩"
    assert visible("żółw 漢字 👩‍👩‍👧 عربي") == "żółw 漢字 👩‍👩‍👧 عربي"
    assert shown("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    assert shown("x" * 5000).endswith("x … (3,000 more characters)")


@given(ANY_TEXT)
def test_no_character_acts_after_visible(value):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", visible(value)) and "\x1b" not in text.one_line(value)
    assert "\n" not in text.one_line(value) and visible(visible(value)) == visible(value)
    visible(value).encode()  # surrogates are gone


def test_a_line_is_cut():
    assert text.one_line("a\n\t b") == "a b" and text.one_line("x" * 400) == "x" * 300 + "..."


def kinds(source):
    """Return the kinds of all tokens, as the Hub's flavor of Markdown has them."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(source)
    return {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}


@given(ANY_TEXT)
def test_markdown_keeps_a_text_a_text(value):
    cell = text.markdown(value)
    assert kinds(f"x {cell} y") <= PLAIN | {"paragraph_open", "paragraph_close"}
    row = kinds(f"| a | b |\n|---|---|\n| {cell} | {text.markdown_code(value)} |\n")
    allowed = {f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")}
    assert row <= PLAIN | {"code_inline"} | allowed
    assert f"| {cell} |".replace("\\|", "").count("|") == 2


@pytest.mark.parametrize("value", PAYLOADS)
def test_markdown_of_payloads(value):
    assert kinds(f"# {text.markdown(value)}") <= PLAIN | {"heading_open", "heading_close"}
    assert kinds(text.markdown_link(value)) <= PLAIN | {"paragraph_open", "paragraph_close", "bullet_list_open"}
    assert kinds(text.fenced(value)) == {"fence"}
    assert "://" not in text.markdown(value) and "www." not in text.markdown(value)


def test_links_and_code():
    assert text.markdown("a|b\n<c>") == "a\\|b &lt;c&gt;"
    assert text.markdown_link("https://example.org/a_b?c=d") == "<https://example.org/a_b?c=d>"
    assert text.markdown_link("javascript:alert(1)") == "javascript:alert(1)"
    assert text.markdown_link("https://a b <c>") == "https:&#47;/a b &lt;c&gt;"
    assert text.markdown_code("set-1/a.png") == "`set-1/a.png`" and text.markdown_code("a`b") == "a\\`b"
    assert text.fenced("x ``` y") == "````text\nx ``` y\n````"


@pytest.mark.parametrize("value", PAYLOADS)
def test_tables_and_lines_on_the_terminal_print_text(value):
    table = make_table(f"Title {value}", ("name", "count"))
    table.add_row(value, "1")
    output = io.StringIO()
    Console(file=output, width=200, force_terminal=True, emoji=False).print(
        stack(f"Note: {text.one_line(value)}", table)
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())  # the table's own style
    assert visible(plain) == plain and "\x1b" not in plain
    assert len([line for line in plain.splitlines() if line.strip()]) == 5, "note, title, head, rule, row"
    assert "[bold red]" not in value or plain.count("[bold red]markup[/bold red]") == 3
