"""Measure what a question costs: how the time of `visrl gen` grows with N, the size of the images and the model.

    python -m benchmarks.cost [--json FILE]      about five minutes on two quiet cores

measures the factory on random models of Qwen2.5-VL's architecture, one thing varied at a time, and fits three rates
to all cells at once (least squares of relative errors):

    seconds = patches * V / rate(vision) + tokens read * L / rate(prefill) + tokens written * L / rate(decode)

V, L: parameters of the vision tower and of the language model's layers. The number of questions needs no fit: chunks
do not depend on each other. Counted are the tokens that forwards really read, padding included. Then it prints what
the same counts would take on GPUs at rates that are assumed, not measured: ASSUMED.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from benchmarks import generation, models, photos
from benchmarks.process import alone, quiet
from visrl_data.core.config import GenConfig
from visrl_data.engines.image_encoder import ImageEncoder
from visrl_data.engines.prefix_cache import Prefiller

QUESTIONS = 4
SIDES = {"small": (320, 240), "middle": (640, 480), "large": (1024, 768)}
# width and depth of the language model, width and depth of the vision tower
SIZES = {"S": (256, 6, 192, 8), "M": (512, 8, 384, 12), "L": (768, 10, 576, 14)}
CELLS = [("M", "middle", 3), ("M", "middle", 1), ("M", "middle", 6), ("M", "small", 3), ("M", "large", 3),
         ("S", "middle", 3), ("L", "middle", 3)]  # fmt: skip

# One H100 in bfloat16 with a model of 7 billion parameters. Reading is bound by arithmetic: 40 % of 989 TFLOP/s,
# and two operations a parameter. Writing is bound by how fast a step of the decoder is launched and its weights read.
ASSUMED = {"flops": 0.4 * 989e12, "seconds_a_step": 0.03, "rows": 32}
LARGE = {"vision": 0.63e9, "language": 6.5e9}
WRITTEN = {"focus": 40, "answer": 8, "box score": 10, "response score": 10}  # tokens of a reply
WANTED, GPUS = 180_000, (1, 8, 64)


@dataclass(frozen=True, slots=True)
class CostCell:
    """A measured setting. Counts and seconds are those of a question; parameters are the model's."""

    size: str
    pictures: str
    attempts: int
    vision: int
    language: int
    patches: float
    read: float
    written: float
    seconds: float


def measure(cell: tuple[str, str, int]) -> CostCell:
    """Measure one cell in this process."""
    size, pictures, attempts = cell
    torch.set_num_threads(1)
    models.stand_in_for_videos()
    counts = {"patches": 0, "read": 0}
    encode, forward = ImageEncoder._encode, Prefiller._forward

    def counted_encode(self: ImageEncoder, pictures: Any) -> Any:
        encoded = encode(self, pictures)
        counts["patches"] += sum(int(seen.grid.prod()) for seen in encoded if seen.grid is not None)
        return encoded

    def counted_forward(self: Prefiller, ids: torch.Tensor, *rest: Any) -> Any:
        counts["read"] += ids.numel()
        return forward(self, ids, *rest)

    with tempfile.TemporaryDirectory() as work:
        folder = sized(Path(work) / "model", size)
        source = photos.questions(Path(work) / "photos", QUESTIONS, [SIDES[pictures]])
        config = GenConfig(model=str(folder), source=str(source), constrain=True, attempts=attempts)
        job = generation.GenerationJob(size, "factory", config, threads=1)
        with (
            mock.patch.object(ImageEncoder, "_encode", counted_encode),
            mock.patch.object(Prefiller, "_forward", counted_forward),
        ):
            timed = generation.measure(job)
        parameters = models.parts(AutoModelForImageTextToText.from_pretrained(folder))
    rows = models.VOCABULARY * SIZES[size][0]  # of the embedding, which no forward multiplies with
    n = timed.made.questions
    return CostCell(
        size, pictures, attempts, parameters["vision"], parameters["language"] - 2 * rows, counts["patches"] / n,
        counts["read"] / n, timed.made.completion_tokens / n, timed.seconds / n,
    )  # fmt: skip


def sized(folder: Path, size: str) -> Path:
    """Write a random model of this size, with the architecture of models.qwen."""
    width, depth, eye, layers = SIZES[size]
    models.qwen(folder)
    path = folder / "config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about["text_config"] |= {"hidden_size": width, "intermediate_size": int(2.75 * width), "num_hidden_layers": depth,
                             "num_attention_heads": width // 64, "layer_types": ["full_attention"] * depth}  # fmt: skip
    about["vision_config"] |= {"hidden_size": eye, "intermediate_size": int(2.75 * eye), "depth": layers,
                               "num_heads": eye // 64, "out_hidden_size": width,
                               "fullatt_block_indexes": [layers // 4 * i - 1 for i in range(1, 5)]}  # fmt: skip
    path.write_text(json.dumps(about), encoding="utf-8")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    models.scaled(model).save_pretrained(folder)
    return folder


def fit(cells: Sequence[CostCell]) -> tuple[float, float, float]:
    """Fit parameters times tokens per second, none below zero: of the vision tower, of prefill and of decoding."""
    from scipy.optimize import nnls

    work = np.array([(c.patches * c.vision, c.read * c.language, c.written * c.language) for c in cells])
    seconds = np.array([c.seconds for c in cells])
    slowness, _ = nnls(work / seconds[:, None], np.ones(len(cells)))
    return tuple(1 / s if s else float("inf") for s in slowness)


def fitted(cell: CostCell, rates: Sequence[float]) -> float:
    """Return the fitted seconds per question."""
    work = (cell.patches * cell.vision, cell.read * cell.language, cell.written * cell.language)
    return sum(amount / rate for amount, rate in zip(work, rates, strict=True))


def on_a_gpu(cell: CostCell) -> tuple[float, float]:
    """Return seconds per question of prefill and of decoding, for the large model at the assumed rates."""
    reading = 2 * (cell.patches * LARGE["vision"] + cell.read * LARGE["language"]) / ASSUMED["flops"]
    steps = sum(WRITTEN.values()) * 2 * cell.attempts / ASSUMED["rows"]
    return reading, steps * ASSUMED["seconds_a_step"]


def tables(cells: Sequence[CostCell]) -> str:
    """Return the results as Markdown tables."""
    rates = fit(cells)
    names = ("model", "pictures", "N", "V", "L", "patches", "tokens read", "tokens written", "s measured", "s fitted",
             "without it")  # fmt: skip
    rows = []
    for cell in cells:
        others = [other for other in cells if other is not cell]
        sides = "{}x{}".format(*SIDES[cell.pictures])
        rows.append([cell.size, sides, str(cell.attempts), f"{cell.vision / 1e6:.1f} M", f"{cell.language / 1e6:.1f} M",
                     f"{cell.patches:.0f}", f"{cell.read:.0f}", f"{cell.written:.0f}", f"{cell.seconds:.2f}",
                     f"{fitted(cell, rates):.2f}", f"{fitted(cell, fit(others)):.2f}"])  # fmt: skip
    text = generation.markdown(names, rows)
    text += "\n\nRates (parameters x tokens a second): vision {:.3g}, reading {:.3g}, writing {:.3g}.".format(*rates)
    names = (
        "pictures",
        "N",
        "s reading",
        "s writing",
        *(f"{WANTED:,} questions, {n} GPU{'s' * (n > 1)}" for n in GPUS),
    )
    rows = []
    for cell in cells:
        if cell.size == "M":
            reading, writing = on_a_gpu(cell)
            hours = [f"{WANTED * (reading + writing) / n / 3600:.1f} h" for n in GPUS]
            size = "{}x{}".format(*SIDES[cell.pictures])
            rows.append([size, str(cell.attempts), f"{reading:.2f}", f"{writing:.2f}", *hours])
    return f"{text}\n\nA model of 7 billion parameters, at assumed rates {ASSUMED}:\n\n" + generation.markdown(
        names, rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("cost.json"), help="file of the results")
    args = parser.parse_args()
    quiet()
    cells = []
    for cell in CELLS:
        cells.append(alone(measure, cell))
        print(*cell, f"{cells[-1].seconds:.2f} s a question", file=sys.stderr, flush=True)
    args.json.write_text(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=2) + "\n", encoding="utf-8")
    print(tables(cells))


if __name__ == "__main__":
    main()
