"""Each family of families.py, tiny and untrained, through the whole of it: questions, candidates, pairs, three stages.

    python -m tests.tools.family_table [MODEL_TYPE ...]

prints a table; docs/families.md shows it. Replies are held to their form (--constrain): an untrained model writes
boxes and scores at random; thresholds under which some of them make pairs are looked for, as `visrl filter --sweep`
does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import draw_photo
from tests.helpers.tiny_families import TINY, VARIANTS, stand_ins
from visrl_data.core.config import GenConfig, Thresholds
from visrl_data.engines.image_processing import picture_size, picture_tokens
from visrl_data.engines.loading import load_processor
from visrl_data.executors import generation
from visrl_data.models.families import FAMILIES, family_at
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline import finalize
from visrl_train import rl1, rl2, sft
from visrl_train.config import Rl1Config, Rl2Config, SftConfig
from visrl_train.metrics_log import read_metrics

QUESTIONS = 6
GEN = {"constrain": True, "attempts": 8, "temperature": 1.5, "top_p": 1.0, "top_k": 0, "max_new_tokens": 40,
       "chunk_size": 100}  # fmt: skip
TRAIN = {"device": "cpu", "epochs": 1.0, "validation": 0.0, "batch_size": 64, "accumulation": 1}


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one family. tokens: of a picture of 640 x 480, which it sees as `seen`. Losses: the first."""

    family: str
    box_space: str
    prefill_shared: bool
    seen: str
    tokens: int
    candidates: int
    scored: int
    pairs: int
    sft: float
    rl1: float
    rl2: float
    seconds: float

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.sft, self.rl1, self.rl2)))


def model_folder(model_type: str, folder: Path, seed: int) -> Path:
    """Save a tiny random model with large weights: with the usual small ones the output hardly depends on the input."""
    torch.manual_seed(seed)
    processor, model = (TINY | VARIANTS)[model_type]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "lm_head" not in name:
                parameter.mul_(8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def questions(folder: Path) -> Path:
    """Write a .jsonl of labeled questions on drawn images of several shapes."""
    folder.mkdir()
    rows = []
    for i in range(QUESTIONS):
        draw_photo(i, ((120, 90), (90, 120), (100, 100))[i % 3]).save(folder / f"{i}.png")
        rows.append({"id": f"q{i}", "question": f"What is thing {i}?", "answers": ["7"], "image": f"{i}.png",
                     "boxes": [[0.1, 0.1, 0.4, 0.5]], "license": "CC0-1.0"})  # fmt: skip
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run_family(model_type: str, work: Path) -> Row:
    """Run every step in a folder of its own. Where luck gives no pair, try other random weights."""
    started = time.perf_counter()
    source, picture = questions(work / "photos"), Image.new("RGB", (640, 480), "grey")
    for seed in range(6):
        base = model_folder(model_type, work / f"base{seed}", seed)
        run = generation.generate(GenConfig(model=str(base), source=str(source), **GEN), work / f"run{seed}")
        pick_thresholds(run.path)
        about = run.manifest()
        if about["counts"]["pairs"]:
            break
    processor = load_processor(find_model(str(base)), None, False)
    candidates = run.table("candidates").to_pylist()
    scored = sum(row["box_score_state"] == row["response_score_state"] == "ok" for row in candidates)
    warm = sft.train(SftConfig(model=str(base), source=str(source), **TRAIN), work / "sft")
    losses = [first_loss(warm)]
    if about["counts"]["pairs"]:
        data = {"data": str(run.path), **TRAIN}
        first = rl1.train(Rl1Config(model=str(base), **data), work / "rl1")
        second = rl2.train(Rl2Config(model=str(first), **data), work / "rl2")
        losses += [first_loss(first), first_loss(second)]
    family = family_at(base)
    return Row(
        family.name, about["run"]["box_space"], family.shares_prefill,
        "{}x{}".format(*picture_size(processor, picture)), picture_tokens(processor, picture),
        len(candidates), scored, about["counts"]["pairs"], *losses, *[math.nan] * (3 - len(losses)),
        round(time.perf_counter() - started, 1),
    )  # fmt: skip


def pick_thresholds(run: Path) -> None:
    """Filter a run anew with the thresholds that give the most pairs, a lose ending right below a win."""
    steps = [(round(0.1 * i + 0.1, 1), round(0.1 * i, 1)) for i in range(10)]
    grid = [Thresholds(*box, *response) for box in steps for response in steps]
    rows = finalize.sweep_run(run, grid=grid).to_pylist()
    best = max(rows, key=lambda row: (row["response_pairs"], row["pairs"]))
    finalize.filter_run(run, {spec.name: best[spec.name] for spec in dataclasses.fields(Thresholds)})


def first_loss(folder: Path) -> float:
    return read_metrics(folder / "metrics.jsonl")[0]["loss"]


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""
    names = [spec.name for spec in dataclasses.fields(Row)]
    lines = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    for row in rows:
        values = [getattr(row, name) for name in names]
        lines.append([_shown(value) for value in values])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def about_families() -> str:
    """Return the table of families.py for users, in Markdown."""
    names = ("family", "`model_type`", "boxes of the untuned model", "trained on boxes", "focus request", "shared",
             "an image is", "`--max-pixels` changes", "needs")  # fmt: skip
    lines = [names, ["---"] * len(names)]
    for family in FAMILIES:
        types = ", ".join("`{}`".format(name.replace(":", "` with a tower `")) for name in family.types)
        if family.unsupported:
            lines.append([family.name, types, *["not loaded"] + [""] * 6])
            continue
        request = "its own" if family.focus else "the default"
        control = CONTROLS[family.resolution_control]
        trained = "yes" if family.trained_on_boxes else "no"
        shared = "prefixes" if family.shares_prefix else "prompts" if family.shares_prefill else "nothing"
        needs = ", ".join(family.requires)
        lines.append(
            [family.name, types, f"`{family.box_space}`", trained, request, shared, family.resize_mode, control, needs]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


CONTROLS = {
    "": "nothing",
    "pixels": "the size",
    "edge": "the longest edge, in whole tiles",
    "pinpoints": "the grids of tiles",
    "patches": "the number of tiles",
    "slices": "the number of slices",
    "tiles": "the number of tiles, then the size",
    "crops": "the number of crops",
    "frame_pixels": "the size",
    "soft_tokens": "the size, in steps",
    "longest_edge": "the longest edge",
    "patch_count": "the number of patches",
}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch)
        for model_type in sys.argv[1:] or TINY:
            with tempfile.TemporaryDirectory() as work:
                rows.append(run_family(model_type, Path(work)))
            print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
