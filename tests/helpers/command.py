"""The `visrl` command, run in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from unittest import mock

from visrl_cli.main import main


def visrl(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["visrl", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0), out.getvalue(), err.getvalue()
    raise AssertionError("the command returned without an exit code")
