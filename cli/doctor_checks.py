"""The lines of `visrl doctor`: what was checked, whether it is in order, and the command that mends it."""

from __future__ import annotations

import json
from typing import Any

import typer

from .console import print_result


def print_checks(checks: list[dict[str, Any]], as_json: bool) -> None:
    """Print the checks; exit with 1 when something that is needed is missing."""
    is_ok = all(check["ok"] or not check["needed"] for check in checks)
    if as_json:
        print(json.dumps({"ok": is_ok, "checks": checks}))
    else:
        for check in checks:
            mark = "ok     " if check["ok"] else "missing" if check["needed"] else "absent "
            print_result(f"{mark} {check['what']}" + (f"\n        -> {check['fix']}" if check["fix"] else ""))
    if not is_ok:
        raise typer.Exit(1)


def check(what: str, ok: bool = True, fix: str = "", needed: bool = True) -> dict[str, Any]:
    """Return a line of the list. fix: the command that mends it."""
    return {"what": what, "ok": ok, "fix": "" if ok else fix, "needed": needed}
