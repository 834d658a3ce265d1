"""List the paper's claims and what the method's parts are compared with; judge them by the cells.

Used by template.md and power.py. A claim is (text, the larger side, the smaller side, the figure); comparison.py says
what a side is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from studies import paper
from studies.attribution import SLOW
from studies.comparison import ACCURACIES, compare, span
from studies.methods import ROUNDS
from studies.values import Seeds, questions, show, table

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
    ("good pairs (WP-LN) fall without the diversity controller", "pairs-full-more", "pairs-no-diversity-more", "WP-LN"),
    ("good pairs fall further without the box critic", "pairs-no-diversity", "pairs-no-box-critic", "WP-LN"),
    ("good pairs fall without the box critic", "pairs-full", "pairs-no-box-critic", "WP-LN"),
    ("good pairs grow in round 2", "pairs-round2-more", "pairs-full-more", "WP-LN"),
    ("four rounds raise box accuracy over SFT", "rounds models 4", "rounds models 0", "box_accuracy"),
    ("four rounds raise answer accuracy over SFT", "rounds models 4", "rounds models 0", "answer"),
    ("box accuracy grows from round 1 to round 4", "rounds models 4", "rounds models 1", "box_accuracy"),
    ("answer accuracy grows from round 1 to round 4", "rounds models 4", "rounds models 1", "answer"),
    ("the number of pairs grows over the rounds", "rounds models 3", "rounds models 0", "pairs"),
)
BLIND = ("stages base", *(f"{method} model" for method in ("sft-answers", "dpo-answers", "kto-answers", "rloo-model")))
"""Sides that see no crop, in which alone a character can be read here: claims against them hold by construction."""
SEEING = tuple(claim for claim in CLAIMS if claim[2] not in BLIND)
PAPERS_LOSS = {
    "stages rl1": "losses paper-rl1",
    "stages rl2": "losses paper-rl2",
    "stages rl2-alone": "rl2-alone-paper model",
    "rl2-alone model": "rl2-alone-paper model",
    "pairs-round2-more": "pairs-round2-paper-more",
    **{f"rounds models {k}": f"rounds-paper models {k}" for k in range(ROUNDS + 1)},
}
"""A side that was trained by the preset's loss -> the same by the paper's."""
PAPER_CLAIMS = tuple(
    (f"{text}, by the paper's loss", PAPERS_LOSS[above], PAPERS_LOSS.get(below, below), figure)
    for text, above, below, figure in CLAIMS
    if above in PAPERS_LOSS
)
SEEING_PAPER = tuple(claim for claim in PAPER_CLAIMS if claim[2] not in BLIND)
SLOW_SIDE = f"losses-slow {SLOW}"
LOSS_CLAIMS = tuple(
    (text, f"losses {above}", f"losses {below}", figure)
    for text, above, below, figure in (
        ("RL1 raises box accuracy over SFT, by the NLL of the win alone", "win-rl1", "sft", "box_accuracy"),
        ("RL2 raises answer accuracy over RL1, by the NLL of the win alone", "win-rl2", "win-rl1", "answer"),
        ("RL1: DPO + NLL of the win points better than the NLL alone", "both-rl1", "win-rl1", "box_accuracy"),
        ("RL1: DPO + NLL of the win answers better than the NLL alone", "both-rl1", "win-rl1", "answer"),
        ("RL1 and RL2: DPO + NLL of the win points better than the NLL alone", "both-rl2", "win-rl2", "box_accuracy"),
        ("RL1 and RL2: DPO + NLL of the win answers better than the NLL alone", "both-rl2", "win-rl2", "answer"),
        ("RL1: DPO + NLL of the win points better than DPO alone", "both-rl1", "paper-rl1", "box_accuracy"),
        ("RL1 and RL2: DPO + NLL of the win answers better than DPO alone", "both-rl2", "paper-rl2", "answer"),
        ("RL1: DPO alone points better than the NLL of the win alone", "paper-rl1", "win-rl1", "box_accuracy"),
        ("RL1: DPO alone answers better than the NLL of the win alone", "paper-rl1", "win-rl1", "answer"),
        ("RL1 and RL2: DPO alone answers better than the NLL of the win alone", "paper-rl2", "win-rl2", "answer"),
    )
) + tuple(
    (f"RL1 and RL2: DPO + NLL of the win {verb} better than DPO alone, RL2 at a third of its rate", "losses both-rl2",
     SLOW_SIDE, figure)
    for verb, figure in (("points", "box_accuracy"), ("answers", "answer"))
)  # fmt: skip
LOSE_CLAIMS = tuple(
    (f"RL1 points better with `{lose}` than with `uniform`, {title}", f"lose-{lose} {row}", f"lose-uniform {row}",
     "box_accuracy")
    for row, title in (("both-rl1", "DPO + NLL of the win"), ("paper-rl1", "the paper's DPO"))
    for lose in ("actor-first", "hardest")
)  # fmt: skip
CLEAN_CLAIMS = tuple(
    (f"from a warm-up without faults, {text}", f"clean {above}", f"clean {below}", figure)
    for text, above, below, figure in (
        ("RL1 raises box accuracy", "rl1", "sft", "box_accuracy"),
        ("RL1 and RL2 raise box accuracy", "rl2", "sft", "box_accuracy"),
        ("RL1 and RL2 raise answer accuracy", "rl2", "sft", "answer"),
    )
)
ROUND_CLAIMS = tuple(
    (f"{text}, {title}", f"rounds{name} models 4", f"rounds models {k}", figure)
    for name, title in (
        ("-both-nll", "RL2 by the NLL alone from round 2 on"),
        ("-rl2-nll", "RL2 by the NLL alone in all rounds"),
    )
    for text, k, figure in (
        ("round 4 points better than the preset's round 1", 1, "box_accuracy"),
        ("round 4 answers better than the preset's round 1", 1, "answer"),
        ("round 4 points better than the preset's round 4", 4, "box_accuracy"),
        ("round 4 answers better than the preset's round 4", 4, "answer"),
    )
)
"""Whether rounds without a preference in RL2 are better than one round, and four, of the preset."""
# (part of the method and what it is compared with, the side with it, the side without it)
TRAINING_PARTS = (
    ("looking first: SFT against the base without a box", "stages sft", "stages base"),
    ("RL1 against SFT", "stages rl1", "stages sft"),
    ("RL2 against RL1", "stages rl2", "stages rl1"),
    ("RL1 and RL2 against SFT", "stages rl2", "stages sft"),
    ("RL2 without RL1, against SFT", "stages rl2-alone", "stages sft"),
    ("RL1 before RL2: the full method against RL2 alone", "stages rl2", "stages rl2-alone"),
    ("the paper's DPO: RL1 against SFT", "losses paper-rl1", "losses sft"),
    ("the paper's DPO: RL2 against RL1", "losses paper-rl2", "losses paper-rl1"),
    ("the same, a third of the learning rate in RL2", SLOW_SIDE, "losses paper-rl1"),
    ("the NLL of the win alone: RL1 against SFT", "losses win-rl1", "losses sft"),
    ("the NLL of the win alone: RL2 against RL1", "losses win-rl2", "losses win-rl1"),
    ("DPO in the loss: RL1 against the NLL alone", "losses both-rl1", "losses win-rl1"),
    ("DPO in the loss: RL1 and RL2 against the NLL alone", "losses both-rl2", "losses win-rl2"),
    ("DPO in RL2 alone, after the same RL1", "rounds models 1", "rounds-rl2-nll models 1"),
    ("the NLL in the loss: RL1 against DPO alone", "losses both-rl1", "losses paper-rl1"),
    ("the NLL in the loss: RL1 and RL2 against DPO alone", "losses both-rl2", "losses paper-rl2"),
    ("the same, against a third of the learning rate in RL2", "losses both-rl2", SLOW_SIDE),
    ("three more rounds: round 4 against round 1", "rounds models 4", "rounds models 1"),
    ("the same, RL2 by the NLL of the win alone from round 2 on", "rounds-both-nll models 4", "rounds models 1"),
    ("the same, RL2 by the NLL of the win alone in all rounds", "rounds-rl2-nll models 4", "rounds models 1"),
    ("RL1 alone, three more rounds", "rounds-rl1 models 4", "rounds-rl1 models 1"),
    ("the paper's DPO, three more rounds", "rounds-paper models 4", "rounds-paper models 1"),
)
PAIR_PARTS = (
    ("the diversity controller", "pairs-full-more", "pairs-no-diversity-more"),
    ("the box critic", "pairs-full", "pairs-no-box-critic"),
    ("a model as response critic, against exact match", "pairs-full", "pairs-exact-match"),
    ("the original model as critic, against the SFT model", "pairs-full", "pairs-sft-critic"),
    ("the original model as critic, against an SFT of all weights", "pairs-full", "pairs-full-sft-critic"),
    ("the same, SFT at ten times the learning rate", "pairs-full", "pairs-overwritten-critic"),
    ("a trained actor: round 2 against round 1", "pairs-round2-more", "pairs-full-more"),
)


def verdicts(cells: dict[str, Seeds], claims: Sequence[tuple[str, ...]] = CLAIMS) -> str:
    """Return a table of each claim: its difference beside the paper's, its two intervals and its verdict."""
    head = ("claim", "difference", "the paper's", "over seeds", "over questions", "seeds", "verdict")
    return table(head, [_verdict(cells, *claim) for claim in claims])


def tally(cells: dict[str, Seeds], claims: Sequence[tuple[str, ...]] = CLAIMS) -> str:
    """Return the number of claims under each verdict: "18 confirmed, 3 open, 1 refuted"."""
    counts = Counter(_verdict(cells, *claim)[-1] for claim in claims)
    return ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))


def _verdict(cells: dict[str, Seeds], text: str, *sides: str) -> tuple[str, ...]:
    found, papers = compare(cells, *sides), paper.difference(*sides)
    if found is None:
        return (text, "", papers, "", "", "", "not run yet")
    over_seeds = span(found.over_seeds) if found.over_seeds else ""
    return (text, f"{found.mean:+.1f}", papers, over_seeds, span(found.over_questions), str(found.seeds), found.verdict)


def training_parts(cells: dict[str, Seeds]) -> str:
    """Return a table of what each part of the training adds to boxes and answers, beside the paper's differences."""
    rows = []
    for part, above, below in TRAINING_PARTS:
        found = {figure: compare(cells, above, below, figure) for figure in ACCURACIES}
        columns = [
            text
            for figure, one in found.items()
            for text in ((one.gain, paper.difference(above, below, figure)) if one else ("", ""))
        ]
        if found["answer"]:
            rows.append((part, *columns, str(found["answer"].seeds)))
    return table(("part", "boxes", "the paper's", "answers", "the paper's", "seeds"), rows)


def pair_parts(cells: dict[str, Seeds]) -> str:
    """Return a table of what each part of the generation adds to the share of good pairs, and the numbers of pairs."""
    rows = []
    for part, above, below in PAIR_PARTS:
        seeds = set(cells.get(above, {})) & set(cells.get(below, {}))
        if seeds:
            found = compare(cells, above, below, "WP-LN")  # None when a run made no pairs
            numbers = " / ".join(show(cells[side], "pairs", 1, 0) for side in (above, below))
            papers = f"{paper.PAIRS[above]}k / {paper.PAIRS[below]}k" if below in paper.PAIRS else ""
            share = (found.gain if found else "", paper.difference(above, below, "WP-LN"))
            rows.append((part, *share, numbers, papers, questions(cells[above]), str(len(seeds))))
    return table(
        ("part", "good pairs", "the paper's", "pairs with / without", "the paper's", "questions", "seeds"), rows
    )
