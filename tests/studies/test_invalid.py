"""Invalid replies as loses: what the trial changes in a run, what it leaves, and that training reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from studies import invalid, stability
from studies.workspace import Workspace
from visrl_data.core.config import GenConfig
from visrl_data.executors import generation
from visrl_data.runs.run_folder import Run, check_files
from visrl_train.pairs import read_pairs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run at a temperature at which the actor does not always write a box."""
    folder = tmp_path_factory.mktemp("invalid") / "run"
    generation.generate(GenConfig(limit=40, temperature=3.0, device="cpu"), folder)
    return folder


def test_an_invalid_reply_takes_the_place_of_the_losing_box(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    changed = invalid.put_invalid_loses(copy)
    before, after = Run(run).pairs().to_pylist(), Run(copy).pairs().to_pylist()
    replies = {}
    for row in Run(run).table("candidates").to_pylist():
        if row["focus_state"] != "ok":
            replies.setdefault(row["question_id"], []).append((row["index"], row["focus_reply"]))
    expected = [
        row | {"lose_box_text": min(replies[row["question_id"]])[1]} if row["question_id"] in replies else row
        for row in before
    ]
    assert after == expected
    assert 0 < changed == sum(row["question_id"] in replies for row in before) < len(before)
    check_files(Run(copy))
    loses = {pair.id: pair.lose_box for pair in read_pairs(str(copy)).pairs}
    assert loses == {row["question_id"]: row["lose_box_text"] for row in after}
    files = (copy / "pairs.parquet").read_bytes(), (copy / "manifest.json").read_bytes()
    assert invalid.put_invalid_loses(copy) == changed, "again"
    assert files == ((copy / "pairs.parquet").read_bytes(), (copy / "manifest.json").read_bytes())


def test_rounds_train_on_the_changed_copies_and_count_the_pairs_of_the_runs(tmp_path, monkeypatch):
    executed: list[str] = []

    def execute(self, words, module="cli") -> None:
        executed.append(" ".join(words))
        output = words[0] if module == "studies.invalid" else words[words.index("-o") + 1]
        (self.folder / output).mkdir(parents=True, exist_ok=True)

    counted: list[str] = []
    monkeypatch.setattr(Workspace, "_execute", execute)
    monkeypatch.setattr(Workspace, "curve_of", lambda self, name, models, runs, limit: counted.extend(map(str, runs)))
    workspace = Workspace(tmp_path, 3)
    stability.invalid(workspace)
    assert counted == ["evolve-rl1-rl2/round0", *(f"runs/invalid-rl1-rl2-{k}" for k in (1, 2, 3))]
    trained = [line.split() for line in executed if line.startswith("train")]
    assert [words[words.index("--data") + 1] for words in trained] == [
        f"runs/invalid-rl1-rl2-{k}-loses" for k in (1, 2, 3) for _ in range(2)
    ]
    assert workspace.commands["runs/invalid-rl1-rl2-1-loses"] == (
        "cp -r runs/invalid-rl1-rl2-1 runs/invalid-rl1-rl2-1-loses && "
        "python -m studies.invalid runs/invalid-rl1-rl2-1-loses"
    )
