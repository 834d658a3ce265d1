"""Write docs/commands.md from the command line itself: every command with its help, options, defaults and examples.

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

from visrl_cli import help
from visrl_cli.console import VERBOSITY_OPTIONS
from visrl_cli.main import app

HEAD = """\
# Commands

Every command with its options. This page is generated from the command line (`python -m tests.tools.command_reference >
docs/commands.md`); `visrl COMMAND --help` shows the same.

Results go to stdout, progress and notes to stderr: bars on a terminal, a line a minute in a log. Every command takes
`--quiet` (`-q`: the result and errors only) and `--verbose` (`-v`: also warnings of libraries, and the traceback of an
unexpected error), before or after its name. `NO_COLOR=1` switches colors off. `visrl --version` lists the installed
versions. `visrl --install-completion` makes the shell (bash, zsh, fish, PowerShell) complete commands and options.

| exit code | |
|---|---|
| 0 | done |
| 1 | failed; the message says why and what to run next |
| 2 | wrong usage: an option that is unknown, malformed or out of its range |
| 130 | interrupted (Ctrl-C); the same command resumes |
| 143 | stopped by SIGTERM; the message has the command that resumes, a training from the checkpoint that it saved |

Values: `N` is an integer, `X` a number, `a|b` one of the two. `--this / --no-this` switches something on or off.
`--config FILE.toml` takes options by their names with `_` for `-` (`max_pixels = 401408`), and flags win over it; the
`config.toml` in a run folder is such a file. An option without a stated default is off or unset. The
[glossary](glossary.md) says what the words mean, such as *latest run*.
"""


def page() -> str:
    """Return the whole page, as Markdown."""
    contents = "\n".join(
        f"- [`{name}`](#{name.replace(' ', '-')}): {help.plain(command.help).partition(chr(10))[0]}"
        for name, command in commands()
    )
    return "\n\n".join([HEAD.rstrip(), contents, *(_section(name, command) for name, command in commands())]) + "\n"


@functools.cache
def root() -> Any:
    """Return the `visrl` command, with all below it."""
    return typer.main.get_command(app)


def commands(group: Any = None, before: str = "visrl") -> Iterator[tuple[str, Any]]:
    """Yield every command and sub-command with its full name, in the order of --help."""
    group = group or root()
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def _section(name: str, command: Any) -> str:
    text, _, examples = re.split(r"\n\n(Examples?):\n\n", help.plain(command.help))
    arguments = [help.names(p) for p in command.params if p.param_type_name == "argument"]
    text = "\n\n".join(textwrap.fill(paragraph, 118, break_on_hyphens=False) for paragraph in text.split("\n\n"))
    parts = [f"## {name}", f"`{' '.join([name, *arguments, '[OPTIONS]'])}`", text, f"```bash\n{_code(examples)}\n```"]
    for panel, params in help.panels([p for p in command.params if p.name not in VERBOSITY_OPTIONS]).items():
        lines = [f"- `{help.names(p)}`: {help.description(p)}" for p in params]
        parts += [*([f"**{panel}**"] if panel != "Arguments" else []), "\n".join(lines)]
    return "\n\n".join(parts)


def _code(examples: str) -> str:
    return "\n".join(line.strip() for line in examples.splitlines() if line.strip())


if __name__ == "__main__":
    sys.stdout.write(page())
