"""Format numbers, shares and intervals, and lay out tables: alike on the terminal, on the pages and on the cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from visrl_data.core.text import MOST_IN_LINE, one_line, visible

MISSING = "-"  # there is no such figure


def format_count(count: int | None) -> str:
    return MISSING if count is None else f"{count:,}"


def format_number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Format a score, an AUC or a difference. sign: "+" to write the sign of positive values too."""
    return MISSING if value is None else f"{value:{sign}.{digits}f}"


def format_share(share: float | None) -> str:
    """Format a share in [0, 1] as a percentage."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def format_range(low: float | None, high: float | None, digits: int = 3, sign: str = "") -> str:
    """Format an interval; None where there is none."""
    if low is None or high is None:
        return MISSING
    return f"{format_number(low, digits, sign)} to {format_number(high, digits, sign)}"


def format_estimate(value: float | None, low: float | None, high: float | None, digits: int = 3, sign: str = "") -> str:
    """Format a value with its interval: "0.500 (0.400 to 0.600)"."""
    if value is None:
        return MISSING
    return f"{format_number(value, digits, sign)} ({format_range(low, high, digits, sign)})"


class PlainTable(Table):
    """A table whose cells are text: no markup and no escape sequence acts in them, whoever wrote them."""

    def add_row(self, *cells: RenderableType | None, style: StyleType | None = None, end_section: bool = False) -> None:
        texts = [_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        super().add_row(*texts, style=style, end_section=end_section)


def _cell(text: str) -> Text:
    return Text(visible(text[:MOST_IN_LINE].replace("\n", " ")))


def make_table(title: str, columns: Sequence[str], left: Iterable[str] = ()) -> PlainTable:
    """Make an empty table for 80 columns; longer texts wrap, uncut. left: columns of text besides the first."""
    table = PlainTable(
        title=Text(one_line(title)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    texts = {columns[0], *left}
    for column in columns:
        table.add_column(column, justify="left" if column in texts else "right", overflow="fold")
    return table


def stack(*parts: RenderableType) -> Group:
    """Place parts one below the other, with an empty line between them."""
    first, *others = parts
    return text_group(first, *(piece for part in others for piece in ("", part)))


def text_group(*parts: RenderableType) -> Group:
    """Place parts one below the other; strings are text as in the cells of a table."""
    return Group(*(Text(visible(part)) if isinstance(part, str) else part for part in parts))
