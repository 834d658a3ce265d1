"""The paper's own figures (arXiv 2503.07523), at the places of the cells that answer to them.

Used by claims.py, so that each difference stands beside the paper's. Accuracies and shares in percent. The paper gives
no intervals, and no figures for the loss taken apart: its loss is plain DPO.
"""

from __future__ import annotations

STAGES = ("base", "sft", "rl1", "rl2")
ANSWERS = {
    "LLaVA-1.5-7B": (44.4, 53.8, 56.8, 60.5),
    "LLaVA-NeXT-7B": (45.9, 55.6, 59.3, 62.8),
    "Llama-3.2-V-11B": (63.5, 72.4, 74.9, 78.6),
    "MiniCPM-o-2.6-8B": (42.8, 51.9, 54.4, 59.1),
    "PaliGemma2-10B": (37.7, 47.9, 50.7, 56.2),
    "Yi-VL-6B": (38.9, 49.2, 52.3, 57.3),
    "Qwen2.5-VL-7B": (64.0, 73.0, 76.3, 79.6),
}
"""Answer accuracy at each stage, mean of the 11 sets of the Visual-CoT benchmark."""
MODEL = "LLaVA-1.5-7B"
"""The model whose boxes the paper measures."""
BOXES = {"sft": 37.4, "rl1": 41.0, "rl2": 43.7}
"""Its box accuracy at IoU > 0.5."""

Sides = dict[str, float]


def _and_more(values: Sides) -> Sides:
    """Return the values of Table 6 for runs of more questions too."""
    return values | {f"{run}-more": value for run, value in values.items()}


def _stages(values: Sides) -> Sides:
    """Return the values at the sides of cell `stages`, and of the paper's loss in cell `losses`."""
    own = {"sft": "sft", "rl1": "paper-rl1", "rl2": "paper-rl2"}
    return {f"stages {stage}": value for stage, value in values.items()} | {
        f"losses {row}": values[stage] for stage, row in own.items()
    }


METHODS = {
    "stages rl2": 79.6, "stages rl2-alone": 75.9, "losses paper-rl2": 79.6, "rl2-alone-paper model": 75.9,
    "rl2-alone model": 75.9, "sft-answers model": 65.0, "dpo-answers model": 65.6, "kto-answers model": 65.8,
    "rloo-model model": 66.1,
}  # fmt: skip
"""Answer accuracy of other ways to use the pairs (Table 5), Qwen2.5-VL-7B; PPO at the place of RLOO."""
GOOD_PAIRS = _and_more({
    "pairs-full": 64.64, "pairs-no-diversity": 52.02, "pairs-no-box-critic": 31.02, "pairs-round2": 67.82,
    "pairs-round2-paper": 67.82, "pairs-sft-critic": 54.68, "pairs-full-sft-critic": 54.68,
    "pairs-overwritten-critic": 54.68,
})  # fmt: skip
"""WP-LN of Table 6."""
PAIRS = _and_more({
    "pairs-full": 30, "pairs-no-diversity": 19, "pairs-no-box-critic": 86, "pairs-round2": 33,
    "pairs-round2-paper": 33, "pairs-sft-critic": 3, "pairs-full-sft-critic": 3, "pairs-overwritten-critic": 3,
})  # fmt: skip
"""Pairs of Table 6, in thousands."""
TABLES: dict[str, tuple[Sides, ...]] = {
    "answer": (_stages(dict(zip(STAGES, ANSWERS[MODEL], strict=True))), METHODS),
    "box_accuracy": (_stages(BOXES),),
    "WP-LN": (GOOD_PAIRS,),
}
IN_WORDS = {
    (f"{cell} models {last}", f"{cell} models {first}", figure): text
    for cell in ("rounds", "rounds-paper")
    for last, first, figure, text in (
        (4, 1, "answer", "+0.3 to +1.8 a round"),
        (3, 0, "pairs", "30k to 35k in two rounds"),
    )
}
"""Of the rounds (Figure 4) the paper gives a range and counts."""


def difference(above: str, below: str, figure: str) -> str:
    """Return the paper's difference of two sides; "" when it has none."""
    tables = [sides for sides in TABLES.get(figure, ()) if above in sides and below in sides]
    if tables:
        return f"{tables[0][above] - tables[0][below]:+.1f}"
    return IN_WORDS.get((above, below, figure), "")


def over_models(above: str, below: str) -> str:
    """Return the smallest and largest difference of two stages in answers over the paper's models."""
    i, j = STAGES.index(above), STAGES.index(below)
    differences = [values[i] - values[j] for values in ANSWERS.values()]
    return f"{min(differences):+.1f} to {max(differences):+.1f}"
