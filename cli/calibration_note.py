"""What `visrl gen` says of the last calibration of a run's critic, in one line."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visrl_data.runs.manifest import CalibrationSummary, CriticSummary
    from visrl_data.runs.run_folder import Run


def note_calibration(run: Run) -> str | None:
    """Return what is known of the critic of a started run: its last calibration, or the command that makes one.

    None where no model scores, and for the shipped Spotlight, whose figures are in the documentation.
    """
    from visrl_data.runs.calibrations import last_calibration, run_key

    config = run.config()
    key = run_key(run.identity(), config)
    if summary := last_calibration(key):
        return _describe(summary)
    if key is None or (config["model"] == "spotlight" and "critic" not in config):
        return None
    return f"This critic was never calibrated with these prompts. Is it any good? {_command(config)}"


def _command(config: dict[str, object]) -> str:
    """Return the `visrl calibrate` of the same critic on the same questions."""
    from visrl_data.calibration.config import CalibrationConfig
    from visrl_data.report.page import option_words

    names = {spec.name for spec in dataclasses.fields(CalibrationConfig)} - {"seed", "chunk_size"}
    return shlex.join(["visrl", "calibrate", *option_words(config, names)])


def _describe(summary: CalibrationSummary) -> str:
    critics = {"box": summary["box"], "response": summary["response"]}
    parts = [f"{name} {_figures(critic)}" for name, critic in critics.items() if critic]
    warnings = sum(len(critic["warnings"]) for critic in critics.values() if critic)
    heed = f"; {warnings} warning{'s' * (warnings > 1)}" if warnings else ""
    place = f". See {summary['folder']}/report.html" if "folder" in summary else ""
    about = f"{summary['questions']} questions of {summary['source']} ({summary['split']})"
    return f"This critic, calibrated on {about}: {', '.join(parts)}{heed}{place}"


def _figures(critic: CriticSummary) -> str:
    from visrl_data.report.formats import format_number, format_share

    auc = "" if critic["auc"] is None else f"AUC {format_number(critic['auc'], 2)}, "
    return f"{auc}{format_share(critic['false_wins'])} false wins"
