"""The printed table of `visrl eval`: whole at 80 columns, and only what was measured."""

import io

from rich.console import Console

from visrl_data.evaluation.table import render


def figures(answer, box, **other):
    first = {"score": "normalized", "questions": 50, "labelled": 40, "answer": answer, "box_accuracy": box}
    difference = {"mean": 0.125, "low": -0.25, "high": 0.5}
    rest = {
        "mean_iou": box and box / 2,
        "valid": None if box is None else 0.96,
        "unparsed": {},
        "unread_verdicts": 0,
        "answer_difference": difference,
        "box_accuracy_difference": box and difference,
    }
    return first | rest | other


def report(*models, groups=("attribute", "relation", "superlative")):
    """models: name, steps, figures of every source and of the mean."""
    return {
        "groups": list(groups),
        "dropped": {"image_missing": 3},
        "models": [{"name": n, "steps": s, "figures": dict.fromkeys(["all", *groups], f)} for n, s, f in models],
    }


def printed(found, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(found))
    return console.export_text()


LONG = "someone/llava-1.5-7b-rl2-cars-of-all-kinds-1a2b3c4d"
FIRST = figures(0.5, 0.25, answer_difference=None, box_accuracy_difference=None)
FOUR = [
    ("sft", 2, FIRST),
    ("rl1", 2, figures(0.625, 0.375, unparsed={"no_box": 2})),
    (LONG, 2, figures(0.75, 0.5, unread_verdicts=7)),
    ("base, no box", 1, figures(0.125, None)),
]


def test_at_80_columns_no_number_is_cut_and_no_line_is_longer():
    text = printed(report(*FOUR), 80)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    for number in ("0.625", "0.750", "0.375", "+0.125 (-0.250 to +0.500)", "96.0 %", "50 questions", "40 labeled"):
        assert text.count(number) >= 4, f"{number}: for the mean and for each of three sources"
    assert LONG in printed(report(*FOUR), 200)


def test_baselines_are_on_top_and_have_no_boxes():
    answers, boxes = printed(report(*FOUR), 200).split("Box accuracy")
    rows = [line.split("  ")[0].strip() for line in answers.splitlines()]
    assert rows[4:8] == ["base, no box", "sft", "rl1", LONG]
    assert "base, no box" not in boxes and "compared with sft" in boxes


def test_what_was_lost_is_said_in_words():
    text = printed(report(*FOUR), 200)
    assert "3 rows dropped by the source: image_missing." in text
    assert "rl1: no answer to 2 questions (no_box 2)." in text
    assert f"{LONG}: 7 verdicts of the judge could not be read." in text


def test_one_model_on_one_source_is_one_section_and_without_boxes_there_is_no_second_table():
    text = printed(report(("[b]base", 1, figures(0.125, None, answer_difference=None)), groups=["photos"]), 80)
    assert text.count("photos") == 1 and "mean over" not in text and "[b]base" in text
    assert "Box accuracy" not in text and "compared" not in text
