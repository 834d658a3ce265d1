"""Five critics under `visrl calibrate`, two of which are none: the tables of docs/calibration.md.

    python -m studies.calibration [--questions 64] [--work studies-work/calibration]

    base        Spotlight before any training: the critic of the shipped run
    actor       Spotlight after SFT, as its own critic
    always 1    a script that gives 1.0 to everything
    random      a script that draws one of 0, 0.1, ..., 1
    served      the base on `transformers serve`, reached as any server is

Prints two Markdown tables, then the warnings about each. What was asked is kept in the work folder and not asked again.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

from studies.serving import serve
from visrl_data.calibration.calibrate import calibrate
from visrl_data.calibration.calibration_report import CalibrationReport, CriticFigures
from visrl_data.calibration.config import CalibrationConfig
from visrl_data.calibration.table import critics_of, figure_rows
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.spotlight import BASE

PORT = 8765


class RandomEngine(ScriptedEngine):
    """Draw a score for each request, whatever it shows: another one when it is asked again."""

    name = "random"
    deterministic = False

    def __init__(self) -> None:
        dice = random.Random(0)
        super().__init__(lambda request, seed: f'{{"score": {dice.randrange(11) / 10}}}')


def calibrate_all(questions: int) -> dict[str, CalibrationReport]:
    """Return the report of each critic, made in the current folder."""
    always = ScriptedEngine(lambda request, seed: '{"score": 1.0}')
    plain = CalibrationConfig(questions=questions)
    reports = {
        "always 1": calibrate(plain, Path("always"), role=Role(always, False)),
        "random": calibrate(plain, Path("random"), role=Role(RandomEngine(), False)),
        "base": calibrate(plain, Path("base")),
        "actor": calibrate(CalibrationConfig(questions=questions, critic="spotlight"), Path("actor")),
    }
    with serve("base-on-a-server", BASE, PORT, Path("server")) as address:
        os.environ.setdefault("OPENAI_API_KEY", "none")
        config = CalibrationConfig(
            questions=questions, critic="base-on-a-server", critic_engine="openai", critic_base_url=address
        )  # fmt: skip
        reports["served"] = calibrate(config, Path("served"))
    return {name: reports[name] for name in ("base", "actor", "always 1", "random", "served")}


def markdown(reports: dict[str, CalibrationReport]) -> str:
    """Return a table for the box critic and one for the response critic, with a column for each report."""
    return "\n\n".join(_table(critic, [critics_of(report)[critic] for report in reports.values()], list(reports))
                       for critic in ("box", "response"))  # fmt: skip


def _table(critic: str, columns: list[CriticFigures], names: list[str]) -> str:
    rows = [dict(figure_rows(figures)) | {"warnings": str(len(figures["warnings"]))} for figures in columns]
    labels = max(rows, key=len)  # all of them: a critic that is asked twice has the most
    lines = [f"| {critic} critic | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {label} | {' | '.join(row.get(label, '-') for row in rows)} |" for label in labels]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--work", type=Path, default=Path("studies-work/calibration"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.work)
    reports = calibrate_all(arguments.questions)
    print(markdown(reports))
    for name, report in reports.items():
        for critic, figures in critics_of(report).items():
            print("\n".join([f"\n{name}, {critic} critic:", *(f"- {line}" for line in figures["warnings"])]))


if __name__ == "__main__":
    main()
