"""The cells of --lose: one pool, filtered three ways, and RL1 on each under two losses."""

from __future__ import annotations

import json

import pytest

from studies import claims, loses, tables
from studies.workspace import Workspace
from tests.studies.test_claims import row_of, side

COURSE = {"focus": {"chosen": [1.0, 2.0], "rejected": [-1.0, -3.0]}}


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """A workspace whose commands leave what the cells read of their outputs."""
    executed: list[list[str]] = []

    def execute(self, words, module="cli") -> None:
        executed.append(list(words))
        output = self.folder / (words[1] if words[0] == "filter" else words[words.index("-o") + 1])
        output.mkdir(parents=True, exist_ok=True)
        boxes = {"origin": {"lose": {"actor": 1, "controller": 3}}, "shape_tells": {"lose": {"auc": 0.6}}}
        (output / "report.json").write_text(json.dumps({"boxes": boxes}))
        (output / "config.toml").write_text("beta_b = 0.2\n")

    betas: list[float] = []
    monkeypatch.setattr(Workspace, "_execute", execute)
    monkeypatch.setattr(
        Workspace, "scores", lambda self, name, models, limit, options=(), *, names: {n: side(50) for n in names}
    )
    monkeypatch.setattr(Workspace, "likelihoods", lambda self, model, beta: betas.append(beta) or COURSE)
    monkeypatch.setattr(Workspace, "pair_quality", lambda self, run: {"pairs": 4, "WP-LN": 50.0})
    space = Workspace(tmp_path / "work", 1)
    space.executed, space.betas = executed, betas
    return space


def test_one_pool_is_filtered_by_each_choice_in_a_copy_of_its_own(workspace):
    figures = {name: cell(workspace) for name, cell in loses.CELLS.items()}
    assert list(figures) == ["lose-uniform", "lose-actor-first", "lose-hardest"]
    generated = [words for words in workspace.executed if words[0] == "gen"]
    assert len(generated) == 1 and generated[0][:3] == ["gen", "--limit", str(loses.QUESTIONS)]
    filtered = [words[1:] for words in workspace.executed if words[0] == "filter"]
    assert filtered == [[f"runs/{name}", "--lose", name.removeprefix("lose-")] for name in figures]
    assert all((workspace.folder / "runs" / name / "report.json").is_file() for name in figures)
    assert figures["lose-hardest"]["controller_loses"] == 75 and set(workspace.betas) == {0.2}


def test_each_choice_is_trained_by_the_preset_and_by_the_papers_loss(workspace):
    loses.CELLS["lose-hardest"](workspace)
    both, paper = [words for words in workspace.executed if words[0] == "train"]
    assert both[:4] == paper[:4] == ["train", "rl1", "--data", "runs/lose-hardest"]
    assert "--win-nll" not in both
    for flag, value in (("--win-nll", "0"), ("--learning-rate", "1e-4"), ("--beta-b", "0.1")):
        assert paper[paper.index(flag) + 1] == value


def test_a_cell_names_the_commands_behind_it(workspace):
    loses.CELLS["lose-uniform"](workspace)
    workspace.commands = {}
    loses.CELLS["lose-hardest"](workspace)
    assert list(workspace.commands) == ["runs/lose", "runs/lose-hardest", "models/lose-hardest-both",
                                        "models/lose-hardest-paper"]  # fmt: skip
    assert workspace.commands["runs/lose-hardest"] == (
        "cp -r runs/lose runs/lose-hardest && visrl filter runs/lose-hardest --lose hardest"
    )
    assert workspace.digests().keys() == workspace.commands.keys()


def test_a_copy_that_was_cut_short_is_made_again(workspace):
    half = workspace.folder / "runs" / "lose-uniform.new"
    half.mkdir(parents=True)
    (half / "leftover").touch()
    loses.CELLS["lose-uniform"](workspace)
    assert not half.exists() and not (workspace.folder / "runs" / "lose-uniform" / "leftover").exists()


def test_the_table_and_the_claims_are_of_the_cells_that_are_there():
    def cell(right: int) -> dict:
        rows = {name: side(right) | {"likelihoods": COURSE} for name in loses.MODELS}
        return {"pairs": 40, "WP-LN": 75.0, "controller_loses": 70.0, "lose_shape_auc": 0.64} | rows

    cells = {"lose-uniform": {0: cell(50), 1: cell(51)}, "lose-hardest": {0: cell(60), 1: cell(61)}}
    lines = tables.lose_choices(cells).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["uniform"] * 2 + ["hardest"] * 2
    assert row_of(tables.lose_choices(cells), "hardest")[1:4] == ["40 ± 0", "70.0 ± 0.0", "75.0 ± 0.0"]
    assert [cell.strip() for cell in lines[2].strip("| ").split("|")][-3:] == ["2.00 ± 0.00", "-3.00 ± 0.00", "2"]
    verdicts = claims.verdicts(cells, claims.LOSE_CLAIMS)
    hardest = row_of(verdicts, "RL1 points better with `hardest` than with `uniform`, the paper's DPO")
    assert hardest[1] == "+10.0" and hardest[-2] == "2"
    assert (
        row_of(verdicts, "RL1 points better with `actor-first` than with `uniform`, the paper's DPO")[-1]
        == "not run yet"
    )
