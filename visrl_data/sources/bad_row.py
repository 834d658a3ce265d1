"""What is raised for a row that becomes a Drop, and the check of texts that all fields share."""

from __future__ import annotations

from typing import Any


class BadRow(Exception):
    """Raised for a row that becomes a Drop; never leaves this package."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def valid_text(value: Any, reason: str, name: str = "") -> str:
    """Strip a text. Raises BadRow(reason) for an empty one, bad_text for one that is not valid Unicode."""
    if not isinstance(value, str) or not value.strip():
        raise BadRow(reason, f"{name}expected text, got {value!r}"[:200])
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("bad_text", f"half a surrogate pair in {value!r}"[:200]) from error
    return value.strip()
