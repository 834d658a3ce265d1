"""The table of sizes in docs/families.md: each row agrees with how the pairs were made, or says what happens."""

from pathlib import Path

from tests.tools.size_table import rows, size_table

DOCS = Path(__file__).parents[2] / "docs" / "families.md"


def test_all_rows_agree_or_are_refused():
    (_, made), *others = rows()
    assert len(set(made)) == 4
    assert [who for who, sizes in others if sizes != made] == [
        "the same with `--max-pixels 401408`",
        "`visrl train rl1 --max-pixels 401408`: the boxes are rewritten",
    ]


def test_the_page_shows_the_table():
    assert size_table() in DOCS.read_text(encoding="utf-8"), "print it with python -m tests.tools.size_table"
