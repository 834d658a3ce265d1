"""Static charts: every value has its mark, axes have titles, and the same values give the same bytes."""

import io
import itertools
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from PIL import Image

from visrl_data.report.charts import Panel, Series, draw_png, draw_svg

LINES = Panel("loss", "step", "loss of a batch", (Series("train", [3, 2, 1], [1, 2, 3]), Series("eval", [2], [3])))
BARS = Panel("sizes", "size, from", "pairs", (Series("win", (1, 0, 4)), Series("lose", (2, 2, 1))), ("0", "1/3", "2/3"))
ROUNDS = Panel("score", "round", "share", (Series("", [0.5, 0.75], [0, 1], [(0.4, 0.6), (0.7, 0.8)]),), y_range=(0, 1))


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_titles_axes_and_names_are_text():
    seen = texts(draw_svg([LINES, BARS]))
    assert {"loss", "step", "loss of a batch", "train", "eval", "sizes", "size, from", "pairs", "win", "lose"} <= set(
        seen
    )
    assert {"0", "1/3", "2/3"} <= set(seen)


def test_values_with_intervals_are_written_out_on_the_whole_range():
    seen = texts(draw_svg([ROUNDS]))
    assert {"0.50", "0.75", "0.0", "1.0"} <= set(seen)


def test_bars_are_as_tall_as_their_values():
    """Values 1, 0 and 4: two bars, one four times as tall as the other; heights are counted in pixels."""
    panel = Panel("", "", "", (Series("", (1, 0, 4), color="#ff0000"),), ("a", "b", "c"))
    picture = Image.open(io.BytesIO(draw_png([panel]))).convert("RGB")
    red = [sum(picture.getpixel((x, y)) == (255, 0, 0) for y in range(picture.height)) for x in range(picture.width)]
    bars = [max(columns) for drawn, columns in itertools.groupby(red, bool) if drawn for columns in [list(columns)]]
    assert len(bars) == 2 and bars[1] == pytest.approx(4 * bars[0], abs=4)


def test_the_same_values_give_the_same_bytes_whatever_the_user_configured(tmp_path):
    """Drawn here, and by a process of its own with another hash seed and a matplotlibrc of the user's."""
    (tmp_path / "matplotlibrc").write_text("svg.fonttype: path\nfont.size: 30\nlines.linewidth: 9\n")
    code = "from tests.report.test_charts import *; print(draw_svg([LINES, ROUNDS]), end='')"
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout == draw_svg([LINES, ROUNDS]) and "<dc:date>" not in other.stdout
    assert draw_png([BARS]) == draw_png([BARS])


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, visrl_cards.pictures, visrl_data.report.charts; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_nothing_to_draw_is_an_empty_picture():
    assert texts(draw_svg([])) == []
