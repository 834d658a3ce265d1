"""Measure whether memory stays constant over a long run: 100,000 questions on scripted replies in one process.

    python -m benchmarks.memory_growth [--questions 100000]

Every question has an image file of its own, small, since decoding is not what is measured. Prints the memory held at
each tenth of the run, its slope, and the peak of the last step, which joins the chunks and writes pairs and report.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from benchmarks.photos import photo
from benchmarks.process import alone, peak_mib, resident_mib
from tests.conftest import scripted_reply
from visrl_data.core.config import GenConfig
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors import generation

CHUNK = 100
POINTS = 10


@dataclass(frozen=True, slots=True)
class MemoryCurve:
    """In MiB. held: (questions done, memory held then); generated, peak: the most before and after the last step."""

    held: list[tuple[int, float]]
    generated: float
    peak: float
    seconds: float

    @property
    def slope(self) -> float:
        """Return MiB for each 10,000 questions, by least squares; the first point, when buffers fill, is left out."""
        done, held = np.array(self.held[1:]).T
        return float(np.polyfit(done / 10_000, held, 1)[0])


def source(folder: Path, count: int) -> Path:
    """Write a .jsonl of so many questions; the images differ in a comment of the file."""
    (folder / "images").mkdir()
    jpeg = BytesIO()
    photo(0, (64, 48)).save(jpeg, "JPEG")
    start, rest = jpeg.getvalue()[:2], jpeg.getvalue()[2:]
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for i in range(count):
            comment = b"%012d" % i
            segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            (folder / "images" / f"{i}.jpg").write_bytes(start + segment + rest)
            row = {"id": f"q{i}", "question": f"What is thing {i}?", "answers": ["7"], "image": f"images/{i}.jpg",
                   "boxes": [[0.1, 0.1, 0.4, 0.5]]}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return folder / "questions.jsonl"


def measure(questions: Path, count: int, output: Path) -> MemoryCurve:
    """Run the factory in this process."""
    held: list[tuple[int, float]] = []
    generated = 0.0
    each = max(1, count // CHUNK // POINTS)

    def look(progress: generation.RunProgress) -> None:
        nonlocal generated
        generated = peak_mib()
        if progress.done and progress.done % each == 0:
            held.append((progress.done * CHUNK, resident_mib()))

    engine, started = ScriptedEngine(scripted_reply), time.perf_counter()
    config = GenConfig(source=str(questions), chunk_size=CHUNK)
    generation.generate(config, output, look, roles=(Role(engine, True), Role(engine, False)))
    return MemoryCurve(held, generated, peak_mib(), time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        questions = source(Path(work), args.questions)
        memory = alone(measure, questions, args.questions, Path(work) / "run")
        print("| questions | MiB held |\n| --- | --- |")
        for done, held in memory.held:
            print(f"| {done:,} | {held:.0f} |")
        peaks = f"peak {memory.generated:.0f} MiB while they were made, {memory.peak:.0f} MiB with the last step"
        print(f"\n{memory.slope:+.1f} MiB for each 10,000 questions; {peaks}; {memory.seconds:.0f} s")


if __name__ == "__main__":
    main()
