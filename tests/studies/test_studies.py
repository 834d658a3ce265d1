"""The studies' own code: cells are made once and survive a cut; tables and verdicts follow from the cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies import __main__ as study
from studies import claims, render, tables, values
from studies.cells import CELLS
from studies.outcomes import difference_interval, outcomes, pair_interval, pair_outcomes
from studies.weights import shipped_weights
from studies.workspace import Workspace
from visrl_data.core.config import GenConfig
from visrl_data.core.versions import library_versions
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.executors import generation


def figures(box: float, answer: float) -> dict:
    """Of 100 questions a level, the first ones right."""
    shares = {"box_accuracy": box, "answer": answer}
    right = {name: "1" * round(100 * share) + "0" * (100 - round(100 * share)) for name, share in shares.items()}
    levels = [level for level in tables.LEVELS if level != "all"]
    return {level: shares | {"valid": 1.0} for level in tables.LEVELS} | {"outcomes": dict.fromkeys(levels, right)}


OTHER_WEIGHTS = {"base": "0", "actor": "0"}


def keep(
    folder: Path, cell: str, seed: int, found: dict, weights: dict[str, str] | None = None, torch: str = "2.13.0"
) -> None:
    folder.mkdir(exist_ok=True)
    record = {"cell": cell, "seed": seed, "figures": found, "weights": weights or shipped_weights()}
    record["versions"] = {"torch": torch}
    (folder / f"{cell}-{seed}.json").write_text(json.dumps(record))


def keep_stages(folder: Path, rl1: list[float]) -> None:
    for seed, box in enumerate(rl1):
        rows = {"sft": figures(0.5, 0.5), "rl1": figures(box, 0.6), "rl2": figures(0.7, 0.7), "base": figures(0, 0.1)}
        rows["rl2-alone"] = figures(0.6, 0.6)
        keep(folder, "stages", seed, rows)


def test_mean_and_interval_are_students():
    """By hand: mean 2, s = 1, t(0.975, 2) = 4.3027, so half = 4.3027 / sqrt(3)."""
    mean, half = values.mean_and_half([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(2.4841, abs=1e-4))
    assert values.mean_and_half([5.0]) == (5.0, None)


@pytest.mark.parametrize(
    ("rl1", "difference", "over_seeds", "verdict"),
    [
        ([0.6, 0.61, 0.62], "+11.0", "+8.5 to +13.5", "confirmed"),
        ([0.4, 0.39, 0.38], "-11.0", "-13.5 to -8.5", "refuted"),
        ([0.4, 0.6, 0.5], "+0.0", "-24.8 to +24.8", "open"),
        ([0.6], "+10.0", "", "one seed: no verdict"),
    ],
)
def test_a_claim_is_judged_by_its_intervals(tmp_path, rl1, difference, over_seeds, verdict):
    keep_stages(tmp_path, rl1)
    row = [cell.strip() for cell in claim_row(tmp_path, "RL1 raises box accuracy over SFT")]
    assert (row[1], row[3], row[6]) == (difference, over_seeds, verdict)


def claim_row(results: Path, claim: str) -> list[str]:
    lines = claims.verdicts(values.load(results)).splitlines()
    return next(line for line in lines if line.startswith(f"| {claim} |")).strip("| ").split("|")


def test_seeds_that_agree_do_not_confirm_what_other_questions_could_turn(tmp_path):
    """One question in 300 more is right, in each of three seeds: sure over the seeds, not over the questions."""
    keep_stages(tmp_path, [0.51, 0.51, 0.51])
    for seed in range(3):
        cell = json.loads((tmp_path / f"stages-{seed}.json").read_text())
        for level in ("relation", "superlative"):
            for row in ("all", level):
                cell["figures"]["rl1"][row]["box_accuracy"] = 0.5033 if row == "all" else 0.5
            cell["figures"]["rl1"]["outcomes"][level] = cell["figures"]["sft"]["outcomes"][level]
        (tmp_path / f"stages-{seed}.json").write_text(json.dumps(cell))
    row = claim_row(tmp_path, "RL1 raises box accuracy over SFT")
    assert row[3].strip() == "+0.3 to +0.3" and row[6].strip() == "open"


def test_an_interval_over_questions_pairs_them():
    """Right on the same questions and one in ten more: never below 0. Right on others: wide, around 0."""
    level = {"answer": "1" * 20 + "0" * 20}
    more = {"answer": "1" * 24 + "0" * 16}
    others = {"answer": "0" * 20 + "1" * 20}
    low, high = difference_interval([{"a": more}], [{"a": level}], "answer")
    assert low > 0 and high < 0.25
    low, high = difference_interval([{"a": others}], [{"a": level}], "answer")
    assert low < -0.2 and high > 0.2


def test_outcomes_are_read_from_an_evaluation(tmp_path):
    """The evaluation of Spotlight that is asked in two steps, not the baseline of the same weights."""
    report = evaluate.evaluate(
        ["spotlight-base"],
        ["spotlight"],
        EvalConfig(split="test", limit=12, device="cpu", baseline=True),
        tmp_path / "eval",
    )
    for entry in report["models"]:
        found = outcomes(tmp_path / "eval", entry["digest"], entry["steps"])
        assert sum(len(level["answer"]) for level in found.values()) == 12
        for group, level in found.items():
            figures = entry["figures"][f"spotlight-{group}"]
            assert level["answer"].count("1") / len(level["answer"]) == pytest.approx(figures["answer"])
            if entry["steps"] == 2:
                assert level["box_accuracy"].count("1") / len(level["answer"]) == pytest.approx(figures["box_accuracy"])


def test_a_claim_without_its_cells_is_not_judged(tmp_path):
    keep_stages(tmp_path, [0.6])
    row = [cell.strip() for cell in claim_row(tmp_path, "good pairs grow in round 2")]
    assert row[1:] == ["", "+3.2", "", "", "", "not run yet"]


def test_results_show_every_cell_that_is_there(tmp_path):
    keep_stages(tmp_path, [0.6, 0.61, 0.62])
    keep(tmp_path, "validity-0", 0, {"model": figures(0.0, 0.0)})
    text = render.render(tmp_path)
    assert "| + RL1 | 61.0 ± 2.5 | 61.0 ± 2.5 | 61.0 ± 2.5 | 61.0 ± 2.5 | 3 |" in text
    assert "| 0 | 100.0 | 0.0 | 0.0 | 1 |" in text
    assert "Table 5" not in text and "Seeds: 0, 1, 2" in text


def test_cells_of_other_weights_are_not_shown(tmp_path):
    keep(tmp_path, "validity-25", 0, {"model": figures(0.0, 0.0)}, OTHER_WEIGHTS)
    keep(tmp_path, "validity-0", 1, {"model": figures(0.3, 0.0)})
    text = render.render(tmp_path)
    assert "| 0 | 100.0 | 30.0 | 0.0 | 1 |" in text and "| 25 |" not in text and "Seeds: 1 " in text


def test_cells_of_another_machine_are_named(tmp_path):
    for seed in (0, 1):
        keep(tmp_path, "validity-0", seed, {"model": figures(0.3, 0.0)})
    assert "Two machines" not in render.render(tmp_path)
    keep(tmp_path, "validity-0", 2, {"model": figures(0.3, 0.0)}, torch="2.11.0")
    assert "- torch 2.11.0: validity-0-2\n" in render.render(tmp_path)


def test_losses_grid_and_transfer_are_shown_when_there(tmp_path):
    change = {step: {"chosen": [-0.5, 1.25], "rejected": [-1.0, -7.5]} for step in ("focus", "response")}
    trained = {row: figures(0.6, 0.6) | {"likelihoods": change} for row in tables.ROWS[1:]}
    trained["paper-rl1"]["likelihoods"] = {"focus": change["focus"]}
    options = {"beta": "0.1", "epochs": "3", "rate": "1e-4"}  # as they lie in a file, in order of name
    trial = {"stage": "rl1", "options": options, "valid": 0.5, "box_accuracy": 0.4, "answer": 0.3} | change
    rows = {row: figures(0.5, 0.5) for row in ("sft", "rl1", "rl2", "rl2-alone", "base")}
    for cell, found in {
        "stages": rows,
        "stages-transfer": rows,
        "losses": trained | {"sft": figures(0.5, 0.5)},
        "grid": {"trials": [trial], "rl1": options, "rl2": options},
        "grid-both": {"trials": [trial | {"answer": 0.35}]},
    }.items():
        keep(tmp_path, cell, 0, found, weights=shipped_weights())
    text = render.render(tmp_path)
    assert "| model | attribute | relation | superlative | all | seeds | transfer | seeds |" in text
    assert "| RL1, the paper's DPO | 100.0 | 60.0 | 60.0 | 100.0 | 1.25 | -7.50 |  |  |" in text
    assert "| rl1 (chosen) | 1e-4 | 0.1 | 3 | 50.0 | 40.0 | 30.0 | +1.25 | -7.50 | +1.25 | -7.50 |" in text
    assert "| rl1 | 1e-4 | 0.1 | 3 | 50.0 | 40.0 | 35.0 |" in text
    assert "| RL1 raises box accuracy over SFT, by the paper's loss | +10.0 | +3.6 |" in text
    assert "| RL1 + RL2, NLL of the win alone: response, rejected | -1.00 | -7.50 |" in text
    assert "RL1, the paper's DPO: response" not in text
    assert text.count("| RL1, the paper's DPO |") == 3


def test_the_results_page_is_current():
    assert (render.ROOT / "RESULTS.md").read_text(encoding="utf-8") == render.render(render.ROOT / "results")


def test_every_cell_behind_the_results_is_one_that_can_be_made():
    for path in (render.ROOT / "results").glob("*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        assert cell["cell"] in CELLS and path.name == f"{cell['cell']}-{cell['seed']}.json"
        assert cell["digests"] and all(one.startswith(("visrl ", "cp -r runs/")) for one in cell["commands"])


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """A workspace whose commands only leave a manifest, and note that they were run."""
    ran = []

    def run(self, words) -> None:
        ran.append(words)
        folder = self.folder / words[words.index("-o") + 1]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(" ".join(words))

    monkeypatch.setattr(Workspace, "_execute", run)
    space = Workspace(tmp_path / "seed3", 3)
    space.ran = ran
    return space


def test_a_cell_names_the_commands_behind_it_and_shares_their_output(workspace, tmp_path, monkeypatch):
    def first(at: Workspace) -> dict:
        return {"at": str(at.run("models/a", "train", "rl1", "--data", str(at.run("runs/full", "gen"))))}

    monkeypatch.setitem(study.CELLS, "first", first)
    monkeypatch.setitem(study.CELLS, "second", lambda at: {"at": str(at.run("runs/full", "gen"))})
    for name in ("first", "second", "first"):
        study.fill(workspace, name, tmp_path / "results")
    assert len(workspace.ran) == 2
    one, two = (json.loads((tmp_path / f"results/{name}-3.json").read_text()) for name in ("first", "second"))
    assert one["versions"]["torch"] == library_versions()["torch"]
    assert one["commands"] == [
        "visrl gen -o runs/full --seed 3",
        "visrl train rl1 --data runs/full -o models/a --seed 3",
    ]
    assert two["commands"] == one["commands"][:1]
    assert set(one["digests"]) == {"runs/full", "models/a"} and two["digests"].items() < one["digests"].items()


def test_a_cell_of_other_weights_is_computed_again(workspace, tmp_path, monkeypatch):
    monkeypatch.setitem(study.CELLS, "first", lambda at: {"at": str(at.run("runs/full", "gen"))})
    keep(tmp_path / "results", "first", 3, {"at": "of other weights"}, OTHER_WEIGHTS)
    study.fill(workspace, "first", tmp_path / "results")
    cell = json.loads((tmp_path / "results/first-3.json").read_text())
    assert cell["figures"] == {"at": "runs/full"} and cell["weights"] == shipped_weights()


def test_hyperparameters_are_chosen_once_and_before_the_other_cells(tmp_path, monkeypatch):
    made = []
    for name in ("losses", "grid", "grid-both"):
        monkeypatch.setitem(study.CELLS, name, lambda at, name=name: made.append((name, at.seed)) or {})
    folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["studies", "--cells", "losses,grid,grid-both", "--seeds", "1,2", *folders])
    study.main()
    assert made == [("grid", 0), ("grid-both", 0), ("losses", 1), ("losses", 2)]
    study.main()
    assert len(made) == 4


def test_a_cell_that_fails_leaves_no_file(workspace, tmp_path, monkeypatch):
    def broken(_) -> dict:
        raise RuntimeError("no")

    monkeypatch.setitem(study.CELLS, "broken", broken)
    with pytest.raises(RuntimeError):
        study.fill(workspace, "broken", tmp_path / "results")
    assert not list((tmp_path / "results").glob("*")) if (tmp_path / "results").exists() else True


def test_an_interval_of_pairs_weighs_each_question_with_its_pairs():
    """50 % good of 40 pairs against 50 % of 20: no difference in share, 20 pairs a run more, for sure."""
    above, below = ["+0" * 20 + "-" * 10], ["+-0-" * 10 + "-" * 10]
    low, high = pair_interval(above, below, "WP-LN")
    assert low < -10 and high > 10
    low, high = pair_interval(above, below, "pairs")
    assert low > 10 and high < 30
    assert pair_interval(["+" * 30], ["0" * 30], "WP-LN") == (100, 100)


def test_pair_outcomes_agree_with_the_runs_own_report(tmp_path):
    run = generation.generate(GenConfig(limit=12, device="cpu"), tmp_path / "run")
    report = json.loads((run.path / "report.json").read_text())
    found = pair_outcomes(run.path)
    assert len(found) == 12 and 12 - found.count("-") == report["yields"]["all"]["pairs"] > 0
    assert found.count("+") == report["audit"]["pairs"]["cells"]["WP-LN"]["count"]
