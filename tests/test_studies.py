"""The studies' own code: cells are made once and survive a cut; tables and verdicts follow from the cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies import __main__ as study
from studies import render, tables
from studies.cells import CELLS
from studies.desk import Desk


def figures(box: float, answer: float) -> dict:
    return {level: {"box_accuracy": box, "answer": answer, "valid": 1.0} for level in tables.LEVELS}


def keep(folder: Path, cell: str, seed: int, found: dict) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{cell}-{seed}.json").write_text(json.dumps({"cell": cell, "seed": seed, "figures": found}))


def keep_stages(folder: Path, rl1: list[float]) -> None:
    for seed, box in enumerate(rl1):
        rows = {"sft": figures(0.5, 0.5), "rl1": figures(box, 0.6), "rl2": figures(0.7, 0.7), "base": figures(0, 0.1)}
        keep(folder, "stages", seed, rows)


def test_mean_and_interval_are_students():
    """By hand: mean 2, s = 1, t(0.975, 2) = 4.3027, so half = 4.3027 / sqrt(3)."""
    mean, half = tables.mean_and_half([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(2.4841, abs=1e-4))
    assert tables.mean_and_half([5.0]) == (5.0, None)


@pytest.mark.parametrize(
    ("rl1", "row"),
    [
        ([0.6, 0.61, 0.62], "| RL1 raises box accuracy over SFT | +11.0 ± 2.5 | confirmed |"),
        ([0.4, 0.39, 0.38], "| RL1 raises box accuracy over SFT | -11.0 ± 2.5 | refuted |"),
        ([0.4, 0.6, 0.5], "| RL1 raises box accuracy over SFT | +0.0 ± 24.8 | open |"),
        ([0.6], "| RL1 raises box accuracy over SFT | +10.0 | one seed: no verdict |"),
    ],
)
def test_a_claim_is_judged_by_its_interval(tmp_path, rl1, row):
    keep_stages(tmp_path, rl1)
    assert row in tables.claims(tables.load(tmp_path))


def test_a_claim_without_its_cells_is_not_judged(tmp_path):
    keep_stages(tmp_path, [0.6])
    assert "| good pairs grow in round 2 |  | not run yet |" in tables.claims(tables.load(tmp_path))


def test_results_show_every_cell_that_is_there(tmp_path):
    keep_stages(tmp_path, [0.6, 0.61, 0.62])
    keep(tmp_path, "validity-0", 0, {"model": figures(0.0, 0.0)})
    text = render.render(tmp_path)
    assert "| + RL1 | 61.0 ± 2.5 | 61.0 ± 2.5 | 61.0 ± 2.5 | 61.0 ± 2.5 |" in text
    assert "| 0 | 100.0 | 0.0 |" in text
    assert "Table 5" not in text and "Seeds: 0, 1, 2" in text


def test_the_results_page_is_current():
    assert (render.ROOT / "RESULTS.md").read_text(encoding="utf-8") == render.render(render.ROOT / "results")


def test_every_cell_behind_the_results_is_one_that_can_be_made():
    for path in (render.ROOT / "results").glob("*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        assert cell["cell"] in CELLS and path.name == f"{cell['cell']}-{cell['seed']}.json"
        assert cell["commands"] and set(cell["digests"]) and all(c.startswith("visrl ") for c in cell["commands"])


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Desk:
    """A desk whose commands only leave a manifest, and note that they were run."""
    ran = []

    def run(self, words) -> None:
        ran.append(words)
        folder = self.folder / words[words.index("-o") + 1]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(" ".join(words))

    monkeypatch.setattr(Desk, "_run", run)
    made = Desk(tmp_path / "seed3", 3)
    made.ran = ran
    return made


def test_a_cell_names_the_commands_behind_it_and_shares_their_output(desk, tmp_path, monkeypatch):
    def first(at: Desk) -> dict:
        return {"at": str(at.made("models/a", "train", "rl1", "--data", str(at.made("runs/full", "gen"))))}

    monkeypatch.setitem(study.CELLS, "first", first)
    monkeypatch.setitem(study.CELLS, "second", lambda at: {"at": str(at.made("runs/full", "gen"))})
    for name in ("first", "second", "first"):
        study.fill(desk, name, tmp_path / "results")
    assert len(desk.ran) == 2
    one, two = (json.loads((tmp_path / f"results/{name}-3.json").read_text()) for name in ("first", "second"))
    assert one["commands"] == [
        "visrl gen -o runs/full --seed 3",
        "visrl train rl1 --data runs/full -o models/a --seed 3",
    ]
    assert two["commands"] == one["commands"][:1]
    assert set(one["digests"]) == {"runs/full", "models/a"} and two["digests"].items() < one["digests"].items()


def test_a_cell_that_fails_leaves_no_file(desk, tmp_path, monkeypatch):
    def broken(_) -> dict:
        raise RuntimeError("no")

    monkeypatch.setitem(study.CELLS, "broken", broken)
    with pytest.raises(RuntimeError):
        study.fill(desk, "broken", tmp_path / "results")
    assert not list((tmp_path / "results").glob("*")) if (tmp_path / "results").exists() else True
