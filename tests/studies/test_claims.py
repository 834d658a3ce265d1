"""Claims and parts: paired over the seeds and questions that both sides have, beside the paper's differences."""

from __future__ import annotations

import numpy as np
import pytest

from studies import claims, outcomes, paper
from studies.cells import CELLS
from studies.comparison import compare
from visrl_data.report.intervals import resampled_means

LEVELS = ("attribute", "relation", "superlative")


def side(right: int, of: int = 100) -> dict:
    """An evaluation whose first questions of each level are right."""
    bits = "1" * right + "0" * (of - right)
    figures = {"box_accuracy": right / of, "answer": right / of, "valid": 1.0}
    return {"all": figures, "outcomes": {level: {"box_accuracy": bits, "answer": bits} for level in LEVELS}}


def run(pairs: str) -> dict:
    """A run of so many questions: "-" no pair, "+" a good one, "0" another."""
    count = len(pairs) - pairs.count("-")
    return {"questions": len(pairs), "pair_outcomes": pairs, "pairs": count, "WP-LN": 100 * pairs.count("+") / count}


def stages(sft: int, rl1: int) -> dict:
    base = side(10)
    base["all"]["box_accuracy"] = None  # it was asked for no box
    return {"base": base, "sft": side(sft), "rl1": side(rl1), "rl2": side(70), "rl2-alone": side(60)}


def row_of(table: str, start: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells_of_other_seeds_are_compared_over_those_that_both_have():
    cells = {
        "rl2-alone": {seed: {"model": side(60 + seed)} for seed in range(5)},
        "sft-answers": {seed: {"model": side(10)} for seed in (0, 2, 7)},
    }
    found = compare(cells, "rl2-alone model", "sft-answers model", "answer")
    assert (found.seeds, found.mean) == (2, pytest.approx(51))
    row = row_of(claims.verdicts(cells), "RL2 alone answers better than answer-only SFT")
    assert row[2] == "+10.9" and row[5:] == ["2", "confirmed"]


def test_one_seed_confirms_nothing():
    row = row_of(claims.verdicts({"stages": {0: stages(50, 90)}}), "RL1 raises box accuracy over SFT")
    assert row[1:4] == ["+40.0", "+3.6", ""] and row[5:] == ["1", "one seed: no verdict"]


def test_evaluations_of_other_sizes_are_compared_on_the_questions_that_both_have():
    """The larger one is right on the first 50 of 200 questions a level: on 50 of the first 100."""
    cells = {"losses": {0: {"paper-rl2": side(50, 200)}}, "rl2-alone-paper": {0: {"model": side(40, 100)}}}
    found = compare(cells, "losses paper-rl2", "rl2-alone-paper model", "answer")
    assert (found.mean, found.questions) == (pytest.approx(10), 300)


def test_the_interval_of_a_part_holds_both():
    cells = {"stages": {seed: stages(50, rl1) for seed, rl1 in enumerate((60, 61, 62))}}
    found = compare(cells, "stages rl1", "stages sft", "box_accuracy")
    low, high = found.over_both
    assert low == min(found.over_seeds[0], found.over_questions[0]) > 0
    assert high == max(found.over_seeds[1], found.over_questions[1])
    row = row_of(claims.training_parts(cells), "RL1 against SFT")
    assert row[1:3] == [f"+11.0 ({low:+.1f} to {high:+.1f})", "+3.6"] and row[-1] == "3"


def test_a_part_without_boxes_or_cells_says_nothing_of_them():
    table = claims.training_parts({"stages": {0: stages(50, 60)}})
    assert row_of(table, "looking first: SFT against the base without a box")[1:3] == ["", ""]
    assert "NLL" not in table and "round 4" not in table


def test_parts_of_the_generation_show_good_pairs_and_their_numbers():
    cells = {
        "pairs-full-more": {0: run("+" * 30 + "0" * 10)},
        "pairs-no-diversity-more": {0: run("+" * 10 + "0" * 10 + "-" * 20)},
    }
    row = row_of(claims.pair_parts(cells), "the diversity controller")
    assert row[1].startswith("+25.0 (") and row[2:] == ["+12.6", "40 / 20", "30k / 19k", "40", "1"]
    assert "box critic" not in claims.pair_parts(cells)


@pytest.mark.parametrize(
    ("above", "below", "figure", "difference"),
    [
        ("stages rl2", "stages rl1", "answer", "+3.7"),
        ("losses paper-rl1", "losses sft", "box_accuracy", "+3.6"),
        ("stages rl2", "stages rl2-alone", "answer", "+3.7"),
        ("pairs-full", "pairs-no-box-critic", "WP-LN", "+33.6"),
        ("pairs-full-more", "pairs-no-diversity-more", "WP-LN", "+12.6"),
        ("losses both-rl1", "losses win-rl1", "box_accuracy", ""),
        ("stages rl2", "stages rl2-alone", "box_accuracy", ""),
        ("rounds models 4", "rounds models 1", "answer", "+0.3 to +1.8 a round"),
        ("rounds models 4", "rounds models 0", "answer", ""),
    ],
)
def test_the_papers_difference_is_of_the_same_rows(above, below, figure, difference):
    assert paper.difference(above, below, figure) == difference


def test_the_papers_range_is_over_its_seven_models():
    assert paper.over_models("rl1", "sft") == "+2.5 to +3.7" and len(paper.ANSWERS) == 7


def test_every_side_is_of_a_cell_that_can_be_made():
    sides = [side for _, *claim in (*claims.CLAIMS, *claims.PAPER_CLAIMS, *claims.LOSS_CLAIMS) for side in claim[:2]]
    sides += [side for _, *part in (*claims.TRAINING_PARTS, *claims.PAIR_PARTS) for side in part]
    assert {side.split()[0] for side in sides} <= set(CELLS)


def test_the_claims_by_the_papers_loss_compare_its_own_models():
    """A side that no pair trains stays: SFT, the answer-only methods, the pairs of the first round."""
    sides = {
        text.removesuffix(", by the paper's loss"): (above, below) for text, above, below, _ in claims.PAPER_CLAIMS
    }
    assert sides["RL2 raises answer accuracy over RL1"] == ("losses paper-rl2", "losses paper-rl1")
    assert sides["RL1 raises box accuracy over SFT"] == ("losses paper-rl1", "stages sft")
    assert sides["good pairs grow in round 2"] == ("pairs-round2-paper-more", "pairs-full-more")
    assert "SFT answers better than the base without a box" not in sides
    assert all("paper" in above for above, _ in sides.values())


def test_verdicts_are_counted():
    cells = {"stages": {seed: stages(50, rl1) for seed, rl1 in enumerate((60, 61, 62))}}
    listed = [claim for claim in claims.CLAIMS if claim[0].startswith(("RL1 raises", "good pairs grow"))]
    assert claims.tally(cells, listed) == "2 confirmed, 1 not run yet"


def test_kept_draws_are_those_of_the_products_intervals():
    bits = [[1, 0, 0, 1, 1], [0, 1, 1, 0, 1]]
    means = outcomes._resampled_means(np.array(bits, dtype=float), 7)
    assert np.allclose(means, resampled_means(np.array(bits, dtype=float), outcomes.RESAMPLES, 7))


def test_claims_against_methods_that_see_no_crop_are_counted_apart():
    apart = {text for text, *_ in claims.CLAIMS} - {text for text, *_ in claims.SEEING}
    assert apart == {
        "SFT answers better than the base without a box",
        *(f"RL2 alone answers better than answer-only {method}" for method in ("SFT", "DPO", "KTO", "RLOO")),
    }
    assert len(claims.PAPER_CLAIMS) - len(claims.SEEING_PAPER) == 4
