"""Writes docs/commands.md from the command line itself: every command with its help, options, defaults and examples.

    python -m tests.tools.command_reference > docs/commands.md

Nothing in it depends on the width or the colors of a terminal, or on the machine. test_docs.py says when the page
is out of date.
"""

from __future__ import annotations

import functools
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from visrl_cli.console import ALWAYS
from visrl_cli.main import app

HEAD = """\
# Commands

Every command with its options. This page is made from the command line (`python -m tests.tools.command_reference >
docs/commands.md`); `visrl COMMAND --help` shows the same.

Results go to stdout, progress and notes to stderr: bars on a terminal, a line a minute in a log. Every command takes
`--quiet` (`-q`: the result and errors only) and `--verbose` (`-v`: warnings of libraries too, and the traceback of a
bug), before or after its name. `NO_COLOR=1` switches colors off. `visrl --version` lists the versions of what is
installed. `visrl --install-completion` makes the shell (bash, zsh, fish, PowerShell) complete commands and options.

| exit code | |
|---|---|
| 0 | done |
| 1 | failed; the message says why and what to run next |
| 2 | wrong usage: an option that is unknown, malformed or out of its range |
| 130 | interrupted (Ctrl-C); the same command goes on |
| 143 | asked to stop (SIGTERM); the same command goes on, a training from the checkpoint that it saved |

Words for values: `N` is a whole number, `X` a number, `a|b` one of the two. `--this / --no-this` is switched on or off.
`--config FILE.toml` takes options by their names with `_` for `-` (`max_pixels = 401408`), and flags win over it; the
`config.toml` in a run folder is such a file. Where an option says no default, it is off or left unset.
"""


def page() -> str:
    """The whole page, as Markdown."""
    found = list(commands())
    contents = "\n".join(f"- [`{name}`](#{name.replace(' ', '-')}): {_first_line(command)}" for name, command in found)
    return "\n\n".join([HEAD.rstrip(), contents, *(_section(name, command) for name, command in found)]) + "\n"


@functools.cache
def root() -> Any:
    """The `visrl` command, with all below it."""
    return typer.main.get_command(app)


def commands(group: Any = None, before: str = "visrl") -> Iterator[tuple[str, Any]]:
    """Every command and sub-command with its full name, in the order of --help."""
    group = group or root()
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def _first_line(command: Any) -> str:
    return _plain(command.help).partition("\n")[0]


def _section(name: str, command: Any) -> str:
    text, _, examples = re.split(r"\n\n(Examples?):\n\n", _plain(command.help))
    arguments = [_argument(p) for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([name, *(word for word, _ in arguments), "[OPTIONS]"])
    text = "\n\n".join(textwrap.fill(paragraph, 118, break_on_hyphens=False) for paragraph in text.split("\n\n"))
    parts = [f"## {name}", f"`{usage}`", text, f"```bash\n{_code(examples)}\n```"]
    if arguments:
        parts.append("\n".join(f"- `{word}`: {help}" for word, help in arguments))
    panels: dict[str, list[str]] = {}
    for p in command.params:
        if p.param_type_name == "option" and p.name not in ALWAYS:
            panels.setdefault(p.rich_help_panel or "Options", []).append(_option(p))
    for panel, lines in panels.items():
        parts += [f"**{panel}**", "\n".join(lines)]
    return "\n\n".join(parts)


def _code(examples: str) -> str:
    return "\n".join(line.strip() for line in examples.splitlines() if line.strip())


def _argument(p: Any) -> tuple[str, str]:
    return p.metavar, _plain(p.help)


def _option(p: Any) -> str:
    names = ", ".join(p.opts) + (f" / {', '.join(p.secondary_opts)}" if p.secondary_opts else "")
    value = "" if p.is_flag else f" {_plain(p.metavar)}"
    said = _plain(p.help)
    needed = " Needed." if p.required else ""
    shown = f" (default: {p.default})" if p.default and p.show_default and not p.is_flag else ""
    return f"- `{names}{value}`: {said}{shown}{needed}"


def _plain(text: str) -> str:
    """Help as it is read: escaped brackets are brackets."""
    return text.replace(r"\[", "[").replace("\b", "").strip()


if __name__ == "__main__":
    sys.stdout.write(page())
