"""Hold the memory estimates of `visrl doctor` against the peaks that this benchmark recorded on GPUs.

    python -m benchmarks.gpu.estimates [FILE]      of benchmarks/results/gpu-h200.json; a minute, no GPU

Prints Markdown: the peak of each run of a 7B shape, the estimate that was recorded with it, and the estimate of now,
computed from the shapes alone for the run's options and pictures.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import large, models, photos, training
from benchmarks.gpu import training as training_part
from benchmarks.gpu.generation import GIB, estimate
from visrl_data.core.config import GenConfig

RECORDS = Path(__file__).parents[1] / "results" / "gpu-h200.json"
GENERATION = {"generation-qwen": ("Qwen2.5-VL-7B", "qwen7b"), "generation-llava": ("LLaVA-1.5-7B", "llava7b")}
NOTES = {"quantized": ", 4 bits", "losses": ", float32"}


@dataclass(frozen=True, slots=True)
class Peak:
    """A run's peak beside two estimates, all in GiB."""

    run: str
    measured: float
    recorded: float
    estimate: float


def peaks(records: Path) -> Iterator[Peak]:
    """Yield the highest peak of each run that was recorded."""
    models.stand_in_for_videos()
    with tempfile.TemporaryDirectory() as work:
        folders = {name: getattr(large, name)(Path(work) / name) for name in ("qwen7b", "llava7b")}
        for run, (part, row) in highest(json.loads(records.read_text(encoding="utf-8"))["calls"]).items():
            if part in GENERATION:
                now = _generation(folders[GENERATION[part][1]], row)
            else:
                now = _training(folders["qwen7b"], row, part)
            yield Peak(run, row["GiB"], row["estimate"], now / GIB)


def highest(calls: list[dict[str, Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return run -> its part and the row with the most memory: a run may have been recorded in several calls."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for part, row in ((name, row) for call in calls for name, each in call["parts"].items() for row in each["rows"]):
        if "GiB" in row:
            run = _name(part, row)
            if run not in found or row["GiB"] > found[run][1]["GiB"]:
                found[run] = part, row
    return found


def _name(part: str, row: dict[str, Any]) -> str:
    if part in GENERATION:
        return f"{GENERATION[part][0]}, gen, batch {row['batch']}"
    kept = ", no checkpointing" if row["checkpointing"] == "no" else ""
    return f"Qwen2.5-VL-7B, {row['stage']}, {row['method']}{NOTES.get(part, '')}{kept}"


def _generation(folder: Path, row: dict[str, Any]) -> int:
    return estimate(GenConfig(model=str(folder), batch_size=row["batch"]), photos.SIZES, 2)


def _training(folder: Path, row: dict[str, Any], part: str) -> int:
    job = training.TrainingJob(
        "qwen7b", folder, row["stage"], row["method"], training_part.PAIRS, training_part.STEPS,
        training_part.MAX_PIXELS, "float32" if part == "losses" else "bfloat16", part == "quantized",
        row["checkpointing"] == "yes",
    )  # fmt: skip
    return training_part.estimate(job)


def main() -> None:
    lines = [("run", "peak, measured", "estimate at that time", "estimate now", "now / measured"), ("---",) * 5]
    for peak in peaks(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDS):
        figures = (peak.measured, peak.recorded, peak.estimate)
        ratio = f"{peak.estimate / peak.measured:.2f}"
        lines.append((peak.run, *(f"{figure:.1f}" for figure in figures), ratio))
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))


if __name__ == "__main__":
    main()
