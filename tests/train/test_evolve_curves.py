"""What `visrl evolve` says when its last model lost the format."""

from __future__ import annotations

from pathlib import Path

import pytest

from visrl_data.evaluation.eval_report import ALL
from visrl_train.evolve_curves import format_warning


def valid_boxes(*shares, questions=400):
    figures = [{"valid": share, "questions": questions} for share in shares]
    return {"models": [{"model": f"m{k}", "figures": {ALL: one}} for k, one in enumerate(figures)]}


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
