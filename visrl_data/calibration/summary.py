"""Shorten a calibration to what `visrl gen` and a dataset card show of it."""

from __future__ import annotations

from pathlib import Path

from visrl_data.calibration.calibration_report import CalibrationReport, CriticFigures, Share
from visrl_data.runs.manifest import CalibrationSummary, CriticSummary


def summarize(report: CalibrationReport, folder: Path) -> CalibrationSummary:
    """Return the summary of a report that is in this folder."""
    return {
        "key": report["key"],
        "critic": report["critic"].get("model") or report["critic"]["engine"],
        "source": report["source"]["name"],
        "split": report["source"]["split"],
        "questions": report["questions"],
        "box": _critic(report["box"]),
        "response": _critic(report["response"]),
        "folder": str(folder),
    }


def _critic(figures: CriticFigures | None) -> CriticSummary | None:
    if figures is None:
        return None
    separation, unparsed = figures["separation"], figures["unparsed"]
    return {
        "cases": figures["cases"],
        "thresholds": [*figures["thresholds"]],
        "auc": separation["auc"] if separation else None,
        "auc_interval": [separation["low"], separation["high"]] if separation else None,
        "false_wins": figures["false_wins"]["share"],
        "false_wins_interval": _interval(figures["false_wins"]),
        "false_loses": figures["false_loses"]["share"],
        "false_loses_interval": _interval(figures["false_loses"]),
        "unparsed": unparsed["share"],
        "warnings": figures["warnings"],
    }


def _interval(share: Share) -> list[float] | None:
    return None if share["low"] is None or share["high"] is None else [share["low"], share["high"]]
