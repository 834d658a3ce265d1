"""What `visrl evolve` says when its last model lost the format."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from visrl_data.evaluation.eval_report import ALL
from visrl_train.evolve_curves import format_warning, table


def valid_boxes(*shares, questions=400):
    figures = [{"valid": share, "questions": questions} for share in shares]
    return {"models": [{"model": f"m{k}", "figures": {ALL: one}} for k, one in enumerate(figures)]}


def test_a_row_of_the_table_is_one_line_of_80_columns():
    interval = {"answer_interval": (0.14, 0.61), "box_accuracy_interval": (0.14, 0.61)}
    figures = interval | {"answer": 0.33, "box_accuracy": 0.42, "mean_iou": 0.334, "valid": 1.0}
    entry = {"figures": {ALL: figures}, "round": {"pairs": 12_345, "yield": 1.0, "cells": {"WP-LN": 100.0}}}
    report = {"stages": "rl1,rl2", "baseline": {"figures": {ALL: figures}}, "models": [entry] * 3}
    console = Console(width=80, file=io.StringIO())
    console.print(table(report))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3 + 4 + 2, lines  # title, columns, rule; rows; caption
    assert lines[4].rstrip().endswith("12,345 100.0 % 100.0") and lines[-1].startswith("see visrl inspect")


@pytest.mark.parametrize("shares", [(1.0, 0.99, 0.981), (0.5, 0.9), (0.9,)])
def test_a_model_that_keeps_the_format_is_passed_over_in_silence(shares):
    assert format_warning(valid_boxes(*shares)) is None


def test_one_reply_of_a_few_is_no_loss_of_format():
    assert format_warning(valid_boxes(1.0, 0.975, questions=40)) is None
    assert format_warning(valid_boxes(1.0, 0.85, questions=40))


def test_a_model_that_loses_the_format_is_named_with_what_helps():
    text = format_warning(valid_boxes(0.97, 0.99, 0.5, 0.964))
    assert "from 99.0 % (rounds: 1) to 96.4 %" in text and text.endswith("e.g. m1")
    section = text.split("'")[1]
    assert f". {section}\n" in (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
