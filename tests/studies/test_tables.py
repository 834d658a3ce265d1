"""The tables of RESULTS.md say of how many seeds each row is, and show what is there of cells that are not complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from studies import render, tables
from studies.cells import CELLS
from studies.outcomes import answers_at_right_boxes
from studies.weights import shipped_weights
from tests.studies.test_claims import row_of, run, side


def rounds(last: int) -> dict:
    models = [side(50) | {"pairs": 40, "WP-LN": 75.0} for _ in range(4)]
    return {"models": [*models, side(last) | {"pairs": None, "WP-LN": None}]}


def by_level(right: int) -> dict:
    evaluation = side(right)
    return evaluation | dict.fromkeys(evaluation["outcomes"], evaluation["all"])


def test_stages_have_the_papers_loss_and_transfer_each_with_its_seeds():
    stages = {"sft": by_level(50), "rl1": by_level(60)}
    paper = {"paper-rl1": by_level(55), "paper-rl2": by_level(56)}
    cells = {
        "stages": dict.fromkeys(range(5), stages),
        "stages-transfer": dict.fromkeys(range(3), stages),
        "losses": dict.fromkeys(range(2), paper),
    }
    rows = {"sft": "SFT", "rl1": "+ RL1"}
    table = tables.stages(cells, "answer", rows)
    assert row_of(table, "+ RL1")[4:] == ["60.0 ± 0.0", "5", "60.0 ± 0.0", "3"]
    assert row_of(table, "RL1, the paper's DPO")[4:] == ["55.0 ± 0.0", "2", "", ""]
    cells["losses-transfer"] = {0: paper}
    assert row_of(tables.stages(cells, "answer", rows), "RL1, the paper's DPO")[6:] == ["55.0", "1"]
    assert "transfer" not in tables.stages({"stages": cells["stages"]}, "answer", rows)


def test_methods_are_compared_on_the_same_questions():
    """The losses were evaluated on twice the questions: 60 of 200 right, 60 of the first 100."""
    cells = {
        "rl2-alone": {0: {"model": side(70)}, 1: {"model": side(72)}},
        "losses": {0: {"paper-rl2": side(60, 200)}},
    }
    table = tables.baselines(cells)
    assert row_of(table, "RL1, then RL2 (full), by the paper's DPO")[1:] == ["60.0", "60.0", "100.0", "1"]
    assert row_of(table, "RL2 without RL1")[4] == "2"


def test_answers_at_right_boxes_are_a_share_of_those_alone():
    """Three boxes are right in two levels, two of them answered; methods without a box have no such share."""
    found = {"a": {"box_accuracy": "110", "answer": "101"}, "b": {"box_accuracy": "01", "answer": "01"}}
    assert answers_at_right_boxes(found) == pytest.approx(2 / 3)
    none = {level: {"box_accuracy": "000", "answer": "101"} for level in "ab"}
    table = tables.baselines({"sft-answers": {0: {"model": {"outcomes": none}}}})
    row = row_of(table, "answer-only SFT")
    assert (row[1], row[3]) == ("", "")


def test_transfer_shows_how_right_crops_are_read_there():
    """Box and answer are right on the same 60 questions a level, so all that are looked at rightly are read."""
    cells = {"stages-transfer": {0: {"sft": side(50), "rl1": side(60), "rl2": side(70)}}}
    table = tables.transfer(cells)
    assert row_of(table, "+ RL1")[1:] == ["100.0", "60.0", "60.0", "100.0", "1"]
    assert "DPO" not in table
    cells["losses-transfer"] = {0: {"paper-rl1": side(55), "paper-rl2": side(56)}}
    assert row_of(tables.transfer(cells), "RL1 + RL2, the paper's DPO")[2] == "56.0"


def test_schedules_are_compared_with_the_presets_over_common_seeds():
    cells = {"rounds": {0: rounds(60), 1: rounds(62), 2: rounds(99)}, "rounds-lower": {0: rounds(70), 1: rounds(72)}}
    assert tables.has_variants(cells) and not tables.has_variants({"rounds": cells["rounds"]})
    table = tables.schedules(cells)
    lower = row_of(table, "the learning rate halved each round")
    assert lower[1] == "RL1 and RL2" and lower[5].startswith("+10.0 (") and lower[-1] == "2"
    assert row_of(table, "the preset")[5:] == ["", "", "3"]
    assert "RL1 alone" not in table


def figures_of(cell: str) -> dict:
    """What a cell could have found."""
    course = {step: {side: [-0.5, 0.25] for side in ("chosen", "rejected")} for step in ("focus", "response")}
    options = {"rate": "1e-4", "beta": "0.1", "epochs": "3"}
    if cell.startswith("grid"):
        trial = {"stage": "rl2", "options": options, "valid": 1.0, "box_accuracy": 0.5, "answer": 0.5} | course
        return {"trials": [trial], "rl1": options, "rl2": options}
    if cell.startswith("rounds"):
        return {"models": [one | {"pair_outcomes": "+0-" * 20} for one in rounds(60)["models"]]}
    if cell.startswith("pairs"):
        return run("+" * 30 + "0" * 10) | dict.fromkeys(tables.SHARES, 50.0)
    if cell == "clean":
        return run("+" * 30 + "0" * 10) | {row: by_level(50) for row in ("sft", "rl1", "rl2")}
    if cell.startswith("lose-"):
        pairs = run("+" * 30 + "0" * 10) | dict.fromkeys(("controller_loses", *tables.SHARES), 50.0)
        trained = by_level(50) | {"likelihoods": course}
        return pairs | {"lose_shape_auc": 0.5, "both-rl1": trained, "paper-rl1": trained}
    rows = {
        "stages": ("sft", "rl1", "rl2", "rl2-alone", "base"),
        "losses": (*tables.ROWS, tables.SLOW),
        "second": tables.SECOND_ROUND,
    }.get(cell.split("-")[0], ("model",))
    return {row: by_level(50) | {"likelihoods": course} for row in rows}


def test_all_cells_together_fill_the_page_whatever_their_seeds(tmp_path: Path):
    for number, cell in enumerate(CELLS):
        for seed in range(1 + number % 3):
            record = {"cell": cell, "seed": seed, "figures": figures_of(cell), "weights": shipped_weights()}
            record["versions"] = {"torch": "2.13.0"}
            (tmp_path / f"{cell}-{seed}.json").write_text(json.dumps(record))
    variants = {f"rounds{name}{suffix}" for name in tables.VARIANTS for suffix in tables.STAGES} & set(CELLS)
    text = render.render(tmp_path)
    titles = (
        "parts are worth",
        "loss taken apart",
        "best chance",
        "keeps the rounds stable",
        "loses the format",
        "Figure 4",
    )
    for title in (*titles, *(f"Table {k}" for k in range(2, 7))):
        assert re.search(f"## .*{title}", text), title
    assert text.count("<details>") == text.count("</details>") == 1 + len(variants)
    assert "not run yet" not in text and "None" not in text and "\n\n\n\n" not in text


def test_a_folder_without_cells_gives_a_page_without_tables(tmp_path: Path):
    text = render.render(tmp_path)
    assert "Table 2" not in text and "not run yet" in text
