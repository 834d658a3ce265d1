"""Compute the tables of RESULTS.md from results/*.json: Tables 2 to 6, Figure 4, and those that take the loss apart.

Used by template.md. A row is a cell of one or more seeds; a value is the mean over the seeds, with half of the width
of a 95 % t interval where there are two seeds or more. Cells may have different seeds: a row, or else the text above a
table, says how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.attribution import OPTIONS, ROWS, SLOW
from studies.cells import CLEAN_ROWS, SFT_ROWS
from studies.comparison import ACCURACIES, compare
from studies.loses import CELLS as LOSE_CELLS
from studies.loses import MODELS as LOSE_MODELS
from studies.methods import ROUNDS
from studies.outcomes import Outcomes, accuracy, answers_at_right_boxes, first_questions
from studies.values import Seeds, questions, show, show_values, table, value_at
from studies.workspace import PARTS

READING = "answers where the box is right"
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
    "rl2-alone-paper": "RL2 without RL1, by the paper's DPO",
}
RUNS = {
    "pairs-full": "full",
    "pairs-no-diversity": "no diversity controller",
    "pairs-no-box-critic": "no box critic",
    "pairs-sft-critic": "SFT model as critic",
    "pairs-full-sft-critic": "SFT of all weights as critic",
    "pairs-overwritten-critic": "the same, at ten times the learning rate",
    "pairs-served-critic": "critic over the OpenAI engine",
    "pairs-exact-match": "exact match as response critic",
    "pairs-round2": "round 2 (RL2 model)",
    "pairs-round2-paper": "round 2 (RL2 model, by the paper's DPO)",
    "pairs-full-more": "full, more questions",
    "pairs-no-diversity-more": "no diversity controller, more questions",
    "pairs-round2-more": "round 2 (RL2 model), more questions",
    "pairs-round2-paper-more": "round 2 (RL2 model, by the paper's DPO), more questions",
}
LOSSES = dict(zip(ROWS, (
    "SFT",
    "RL1, the paper's DPO", "RL1 + RL2, the paper's DPO",
    "RL1, DPO + NLL of the win", "RL1 + RL2, DPO + NLL of the win",
    "RL1, NLL of the win alone", "RL1 + RL2, NLL of the win alone",
), strict=True))  # fmt: skip
SLOW_TITLE = "RL1 + RL2, the paper's DPO, a third of the learning rate in RL2"
TURNS = {
    "focus chosen": "box, chosen",
    "focus rejected": "box, rejected",
    "response chosen": "response, chosen",
    "response rejected": "response, rejected",
}
"""Place of a curve of the log-likelihoods -> its title."""
PAPER_ROWS = ("paper-rl1", "paper-rl2")
STAGES = {"": "RL1 and RL2", "-rl1": "RL1 alone"}
"""Ending of a cell's name -> the stages of its rounds."""
VARIANTS = {
    "-rl2-nll": "RL2 by the NLL of the win alone, in all rounds (preset `spotlight-rounds`)",
    "-invalid": "the actor's invalid replies as loses at the box step, from the second round on",
    "-restart": "each round trained from the SFT model",
    "-lower": "the learning rate halved each round",
    "-beta": "beta doubled each round",
    "-nll": "the win's likelihood with three times the weight in RL2, from the second round on",
    "-both-nll": "RL2 by the NLL of the win alone, from the second round on",
    "-pooled": "trained from the SFT model on the pairs of all rounds so far",
}
"""Schedules of the rounds besides the preset's."""
SECOND_ROUND = {
    "round0-rl2": "after the first round",
    "round1-rl1": "RL1 of the second",
    "round1-rl2": "then RL2",
    "nll": "then RL2, the win's likelihood with three times the weight",
    "slow": "then RL2, a third of the learning rate",
    "no-box": "then RL2 on the response alone",
    "box-nll": "then RL2, its box by the NLL of the win alone",
    "response-nll": "then RL2, its response by the NLL of the win alone",
    "both-nll": "then RL2, both by the NLL of the win alone",
    "alone": "RL2 without the second RL1",
}
"""Rows of the cell `second-rl2`."""
LOSS_SCHEDULES = {
    "-win": "the NLL of the win alone",
    "-paper": "the paper's DPO",
    "-paper-slow": "the paper's DPO, a third of the learning rate in RL2",
}
"""Schedules whose loss is another one in every round."""
SCHEDULES = {"": "the preset", **VARIANTS, **LOSS_SCHEDULES}


def stages(cells: dict[str, Seeds], figure: str, rows: dict[str, str]) -> str:
    """Return Table 2 or 4: rows of the cell `stages` by level and on split transfer, then those of the paper's loss."""
    lines = [_stage(cells, "stages", row, title, figure) for row, title in rows.items()]
    if "losses" in cells:
        lines += [_stage(cells, "losses", row, LOSSES[row], figure) for row in PAPER_ROWS]
    if "losses-slow" in cells:
        lines.append(_stage(cells, "losses-slow", SLOW, SLOW_TITLE, figure))
    head = ("model", *LEVELS, "seeds", "transfer", "seeds")
    width = len(head) if any(line[-1] for line in lines) else len(head) - 2
    return table(head[:width], [line[:width] for line in lines])


def _stage(cells: dict[str, Seeds], cell: str, row: str, title: str, figure: str) -> list[str]:
    seeds, transfer = cells[cell], cells.get(f"{cell}-transfer")
    on_transfer = [show(transfer, f"{row} all {figure}"), str(len(transfer))] if transfer else ["", ""]
    return [title, *(show(seeds, f"{row} {level} {figure}") for level in LEVELS), str(len(seeds)), *on_transfer]


def transfer(cells: dict[str, Seeds]) -> str:
    """Return the table of split transfer: format, both accuracies, and how well a right crop is read there."""
    rows = []
    for cell, row, title in (
        ("stages-transfer", "sft", "SFT"),
        ("stages-transfer", "rl1", "+ RL1"),
        ("stages-transfer", "rl2", "+ RL1 + RL2"),
        *(("losses-transfer", row, LOSSES[row]) for row in PAPER_ROWS),
    ):
        if cell in cells:
            at = cells[cell]
            accuracies = [show(at, f"{row} all {name}") for name in ("valid", *ACCURACIES)]
            rows.append((title, *accuracies, _reading(_outcomes(at, row)), str(len(at))))
    return table(("model", "valid boxes", "box accuracy", "answer accuracy", READING, "seeds"), rows)


def losses(cells: dict[str, Seeds]) -> str:
    """Return the table of the losses: accuracies, and the last tenth of each curve of the log-likelihoods."""
    rows = []
    for seeds, row, title in _losses(cells):
        accuracies = [show(seeds, f"{row} all {name}") for name in ("valid", *ACCURACIES)]
        reading = _reading([figures[row]["outcomes"] for figures in seeds.values()])
        changes = {place: show(seeds, f"{row} likelihoods {place} -1", 1, 2) for place in _places(seeds, row)}
        rows.append((title, *accuracies, reading, *(changes.get(place, "") for place in TURNS), str(len(seeds))))
    return table(("model", "valid boxes", "box accuracy", "answer accuracy", READING, *TURNS.values(), "seeds"), rows)


def _losses(cells: dict[str, Seeds]) -> list[tuple[Seeds, str, str]]:
    """Return the rows of the table of the losses: cell, place and title."""
    rows = [(cells["losses"], row, title) for row, title in LOSSES.items()]
    if "losses-slow" in cells:
        rows.insert(1 + len(PAPER_ROWS), (cells["losses-slow"], SLOW, SLOW_TITLE))
    return rows


def _reading(outcomes: Sequence[Outcomes]) -> str:
    """Return the values of the column READING; nothing for methods without a right box."""
    has_boxes = all(accuracy(one, "box_accuracy") > 0 for one in outcomes)
    return show_values([100 * answers_at_right_boxes(one) for one in outcomes]) if has_boxes else ""


def courses(cells: dict[str, Seeds]) -> str:
    """Return the table of the whole curves, the mean over the seeds of each tenth of the training."""
    rows = []
    for seeds, row, title in _losses(cells):
        for place in _places(seeds, row):
            curves = [value_at(figures[row]["likelihoods"], place.split()) for figures in seeds.values()]
            rows.append(
                (f"{title}: {TURNS[place]}", *(f"{sum(part) / len(part):+.2f}" for part in zip(*curves, strict=True)))
            )
    return table(("log pi of", *(f"{100 * (k + 1) // PARTS} %" for k in range(PARTS))), rows)


def _places(seeds: Seeds, row: str) -> list[str]:
    """Return the curves that a row has: RL1 learns no response, SFT nothing from pairs."""
    steps = next(iter(seeds.values()))[row].get("likelihoods", {})
    return [place for place in TURNS if place.split()[0] in steps]


def grid(figures: Any) -> str:
    """Return the table of the trials of a loss on split val; those chosen are marked."""
    rows = []
    for trial in figures["trials"]:
        mark = " (chosen)" if trial["options"] == figures.get(trial["stage"]) else ""
        accuracies = [f"{100 * trial[name]:.1f}" for name in ("valid", *ACCURACIES)]
        places = [place.split() for place in TURNS]
        changes = [f"{trial[step][side][-1]:+.2f}" if step in trial else "" for step, side in places]
        rows.append((trial["stage"] + mark, *(trial["options"][name] for name in OPTIONS), *accuracies, *changes))
    head = ("stage", "learning rate", "beta", "epochs", "valid boxes", "box accuracy", "answer accuracy")
    return table((*head, *TURNS.values()), rows)


def validity(cells: dict[str, Seeds]) -> str:
    """Return Table 3."""
    by_rows = {n: cells[f"validity-{n}"] for n in SFT_ROWS if f"validity-{n}" in cells}
    rows = [
        (str(n), *(show(at, f"model all {name}") for name in ("valid", *ACCURACIES)), str(len(at)))
        for n, at in by_rows.items()
    ]
    return table(("SFT rows", "valid boxes", "box accuracy", "answer accuracy", "seeds"), rows)


def clean(seeds: Seeds) -> str:
    """Return the table of RL from a warm-up without faults."""
    rows = [
        (title, *(show(seeds, f"{row} all {name}") for name in ("valid", *ACCURACIES)), _reading(_outcomes(seeds, row)))
        for row, title in (("sft", f"SFT, {CLEAN_ROWS} rows"), ("rl1", "+ RL1"), ("rl2", "+ RL1 + RL2"))
    ]
    return table(("model", "valid boxes", "box accuracy", "answer accuracy", READING), rows)


def baselines(cells: dict[str, Seeds]) -> str:
    """Return Table 5. All rows are of the same questions, the first ones of those behind the losses."""
    of = {title: _outcomes(cells[name], "model") for name, title in BASELINES.items() if name in cells}
    if "rounds" in cells:  # model 1 of the rounds is the full method
        of["RL1, then RL2 (full)"] = _outcomes(cells["rounds"], "models 1")
    if "losses" in cells:
        like = next(iter(cells["rl2-alone"].values()))["model"]["outcomes"]
        full = _outcomes(cells["losses"], "paper-rl2")
        of["RL1, then RL2 (full), by the paper's DPO"] = [first_questions(one, like) for one in full]
    rows = [
        (
            title,
            _boxes(outcomes),
            show_values([100 * accuracy(one, "answer") for one in outcomes]),
            _reading(outcomes),
            str(len(outcomes)),
        )
        for title, outcomes in of.items()
    ]
    return table(("method", "box accuracy", "answer accuracy", READING, "seeds"), rows)


def _boxes(outcomes: Sequence[Outcomes]) -> str:
    """Return the box accuracy; nothing for methods without a box."""
    shares = [accuracy(one, "box_accuracy") for one in outcomes]
    return show_values([100 * share for share in shares]) if any(shares) else ""


def _outcomes(seeds: Seeds, place: str) -> list[Outcomes]:
    return [value_at(figures, [*place.split(), "outcomes"]) for figures in seeds.values()]


def pairs(cells: dict[str, Seeds]) -> str:
    """Return Table 6."""
    rows = [
        (title, questions(at), show(at, "pairs", 1, 0), *(show(at, share, 1) for share in SHARES), str(len(at)))
        for at, title in ((cells[name], title) for name, title in RUNS.items() if name in cells)
    ]
    return table(("run", "questions", "pairs", *SHARES.values(), "seeds"), rows)


def lose_choices(cells: dict[str, Seeds]) -> str:
    """Return the table of --lose: the pairs that each choice gives, and RL1 on them under two losses."""
    rows = []
    for name, at in ((name, cells[name]) for name in LOSE_CELLS if name in cells):
        quality = (show(at, "pairs", 1, 0), show(at, "controller_loses", 1), show(at, "WP-LN", 1),
                   show(at, "lose_shape_auc", 1, 3))  # fmt: skip
        for row in LOSE_MODELS:
            accuracies = [show(at, f"{row} all {name}") for name in ("valid", *ACCURACIES)]
            changes = [show(at, f"{row} likelihoods focus {side} -1", 1, 2) for side in ("chosen", "rejected")]
            rows.append((name.removeprefix("lose-"), *quality, LOSSES[row], *accuracies, *changes, str(len(at))))
    return table(
        ("--lose", "pairs", "lose boxes from the controller", "WP-LN", "AUC of the shape", "model", "valid boxes",
         "box accuracy", "answer accuracy", "box, chosen", "box, rejected", "seeds"), rows
    )  # fmt: skip


def rounds(seeds: Seeds) -> str:
    """Return Figure 4 as a table: model k was trained for k rounds."""
    rows = []
    for k in range(ROUNDS + 1):
        accuracies = [show(seeds, f"models {k} all {name}") for name in ("valid", *ACCURACIES)]
        pairs_of_k = (
            [show(seeds, f"models {k} {name}", 1, n) for name, n in (("pairs", 0), ("WP-LN", 1))] if k < ROUNDS else []
        )
        rows.append((str(k), *accuracies, *(pairs_of_k or ("", ""))))
    return table(
        ("rounds trained", "valid boxes", "box accuracy", "answer accuracy", "pairs it made", "their WP-LN"), rows
    )


def has_variants(cells: dict[str, Seeds]) -> bool:
    """Say whether rounds by another schedule than the preset's are among the cells."""
    return any(f"rounds{name}{suffix}" in cells for name in VARIANTS for suffix in STAGES)


def schedules(cells: dict[str, Seeds]) -> str:
    """Return the table of the last models of all schedules, with their differences from the preset's."""
    rows = []
    for suffix, stages in STAGES.items():
        for name, title in SCHEDULES.items():
            cell, last = f"rounds{name}{suffix}", f"models {ROUNDS}"
            if cell not in cells:
                continue
            accuracies = [show(cells[cell], f"{last} all {figure}") for figure in ("valid", *ACCURACIES)]
            found = [compare(cells, f"{cell} {last}", f"rounds{suffix} {last}", figure) for figure in ACCURACIES]
            gains = [one.gain if one and name else "" for one in found]
            rows.append((title, stages, *accuracies, *gains, str(len(cells[cell]))))
    return table(
        ("schedule", "stages", "valid boxes", "box accuracy", "answer accuracy", "boxes, minus the preset's",
         "answers, minus the preset's", "seeds"), rows
    )  # fmt: skip


def second_round(seeds: Seeds) -> str:
    """Return the table of the second round, stage by stage and by other options of its RL2."""
    rows = [
        (title, *(show(seeds, f"{row} all {figure}") for figure in ("valid", *ACCURACIES)))
        for row, title in SECOND_ROUND.items()
    ]
    return table(("model", "valid boxes", "box accuracy", "answer accuracy"), rows)
