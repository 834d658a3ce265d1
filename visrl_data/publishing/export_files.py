"""What every layout of an export shares: picture files, prompts as one text, and counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.images import sha256
from visrl_data.core.prompts import PromptPart
from visrl_data.runs import stored_images

MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class Written:
    """What a layout's writer wrote: rows by file, and the counts of ExportResult."""

    rows: dict[str, int]
    empty: int
    grown: int = 0
    no_pixel: int = 0


def prompt_text(parts: tuple[PromptPart, ...]) -> str:
    """Return a prompt as one text, with a marker where a picture stands."""
    return "\n".join(part.text if part.kind == "text" else MARKER for part in parts)


def picture_file(folder: Path, data: bytes) -> str:
    """Write a picture under its checksum, once. Return the path relative to the folder."""
    path = f"images/{sha256(data)}{stored_images.suffix(data)}"
    if not (folder / path).is_file():
        (folder / path).write_bytes(data)
    return path
