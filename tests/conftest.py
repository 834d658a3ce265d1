"""Fixtures that several modules share: drawn photographs with questions, and scripted models."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models: threads cost more than they give

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from visrl_data.core.seeds import generator
from visrl_data.engines.protocol import Request, Role
from visrl_data.engines.scripted import ScriptedEngine


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is made again at need out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def draw_photo(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Coarse noise with a few ellipses: no two alike, and each the same whenever it is drawn."""
    rng = random.Random(seed)
    image = Image.frombytes("RGB", (12, 9), rng.randbytes(12 * 9 * 3)).resize(size)
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        pen.ellipse((x, y, x + 20, y + 20), fill=tuple(rng.randrange(256) for _ in range(3)))
    return image


@pytest.fixture
def photo_source(tmp_path: Path) -> Path:
    """A .jsonl of ten good rows on five drawn pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    for i in range(10):
        name = f"{i // 2}.png"
        draw_photo(i // 2).save(folder / name)
        rows.append({"id": f"q{i}", "question": f"What is thing {i}?", "answers": ["7", "seven"], "image": name,
                     "boxes": [[0.1, 0.1, 0.4, 0.5]], "license": "CC0-1.0"})  # fmt: skip
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def scripted_reply(request: Request, seed: int) -> str:
    """A model made of dice: boxes, answers and verdicts that depend on the seed or the text only."""
    kinds = [part.kind for part in request.parts]
    text = "\n".join(part.text for part in request.parts)
    dice = generator(seed)
    if kinds == ["image", "text"] and "Standard answer" not in text:
        x, y = dice.integers(0, 600, 2)
        return f"[{x / 1000:.3f}, {y / 1000:.3f}, {(x + 300) / 1000:.3f}, {(y + 300) / 1000:.3f}]"
    if "crop" in kinds and "Standard answer" not in text:
        return str(dice.integers(6, 9))
    if kinds[0] == "crop":
        red = request.images[0].resize((1, 1)).getpixel((0, 0))[0]
        return f'{{"score": {(red % 11) / 10}}}'
    return '{"score": 1.0}' if "Model answer: 7\n" in text else '{"score": 0.0}'


@pytest.fixture
def scripted_roles() -> tuple[Role, Role]:
    engine = ScriptedEngine(scripted_reply)
    return Role(engine, True), Role(engine, False)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Spotlight's architecture before any training: every sample is another text."""
    from studies.spotlight.build import build_model, build_processor, save_base

    folder = tmp_path_factory.mktemp("untrained")
    processor = build_processor()
    save_base(build_model(processor), processor, folder)
    return folder
