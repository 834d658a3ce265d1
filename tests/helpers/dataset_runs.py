"""Small finished runs for the tests of datasets: drawn photographs, or Spotlight, with scripted models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.conftest import draw_photo, scripted_reply
from visrl_data.core.config import GenConfig
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors import generation
from visrl_data.runs.run_folder import Run

SHIPPED = {"license": "CC0-1.0", "ship_image": True}


def photos(folder: Path, rows: int = 24, **columns: Any) -> Path:
    """questions.jsonl about drawn pictures, two questions a picture. columns: of every row, or a function of i."""
    folder.mkdir(parents=True)
    lines = []
    for i in range(rows):
        name = f"{i // 2}.{'jpg' if i % 4 < 2 else 'png'}"
        draw_photo(i // 2).save(folder / name)
        row = {"id": f"q{i}", "question": f"What is thing {i}?", "answers": ["7", "seven"], "image": name}
        row["boxes"] = [[0.1, 0.1, 0.4, 0.5]] if i % 3 else []
        row |= {key: value(i) if isinstance(value, Callable) else value for key, value in columns.items()}
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")
    file = folder / "questions.jsonl"
    file.write_text("".join(lines))
    return file


def turned_jpeg(path: Path, seed: int = 0) -> None:
    """A JPEG that its EXIF block turns by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_photo(seed, (160, 90)).save(path, exif=exif, quality=95)


def make_run(folder: Path, source: Path | str = "spotlight", script=scripted_reply, **options: Any) -> Run:
    engine = ScriptedEngine(script)
    config = GenConfig(source=str(source), **options)
    return generation.generate(config, folder, roles=(Role(engine, True), Role(engine, False)))


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
