"""Read what the programs of programs/ print."""

import json
from typing import Any


def result(printed: str) -> Any:
    """Return the JSON of the line that begins with RESULT."""
    (line,) = (line for line in printed.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))
