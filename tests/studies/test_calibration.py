"""The tables of five critics: a column for each, and what is known of every one of them."""

from pathlib import Path

from studies.calibration import RandomEngine, markdown
from visrl_data.calibration.calibrate import calibrate
from visrl_data.calibration.config import CalibrationConfig
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine


def test_a_column_for_each_critic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CalibrationConfig(questions=4, limit=8)
    engines = {"always 1": ScriptedEngine(lambda request, seed: '{"score": 1.0}'), "random": RandomEngine()}
    reports = {
        name: calibrate(config, Path(name.replace(" ", "-")), role=Role(engine, False))
        for name, engine in engines.items()
    }
    for critic, table in zip(("box", "response"), markdown(reports).split("\n\n"), strict=True):
        lines = table.splitlines()
        assert lines[0] == f"| {critic} critic | always 1 | random |"
        assert {line.count("|") for line in lines} == {4}
        rows = {line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in lines}
        assert rows["false wins, of wrong cases"][0].startswith("100.0 %")
        assert rows["asked twice: sides changed"][0] == "-", "a script says the same again"
        assert rows["asked twice: sides changed"][1].endswith(")") and int(rows["warnings"][0]) >= 3
