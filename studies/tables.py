"""Compute the tables of RESULTS.md and the claims below them from results/*.json.

Used by render.py. A row is a cell of one or more seeds; a value is the mean over the seeds, with half of the width
of a 95 % t interval where there are two seeds or more. A claim compares two values seed by seed, and where they are
accuracies, question by question.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from studies.attribution import OPTIONS, ROWS
from studies.cells import SFT_ROWS
from studies.methods import ROUNDS, TESTED_STAGES
from studies.outcomes import difference_interval, pair_interval
from studies.weights import shipped_weights

LEVELS = ("attribute", "relation", "superlative", "all")
SHARES = {"WP-LP": "WP-LP", "WP-LN": "WP-LN", "WN-LP": "WN-LP", "WN-LN": "WN-LN", "win_positive": "win positive",
          "blind_WP-LN": "random-pair WP-LN"}  # fmt: skip
BASELINES = {
    "sft-answers": "answer-only SFT",
    "dpo-answers": "answer-only DPO",
    "kto-answers": "answer-only KTO",
    "rloo-model": "answer-only RLOO, reward model",
    "rloo-exact": "answer-only RLOO, exact match",
    "rl2-alone": "RL2 without RL1",
}
RUNS = {
    "pairs-full": "full",
    "pairs-no-diversity": "no diversity controller",
    "pairs-no-box-critic": "no box critic",
    "pairs-sft-critic": "SFT model as critic",
    "pairs-full-sft-critic": "SFT of all weights as critic",
    "pairs-served-critic": "critic over the OpenAI engine",
    "pairs-exact-match": "exact match as response critic",
    "pairs-round2": "round 2 (RL2 model)",
}
# (text, the larger side, the smaller side, the figure): a side is a cell and the path of a model or run in it.
CLAIMS = (
    ("RL1 raises box accuracy over SFT", "stages rl1", "stages sft", "box_accuracy"),
    ("RL2 raises box accuracy over RL1", "stages rl2", "stages rl1", "box_accuracy"),
    ("RL1 raises answer accuracy over SFT", "stages rl1", "stages sft", "answer"),
    ("RL2 raises answer accuracy over RL1", "stages rl2", "stages rl1", "answer"),
    ("RL1 and RL2 raise box accuracy over SFT", "stages rl2", "stages sft", "box_accuracy"),
    ("RL1 and RL2 raise answer accuracy over SFT", "stages rl2", "stages sft", "answer"),
    ("SFT answers better than the base without a box", "stages sft", "stages base", "answer"),
    ("the full method answers better than RL2 alone", "stages rl2", "stages rl2-alone", "answer"),
    ("the full method points better than RL2 alone", "stages rl2", "stages rl2-alone", "box_accuracy"),
    ("RL2 alone answers better than answer-only SFT", "rl2-alone model", "sft-answers model", "answer"),
    ("RL2 alone answers better than answer-only DPO", "rl2-alone model", "dpo-answers model", "answer"),
    ("RL2 alone answers better than answer-only KTO", "rl2-alone model", "kto-answers model", "answer"),
    ("RL2 alone answers better than answer-only RLOO", "rl2-alone model", "rloo-model model", "answer"),
    ("good pairs (WP-LN) fall without the diversity controller", "pairs-full", "pairs-no-diversity", "WP-LN"),
    ("good pairs fall further without the box critic", "pairs-no-diversity", "pairs-no-box-critic", "WP-LN"),
    ("good pairs fall without the box critic", "pairs-full", "pairs-no-box-critic", "WP-LN"),
    ("good pairs grow in round 2", "pairs-round2", "pairs-full", "WP-LN"),
    ("four rounds raise box accuracy over SFT", "rounds models 4", "rounds models 0", "box_accuracy"),
    ("four rounds raise answer accuracy over SFT", "rounds models 4", "rounds models 0", "answer"),
    ("box accuracy grows from round 1 to round 4", "rounds models 4", "rounds models 1", "box_accuracy"),
    ("answer accuracy grows from round 1 to round 4", "rounds models 4", "rounds models 1", "answer"),
    ("the number of pairs grows over the rounds", "rounds models 3", "rounds models 0", "pairs"),
)
LOSS_CLAIMS = (
    ("RL1 raises box accuracy over SFT, by the paper's loss", "losses paper-rl1", "losses sft", "box_accuracy"),
    ("RL1 raises box accuracy over SFT, by the win's likelihood", "losses win-rl1", "losses sft", "box_accuracy"),
    ("RL1: both point better than the win's likelihood alone", "losses both-rl1", "losses win-rl1", "box_accuracy"),
    ("RL1: both point better than the paper's loss", "losses both-rl1", "losses paper-rl1", "box_accuracy"),
    ("RL2 raises answer accuracy over RL1, by the paper's loss", "losses paper-rl2", "losses paper-rl1", "answer"),
    ("RL2 raises answer accuracy over RL1, by the win's likelihood", "losses win-rl2", "losses win-rl1", "answer"),
    ("RL2: both answer better than the win's likelihood alone", "losses both-rl2", "losses win-rl2", "answer"),
    ("RL2: both answer better than the paper's loss", "losses both-rl2", "losses paper-rl2", "answer"),
)
LOSSES = dict(zip(ROWS, (
    "SFT",
    "RL1, the paper's DPO", "RL1 + RL2, the paper's DPO",
    "RL1, DPO + NLL of the win", "RL1 + RL2, DPO + NLL of the win",
    "RL1, NLL of the win alone", "RL1 + RL2, NLL of the win alone",
), strict=True))  # fmt: skip
VARIANTS = {
    "restart": "each round trained from the SFT model",
    "lower": "the learning rate halved each round",
    "pooled": "trained from the SFT model on the pairs of all rounds so far",
}
Seeds = dict[int, Any]
"""A cell's figures, by seed."""


def load(folder: Path) -> dict[str, Seeds]:
    """Read results/*.json as cell -> seed -> figures: cells of the shipped weights; if there are none, the others."""
    cells: dict[str, Seeds] = {}
    for cell in _of_shipped_weights(folder) or _read(folder):
        cells.setdefault(cell["cell"], {})[cell["seed"]] = cell["figures"]
    return cells


def is_first_edition(folder: Path) -> bool:
    """Say whether the cells are those of the weights that shipped before cells named any."""
    return not _of_shipped_weights(folder)


def _of_shipped_weights(folder: Path) -> list[dict[str, Any]]:
    return [cell for cell in _read(folder) if cell.get("weights") == shipped_weights()]


def _read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def value_at(figures: Any, place: Sequence[str]) -> Any:
    """Return the value at a path: names of fields, and indices in a list."""
    for step in place:
        figures = figures[int(step) if isinstance(figures, list) else step]
    return figures


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and half of the 95 % t interval (None for a single value)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))


def show(seeds: Seeds, place: str, scale: float = 100.0, digits: int = 1) -> str:
    """Return mean ± half of the interval of a value over the seeds."""
    mean, half = mean_and_half([scale * value_at(figures, place.split()) for figures in seeds.values()])
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def stages(cells: dict[str, Seeds], figure: str, rows: dict[str, str]) -> str:
    """Return Table 2 or 4: rows of the cell `stages` by level, with split transfer and the paper's loss if made."""
    lines = [[title, *_by_level(cells["stages"], row, figure)] for row, title in rows.items()]
    transfer = cells.get("stages-transfer")
    if transfer:
        for row, line in zip(rows, lines, strict=True):
            line.append(show(transfer, f"{row} all {figure}"))
    for row in ("paper-rl1", "paper-rl2") if "losses" in cells else ():
        lines.append([LOSSES[row], *_by_level(cells["losses"], row, figure), *([""] if transfer else [])])
    return table(("model", *LEVELS, *(["transfer"] if transfer else [])), lines)


def _by_level(seeds: Seeds, row: str, figure: str) -> list[str]:
    return [show(seeds, f"{row} {level} {figure}") for level in LEVELS]


def losses(seeds: Seeds) -> str:
    """Return the table of the losses: accuracies, and the last tenth of each curve of the log-likelihoods."""
    places = [f"{step} {side}" for step in ("focus", "response") for side in ("chosen", "rejected")]
    rows = []
    for row, title in LOSSES.items():
        accuracies = [show(seeds, f"{row} all {name}") for name in ("valid", "box_accuracy", "answer")]
        steps = next(iter(seeds.values()))[row].get("likelihoods", {})
        changes = [
            show(seeds, f"{row} likelihoods {place} -1", 1, 2) if place.split()[0] in steps else "" for place in places
        ]
        rows.append((title, *accuracies, *changes))
    return table(
        ("model", "valid boxes", "box accuracy", "answer accuracy", "box, chosen", "box, rejected", "response, chosen",
         "response, rejected"), rows
    )  # fmt: skip


def grid(figures: Any) -> str:
    """Return the table of the trials behind the paper's loss; those chosen are marked."""
    rows = []
    for trial in figures["trials"]:
        mark = " (chosen)" if trial["options"] == figures[trial["stage"]] else ""
        accuracies = [f"{100 * trial[name]:.1f}" for name in ("valid", "box_accuracy", "answer")]
        changes = [f"{trial['focus'][side][-1]:+.2f}" for side in ("chosen", "rejected")]
        rows.append((trial["stage"] + mark, *(trial["options"][name] for name in OPTIONS), *accuracies, *changes))
    return table(
        ("stage", "learning rate", "beta", "epochs", "valid boxes", "box accuracy", "answer accuracy", "box, chosen",
         "box, rejected"), rows
    )  # fmt: skip


def validity(cells: dict[str, Seeds]) -> str:
    """Return Table 3."""
    by_rows = {n: cells[f"validity-{n}"] for n in SFT_ROWS if f"validity-{n}" in cells}
    rows = [(str(n), show(at, "model all valid"), show(at, "model all box_accuracy")) for n, at in by_rows.items()]
    return table(("SFT rows", "valid boxes", "box accuracy"), rows)


def baselines(cells: dict[str, Seeds]) -> str:
    """Return Table 5."""
    rows = [(title, show(cells[name], "model all answer")) for name, title in BASELINES.items() if name in cells]
    if "rounds" in cells:  # model 1 of the rounds is the full method, evaluated on the same questions as the others
        rows.append(("RL1, then RL2 (full)", show(cells["rounds"], "models 1 all answer")))
    if "losses" in cells:
        title = f"RL1, then RL2, by the paper's DPO ({TESTED_STAGES} questions)"
        rows.append((title, show(cells["losses"], "paper-rl2 all answer")))
    return table(("method", "answer accuracy"), rows)


def pairs(cells: dict[str, Seeds]) -> str:
    """Return Table 6."""
    rows = [
        (title, show(cells[name], "pairs", 1, 0), *(show(cells[name], share, 1) for share in SHARES))
        for name, title in RUNS.items()
        if name in cells
    ]
    return table(("run", "pairs", *SHARES.values()), rows)


def rounds(seeds: Seeds) -> str:
    """Return Figure 4 as a table: model k was trained for k rounds."""
    rows = []
    for k in range(ROUNDS + 1):
        accuracies = [show(seeds, f"models {k} all {name}") for name in ("valid", "box_accuracy", "answer")]
        pairs_of_k = (
            [show(seeds, f"models {k} {name}", 1, n) for name, n in (("pairs", 0), ("WP-LN", 1))] if k < ROUNDS else []
        )
        rows.append((str(k), *accuracies, *(pairs_of_k or ("", ""))))
    return table(
        ("rounds trained", "valid boxes", "box accuracy", "answer accuracy", "pairs it made", "their WP-LN"), rows
    )


def claims(cells: dict[str, Seeds], listed: Sequence[tuple[str, ...]] = CLAIMS) -> str:
    """Return a table of each claim with its difference, its two intervals and its verdict."""
    head = ("claim", "difference", "over seeds", "over questions", "verdict")
    return table(head, [_claim(cells, *claim) for claim in listed])


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two sides, in the unit shown: its mean, and its two intervals.

    half: half of the interval over the seeds, None for one seed. questions: those that the other interval is over.
    """

    mean: float
    half: float | None
    over_questions: tuple[float, float]
    seeds: int
    questions: int


def compare(cells: dict[str, Seeds], above: str, below: str, figure: str) -> Comparison | None:
    """Compare the two sides of a claim; None when no seed has both."""
    (cell, *place), (other, *elsewhere) = above.split(), below.split()
    seeds = sorted(set(cells.get(cell, {})) & set(cells.get(other, {})))
    if not seeds:
        return None
    sides = [(value_at(cells[cell][seed], place), value_at(cells[other][seed], elsewhere)) for seed in seeds]
    evaluated = figure in ("answer", "box_accuracy")
    scale, where = (100, ("all", figure)) if evaluated else (1, (figure,))
    mean, half = mean_and_half([scale * (value_at(one, where) - value_at(two, where)) for one, two in sides])
    low, high = _over_questions([one for one, _ in sides], [two for _, two in sides], figure)
    return Comparison(mean, half, (scale * low, scale * high), len(seeds), _questions(sides[0][0], figure))


def _questions(side: Any, figure: str) -> int:
    if figure in ("answer", "box_accuracy"):
        return sum(len(level[figure]) for level in side["outcomes"].values())
    return len(side["pair_outcomes"])


def _claim(cells: dict[str, Seeds], text: str, *sides: str) -> tuple[str, ...]:
    found = compare(cells, *sides)
    if found is None:
        return (text, "", "", "", "not run yet")
    mean, half = found.mean, found.half
    spans = [] if half is None else [(mean - half, mean + half)]
    spans.append(found.over_questions)
    shown = ["", *(f"{low:+.1f} to {high:+.1f}" for low, high in spans)][-2:]
    return (text, f"{mean:+.1f}", *shown, "one seed: no verdict" if half is None else _verdict(spans))


def _over_questions(above: list[Any], below: list[Any], figure: str) -> tuple[float, float]:
    if figure in ("answer", "box_accuracy"):
        return difference_interval([one["outcomes"] for one in above], [one["outcomes"] for one in below], figure)
    return pair_interval([one["pair_outcomes"] for one in above], [one["pair_outcomes"] for one in below], figure)


def _verdict(spans: Sequence[tuple[float, float]]) -> str:
    """Return the verdict on a difference that is claimed to be positive, from its intervals."""
    if all(low > 0 for low, _ in spans):
        return "confirmed"
    return "refuted" if all(high < 0 for _, high in spans) else "open"
