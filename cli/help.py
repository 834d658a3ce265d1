"""How a command shows its help: options in panels, each under its whole name, however narrow the terminal is."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import typer.core

if TYPE_CHECKING:
    from rich.console import RenderableType

_NAMES_WIDTH = 29  # columns for the names of options; longer ones wrap between words


class Command(typer.core.TyperCommand):
    """A command whose help has two columns: typer's has six, and cuts long names at 80 characters."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.console import Console

        console = Console(markup=False, highlight=False, soft_wrap=False)
        arguments = [names(p) for p in self.params if p.param_type_name == "argument"]
        console.print(f"\nUsage: {' '.join([ctx.command_path, *arguments, '[OPTIONS]'])}\n")
        for paragraph in plain(self.help).split("\n\n"):
            # an example is indented, and so are the lines on which it continues
            indent = paragraph[: len(paragraph) - len(paragraph.lstrip())]
            wrapper = textwrap.TextWrapper(
                console.width,
                initial_indent=indent,
                subsequent_indent=2 * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            console.print(wrapper.fill(paragraph.strip()) + ("" if indent else "\n"), soft_wrap=True)
        console.print()
        for title, params in panels(self.get_params(ctx)).items():
            console.print(_panel(title, params))


def panels(params: list[Any]) -> dict[str, list[Any]]:
    """Group arguments and options by the title of their panel, in the order of the command line."""
    groups: dict[str, list[Any]] = {}
    for param in params:
        panel = getattr(param, "rich_help_panel", None)  # before 0.26, typer's --help is click's own
        title = "Arguments" if param.param_type_name == "argument" else panel or "Options"
        groups.setdefault(title, []).append(param)
    return groups


def names(param: Any) -> str:
    """Return the names of an option and what its value is, as `-o, --output DIR`; an argument's metavar."""
    if param.param_type_name == "argument":
        return str(param.metavar)
    shown = " / ".join(", ".join(sorted(opts, key=len)) for opts in (param.opts, param.secondary_opts) if opts)
    return shown if param.is_flag else f"{shown} {plain(param.metavar)}".rstrip()


def description(param: Any) -> str:
    """Return the help of an option or argument, with its default."""
    takes_value = param.param_type_name == "option" and not param.is_flag
    default = f" (default: {param.default})" if takes_value and param.default and param.show_default else ""
    return plain(param.help) + default + (" Required." if param.required else "")


def plain(text: str | None) -> str:
    """Return help as it is read: escaped brackets are brackets."""
    return (text or "").replace(r"\[", "[").replace("\b", "").strip("\n")


def _panel(title: str, params: list[Any]) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(style="cyan", width=_NAMES_WIDTH, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for param in params:
        table.add_row(names(param), description(param))
    return Panel(table, title=title, title_align="left", border_style="dim")
