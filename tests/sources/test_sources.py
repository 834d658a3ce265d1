"""Sources: rows in = questions + drops by reason, ids unique and stable, images as they were stored."""

from __future__ import annotations

import base64
import csv
import json
import os
import pickle
import socket
import unicodedata
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from tests.conftest import draw_photo
from visrl_data.core.boxes import Box
from visrl_data.core.errors import VisRLError
from visrl_data.core.images import decode, sha256
from visrl_data.core.records import Drop, Question
from visrl_data.sources import rows, tables
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.options import DEFAULT_COLUMNS, SourceOptions, parse_columns
from visrl_data.sources.protocol import Source
from visrl_data.spotlight import glyphs, world


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches the network, or a cache outside its own folder."""
    import datasets

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def everything(source: Source) -> tuple[list[Question], list[Drop]]:
    """All rows, after checking what holds for every source."""
    ids, rows = source.ids(), [source.read(i) for i in range(len(source))]
    assert len(ids) == len(set(ids)) == len(rows)
    assert [row.id for row in rows] == ids
    questions = [row for row in rows if isinstance(row, Question)]
    drops = [row for row in rows if isinstance(row, Drop)]
    assert len(questions) + len(drops) == len(source)
    assert all(drop.stage == "source" and drop.attempt is None and drop.reason for drop in drops)
    for question in questions:
        assert question.image_sha256 == sha256(question.image)
        assert (question.width, question.height) == decode(question.image).size
        assert question.split == source.split and question.answers
    for index in (len(source), -1):
        with pytest.raises(IndexError):
            source.read(index)
    again = pickle.loads(pickle.dumps(source))
    assert again.ids() == ids and again.read(0) == rows[0]
    assert len(source.fingerprint()) >= 32 or "@" in source.fingerprint()
    return questions, drops


def error_of(*args: Any, **options: Any) -> str:
    with pytest.raises(VisRLError) as caught:
        open_source(*args, **options)
    return str(caught.value)


# --- .jsonl ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images, one beside it, and broken ones."""
    here = tmp_path / "data"
    (here / "img").mkdir(parents=True)
    (here / "img" / "a.png").write_bytes(png(1))
    (here / "img" / "b.png").write_bytes(png(2))
    (here / "img" / "cut.png").write_bytes(png(3)[:900])
    (here / "img" / "text.png").write_bytes(b"no image")
    (here / "img" / "thin.png").write_bytes(png(3, (40, 7)))
    (here / "img" / "empty.png").write_bytes(b"")
    (tmp_path / "outside.png").write_bytes(png(4))
    (here / "img" / "link.png").symlink_to(tmp_path / "outside.png")
    return here


def write(folder: Path, *rows: Any, name: str = "set.jsonl") -> str:
    """Rows as lines: a string is a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def row(**more: Any) -> dict[str, Any]:
    return {"question": "what?", "answers": ["a"], "image": "img/a.png"} | more


def one(folder: Path, options: SourceOptions | None = None, **more: Any) -> Question | Drop:
    """What one row becomes, after a good one."""
    good = row(id="good")
    given = {key: value for key, value in row(**more).items() if value is not KeyError}
    return open_source(write(folder, good, given), options=options).read(1)


def test_jsonl_row_in_full(folder: Path) -> None:
    path = write(
        folder,
        row(id="a1", question="  what? ", answers=["yes", " yes ", "no"], boxes=[[0.1, 0.2, 0.3, 0.4]], source="gqa"),
        row(license="CC-BY-4.0", source_url="https://x.org/1", source_id=17, ship_image=False, image="img/b.png"),
    )
    source = open_source(path, "val")
    assert (source.name, source.split, len(source)) == ("set", "val", 2)
    (first, second), drops = everything(source)
    assert not drops
    assert (first.id, first.source, first.split) == ("a1", "gqa", "val")
    assert (first.question, first.answers) == ("what?", ("yes", "no"))
    assert first.image == png(1)
    assert (first.width, first.height) == (40, 30)
    assert [box.xyxy for box in first.gold_boxes] == [(0.1, 0.2, 0.3, 0.4)]
    assert (first.license, first.source_url, first.ship_image) == ("", "", None)
    assert (first.source_id, second.source_id) == ("line 1", "17")
    assert (second.license, second.source_url, second.ship_image) == ("CC-BY-4.0", "https://x.org/1", False)
    assert second.id.startswith("q-") and second.source == "set" and second.gold_boxes == ()


BAD_ROWS: list[tuple[str, Any]] = [
    ("bad_json", "{"),
    ("bad_json", "[1, 2]"),
    ("bad_json", '"text"'),
    ("bad_json", "[" * 100_000),
    ("bad_id", row(id=[1])),
    ("bad_id", row(id=" ")),
    ("bad_id", row(id=True)),
    ("bad_id", row(id="\ud800")),
    ("no_question", row(question=None)),
    ("no_question", row(question=" \n")),
    ("no_question", row(question=["what?"])),
    ("no_answer", row(answers=None)),
    ("no_answer", row(answers=[])),
    ("no_answer", row(answers=[None, "", " "])),
    ("bad_answer", row(answers={"text": ["a"]})),
    ("no_answer", row(answers=["unanswerable"] * 10)),
    ("no_answer", row(answers=[{"answer": "Unanswerable."}, {"answer": "unsuitable image"}])),
    ("bad_answer", row(answers=["a", ["b"]])),
    ("bad_answer", '{"question": "q", "answers": NaN, "image": "img/a.png"}'),
    ("bad_text", row(question="half \ud83d a pair")),
    ("bad_text", row(answers="\udc00")),
    ("image_missing", row(image=None)),
    ("image_missing", row(image="")),
    ("image_missing", row(image=7)),
    ("image_missing", row(image=[])),
    ("image_missing", row(image="img/none.png")),
    ("image_missing", row(image="\ud800")),
    ("image_url_refused", row(image="https://x.org/a.png")),
    ("image_url_refused", row(image="s3://bucket/a.png")),
    ("image_missing", row(image="a/" * 200_000)),
    ("image_unreadable", row(image="data:image/png;base64,@@@")),
    ("image_unreadable", row(image=[[[0, 0, 0], [255, 255, 255]]])),
    ("bad_answer", row(answers="E", choices=["a", "b"])),
    ("bad_answer", row(answers=2, options=["a", "b"])),
    ("image_missing", row(image="img/empty.png")),
    ("several_images", row(image=["img/a.png", "img/b.png"])),
    ("image_outside_root", row(image="../outside.png")),
    ("image_outside_root", row(image="img/link.png")),
    ("image_outside_root", row(image="/etc/passwd")),
    ("image_truncated", row(image="img/cut.png")),
    ("image_unreadable", row(image="img/text.png")),
    ("image_too_small", row(image="img/thin.png")),
    ("bad_field", row(source=3)),
    ("bad_field", row(license=["MIT"])),
    ("bad_field", row(source_url=5)),
    ("bad_field", row(ship_image="no")),
]


def test_every_bad_row_is_a_drop_with_its_reason(folder: Path) -> None:
    lines = [row(id="good"), *(line for _, line in BAD_ROWS), row(id="last", image="img/b.png")]
    questions, drops = everything(open_source(write(folder, *lines)))
    assert [question.id for question in questions] == ["good", "last"]
    assert [(drop.reason, drop.detail) for drop in drops] == [
        (reason, drop.detail) for drop, (reason, _) in zip(drops, BAD_ROWS, strict=True)
    ]
    assert all(drop.detail.startswith(f"line {number}: ") for number, drop in enumerate(drops, 2))
    assert all(len(drop.detail) <= 400 and drop.detail.encode() for drop in drops)  # can be stored
    assert Counter(drop.source for drop in drops) == {"set": len(BAD_ROWS)}


def test_pixel_limit(folder: Path) -> None:
    drop = one(folder, SourceOptions(max_image_pixels=1199))
    assert isinstance(drop, Drop) and drop.reason == "image_too_large"


def test_drops_count_under_the_row_s_own_source(folder: Path) -> None:
    drop = one(folder, source="gqa", answers=[])
    assert isinstance(drop, Drop) and (drop.source, drop.reason) == ("gqa", "no_answer")


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("a", ("a",)),
        (["b", "a", "b"], ("b", "a")),
        (3, ("3",)),
        ([3.0, 2.50, -1], ("3", "2.5", "-1")),
        (True, ("yes",)),
        ([False, None, ""], ("no",)),
        ("0", ("0",)),
        (0, ("0",)),
        ("Ä\u0301 三", ("Ä\u0301 三",)),
        (["yes"] * 8 + ["shop name", "no"], (*["yes"] * 8, "shop name", "no")),  # ten annotators
        ([{"answer": "net", "answer_confidence": "maybe", "answer_id": 1}] * 2, ("net", "net")),
        ({"answer": "net"}, ("net",)),
    ],
)
def test_answers_as_text(folder: Path, given: Any, want: tuple[str, ...]) -> None:
    question = one(folder, answers=given)
    assert isinstance(question, Question) and question.answers == want


def test_answer_is_read_where_answers_is_absent(folder: Path) -> None:
    assert one(folder, answers=KeyError, answer="b").answers == ("b",)  # type: ignore[union-attr]
    assert one(folder, answers=None, answer="b").answers == ("b",)  # type: ignore[union-attr]
    assert one(folder, answers=["c"], answer="b").answers == ("c",)  # type: ignore[union-attr]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_are_of_the_upright_image(folder: Path, orientation: int) -> None:
    upright = Image.new("RGB", (80, 40), (200, 200, 200))
    ImageDraw.Draw(upright).rectangle((50, 10, 69, 29), fill=(200, 0, 0))
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = upright.transpose(back[orientation]) if orientation in back else upright
    (folder / "img" / "t.jpg").write_bytes(encoded(raw, "JPEG", exif=exif, quality=95, subsampling=0))
    in_pixels = one(folder, image="img/t.jpg", boxes=[[50, 10, 70, 30]], box_space="pixels")
    in_units = one(folder, image="img/t.jpg", boxes=[50 / 80, 10 / 40, 70 / 80, 30 / 40])
    assert isinstance(in_pixels, Question) and isinstance(in_units, Question)
    assert in_pixels.gold_boxes == in_units.gold_boxes
    assert (in_pixels.width, in_pixels.height) == (80, 40)
    x1, y1, x2, y2 = in_pixels.gold_boxes[0].xyxy
    crop = decode(in_pixels.image).crop((round(x1 * 80), round(y1 * 40), round(x2 * 80), round(y2 * 40)))
    assert np.abs(np.asarray(crop).astype(int) - (200, 0, 0)).mean() < 6


def test_box_space_of_a_row_comes_before_the_option(folder: Path) -> None:
    options = SourceOptions(gold_space="pixels")
    assert one(folder, options, boxes=[[4, 3, 20, 30]]).gold_boxes[0].xyxy == (0.1, 0.1, 0.5, 1.0)  # type: ignore[union-attr]
    assert one(folder, options, boxes=[[4, 3, 45, 33]]).gold_boxes[0].xyxy == (0.1, 0.1, 1.0, 1.0)  # type: ignore[union-attr]
    unit = one(folder, options, boxes=[[0.1, 0.2, 0.5, 1]], box_space="unit")
    assert unit.gold_boxes[0].xyxy == (0.1, 0.2, 0.5, 1.0)  # type: ignore[union-attr]
    assert one(folder, options, boxes=[]).gold_boxes == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "boxes",
    [
        [4, 15, 20, 3, 20, 27, 8, 27],  # the four corners of a text quad, one after the other
        [[4, 15], [20, 3], [20, 27], [8, 27]],
        [[4, 15, 20, 3, 20, 27, 8, 27]],  # a list of outlines, as COCO has them
        [[[4, 15], [20, 3], [20, 27], [8, 27]]],
    ],
)
def test_a_polygon_is_kept_as_its_bounding_box(folder: Path, boxes: list[object]) -> None:
    question = one(folder, SourceOptions(gold_space="pixels"), boxes=boxes)
    assert question.gold_boxes == (Box(0.1, 0.1, 0.5, 0.9),)  # type: ignore[union-attr]


def test_several_polygons_are_several_boxes(folder: Path) -> None:
    boxes = [[0.1, 0.5, 0.5, 0.1, 0.5, 0.9], [0.2, 0.2, 0.4, 0.4]]
    assert len(one(folder, boxes=boxes).gold_boxes) == 2  # type: ignore[union-attr]


NO_BOXES: list[dict[str, Any]] = [
    {"boxes": [[0.1, 0.2, 0.3]]},
    {"boxes": [[0.1, 0.2, 0.3, "0.4"]]},
    {"boxes": [[0.1, 0.2, 0.3, True]]},
    {"boxes": [[0.1, 0.2, 0.1, 0.4]]},
    {"boxes": [[0.1, 0.2, 1.01, 0.4]]},
    {"boxes": [[-0.1, 0.2, 0.3, 0.4]]},
    {"boxes": [[10, 2, 30, 28]]},
    {"boxes": [[0.1, 0.2, 10**400, 0.4]]},
    {"boxes": [[0.1, 0.2, float("nan"), 0.4]]},
    {"boxes": [0.1, 0.2, 0.3]},
    {"boxes": {"x1": 0.1}},
    {"boxes": "[0.1, 0.2, 0.3, 0.4]"},
    {"boxes": [[41, 2, 50, 28]], "box_space": "pixels"},
    {"boxes": [[4, 2, 53, 28]], "box_space": "pixels"},  # 2252 of 1700 pixels: a box of another scale
    {"boxes": [[0.1, 0.2, 0.9, 0.8]], "box_space": "pixels"},
    {"boxes": [[0.1, 0.2, 0.9, 0.8]], "box_space": "per_mille"},
    {"boxes": [[0.1, 0.2, 0.9, 0.8]], "box_space": ["unit"]},
    {"boxes": [0.1, 0.2, 0.3, 0.4, 0.5]},
    {"boxes": [[0.1, 0.2], [0.3, 0.4]]},
    {"boxes": [[0.1, 0.2, 0.3, 0.4, 0.5, "6"]]},
]


@pytest.mark.parametrize("label", NO_BOXES)
def test_a_bad_box_costs_its_label_and_not_the_question(folder: Path, label: dict[str, Any]) -> None:
    question = one(folder, **label)
    assert isinstance(question, Question) and question.gold_boxes == ()
    assert {problem.reason for problem in question.label_problems} == {"bad_box"}
    assert all(problem.detail and "box_space unit" not in problem.detail for problem in question.label_problems)


def test_a_bad_box_among_good_ones_is_left_out_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows._SAID.clear()
    question = one(folder, boxes=[[0.1, 0.2, 0.3, 0.4], [3, 4], [0.5, 0.5, 1.0, 1.0]], source="gqa")
    assert len(question.gold_boxes) == 2 and len(question.label_problems) == 1  # type: ignore[union-attr]
    assert "bad_box" in caplog.text and "got [3, 4]. The question stays" in caplog.text


def test_rounding_noise_is_cut_and_exchanged_corners_are_put_right(folder: Path) -> None:
    noise = one(folder, boxes=[[-1e-9, 0.2, 1.0000001, 0.4]])
    assert isinstance(noise, Question) and not noise.label_problems
    assert noise.gold_boxes == (Box(0, 0.2, 1, 0.4),)
    swapped = one(folder, boxes=[[0.3, 0.2, 0.1, 0.4]])
    assert isinstance(swapped, Question) and swapped.gold_boxes == (Box(0.1, 0.2, 0.3, 0.4),)
    assert [problem.reason for problem in swapped.label_problems] == ["reversed_box"]


def test_boxes_as_coco_has_them(folder: Path) -> None:
    """The picture has 40 x 30 pixels; 20, 15, 16, 12 ends at 36, 27."""
    options = SourceOptions(gold_space="pixels", gold_format="xywh")
    question = one(folder, options, boxes=[[20, 15, 16, 12]])
    assert isinstance(question, Question) and question.gold_boxes == (Box(0.5, 0.5, 0.9, 0.9),)
    outline = one(folder, options, boxes=[[4, 3, 20, 3, 20, 27]])
    assert outline.gold_boxes == (Box(0.1, 0.1, 0.5, 0.9),)  # type: ignore[union-attr]
    assert one(folder, options, boxes=[[20, 15, -1, 12]]).label_problems  # type: ignore[union-attr]
    corners = one(folder, SourceOptions(gold_space="pixels"), boxes=[[20, 15, 16, 12]])
    assert "--gold-format xywh" in corners.label_problems[0].detail  # type: ignore[union-attr]
    with pytest.raises(VisRLError, match="--gold-format cxcywh: expected one of xyxy, xywh"):
        SourceOptions(gold_format="cxcywh")


@pytest.mark.parametrize(
    ("in_row", "option", "want"),
    [
        (None, None, None),
        (True, None, True),
        (False, None, False),
        (None, True, True),
        (None, False, False),
        (True, False, False),
        (False, True, False),
    ],
)
def test_a_no_to_shipping_images_always_wins(
    folder: Path, in_row: bool | None, option: bool | None, want: bool | None
) -> None:
    question = one(folder, SourceOptions(ship_images=option), ship_image=in_row)
    assert isinstance(question, Question) and question.ship_image is want


def test_license_option_fills_rows_that_state_none(folder: Path) -> None:
    options = SourceOptions(license="CC0-1.0")
    assert one(folder, options).license == "CC0-1.0"  # type: ignore[union-attr]
    assert one(folder, options, license="").license == "CC0-1.0"  # type: ignore[union-attr]
    assert one(folder, options, license="MIT").license == "MIT"  # type: ignore[union-attr]


def test_ids_without_ids_follow_the_content_not_the_place(folder: Path) -> None:
    rows = [row(), row(question="where?"), row(), row(image="img/b.png"), "", "{"]
    ids = open_source(write(folder, *rows)).ids()
    assert all(len(name) == 18 and name.startswith("q-") for name in (ids[0], ids[1], ids[3]))
    assert ids[2] == f"{ids[0]}-2" and ids[4] == "line-6"
    moved = open_source(write(folder, row(question="new?"), "", *rows[1:], row())).ids()
    assert [moved[1], moved[2], moved[3], moved[5]] == [ids[1], ids[0], ids[3], ids[2]]
    assert open_source(write(folder, row(id=5), row(id="x"), row(id=7.0))).ids() == ["5", "x", "7"]


def test_duplicate_ids_name_both_lines(folder: Path) -> None:
    message = error_of(write(folder, row(id="a"), "", row(id="b"), row(id="a"), row(id="b"), row(id="a")))
    assert "3 rows repeat the id" in message
    assert "'a' (line 1 and line 4); 'b' (line 3 and line 5); 'a' (line 1 and line 6)" in message
    assert "--columns id=" in message
    assert len(open_source(write(folder, row(id="a"), row(id="a", question="b?")), limit=1)) == 1
    no_ids = SourceOptions(columns={"id": ""})
    assert len(open_source(write(folder, row(id="a"), row(id="a", question="b?")), options=no_ids)) == 2


def test_bytes_of_the_file(folder: Path) -> None:
    """Byte order mark, CRLF, blank lines, no newline at the end, characters of several bytes, Latin-1."""
    path = folder / "odd.jsonl"
    first, second = json.dumps(row(question="Ü三?"), ensure_ascii=False), json.dumps(row(image="img/b.png"))
    path.write_bytes(b"\xef\xbb\xbf" + f"{first}\r\n\r\n  \n".encode() + b'{"question": "\xfc"}\n' + second.encode())
    questions, drops = everything(open_source(str(path)))
    assert [question.question for question in questions] == ["Ü三?", "what?"]
    assert [(drop.id, drop.reason) for drop in drops] == [("line-4", "bad_json")]


def test_images_root(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path, row())
    assert open_source(path).read(0).reason == "image_missing"  # type: ignore[union-attr]
    options = SourceOptions(images_root=folder)
    assert isinstance(open_source(path, options=options).read(0), Question)
    path = write(tmp_path, row(image=str(folder / "img" / "a.png")), row(image=str(tmp_path / "outside.png")))
    inside, outside = (open_source(path, options=options).read(i) for i in (0, 1))
    assert isinstance(inside, Question) and isinstance(outside, Drop) and outside.reason == "image_outside_root"
    with pytest.raises(VisRLError, match="--images-root .*: no such folder"):
        SourceOptions(images_root=folder / "none")


def test_limit_keeps_the_first_rows(folder: Path) -> None:
    path = write(folder, row(id="a"), "", row(id="b"), "{", row(id="c"))
    assert open_source(path, limit=2).ids() == ["a", "b"]
    assert open_source(path, limit=99).ids() == ["a", "b", "line-4", "c"]
    assert open_source(path, limit=2).fingerprint() == open_source(path).fingerprint()
    for limit in (0, -1):
        assert error_of(path, limit=limit) == f"--limit {limit}: expected at least 1."


def test_fingerprint_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    path = write(folder, row())
    first = open_source(path).fingerprint()
    assert open_source(write(folder, row(), name="other.jsonl")).fingerprint() == first
    assert open_source(write(folder, row(question="new?"))).fingerprint() != first


def test_a_file_that_changes_meanwhile_is_an_error(folder: Path) -> None:
    path = write(folder, row(), row(id="b"))
    source = open_source(path)
    write(folder, row(id="longer"), row(id="b"))
    with pytest.raises(VisRLError, match="changed while it was being read"):
        source.read(1)


def test_a_folder_of_pictures_names_the_file_of_questions_in_it(tmp_path: Path) -> None:
    pictures = tmp_path / "my signs"
    pictures.mkdir()
    for i in range(3):
        draw_photo(i).save(pictures / f"{i}.png")
    assert error_of(str(pictures)).endswith("--columns question=COLUMN,answers=COLUMN")
    (pictures / "questions.jsonl").write_text('{"question": "what?", "answer": "a", "image": "1.png"}')
    assert error_of(str(pictures)).endswith(
        f"\nquestions.jsonl in this folder is a source: --source '{pictures}/questions.jsonl'"
    )


def test_jsonl_columns(folder: Path) -> None:
    given = {"q": "what?", "gt": "a", "img": "img/a.png", "key": 3, "bboxs": [[4, 3, 20, 30]], "dataset": "gqa"}
    path = write(folder, given)
    columns = parse_columns("question=q, answers=gt,image=img,id=key,boxes=bboxs,source=dataset,")
    question = open_source(path, options=SourceOptions(columns=columns, gold_space="pixels")).read(0)
    assert isinstance(question, Question)
    assert (question.id, question.source, question.answers) == ("3", "gqa", ("a",))
    assert question.gold_boxes[0].xyxy == (0.1, 0.1, 0.5, 1.0)
    message = error_of(path)
    assert "no column for question, answers, image." in message
    assert "Columns there: bboxs, dataset, gt, img, key, q." in message
    assert "--columns question=q,answers=gt,image=img" in message
    message = error_of(path, options=SourceOptions(columns=columns | {"boxes": "bbox"}))
    assert "no column for boxes; there is no 'bbox'" in message


def test_wrong_columns_option() -> None:
    for text in ("question", "question=a,question=b", "=a"):
        with pytest.raises(VisRLError, match="expected FIELD=COLUMN"):
            parse_columns(text)
    assert parse_columns("id=, question = q") == {"id": "", "question": "q"}
    with pytest.raises(VisRLError, match="--columns color=red: no such field.*question, answers, image, id"):
        SourceOptions(columns={"color": "red"})
    with pytest.raises(VisRLError, match="--gold-space per_mille: expected one of unit, pixels"):
        SourceOptions(gold_space="per_mille")


def test_files_that_hold_no_rows(folder: Path) -> None:
    assert "no rows. Expected one JSON object a line" in error_of(write(folder, "", " "))
    assert "no line is a JSON object" in error_of(write(folder, "[", "]"))
    assert error_of(str(folder / "none.jsonl")).endswith("none.jsonl: no such file.")


# --- other forms of images, answers and files ---------------------------------------------------------


@pytest.mark.parametrize("image", ["base64", "data", "file", "backslash", "decomposed", "mapping"])
def test_an_image_in_another_form(folder: Path, image: str) -> None:
    data = (folder / "img" / "a.png").read_bytes()
    (folder / "img" / unicodedata.normalize("NFD", "é.png")).write_bytes(data)
    text = base64.b64encode(data).decode()
    forms: dict[str, Any] = {
        "base64": text,
        "data": f"data:image/png;base64,{text}",
        "file": (folder / "img" / "a.png").as_uri(),
        "backslash": "img\\a.png",
        "decomposed": unicodedata.normalize("NFC", "img/é.png"),
        "mapping": {"url": f"data:image/png;base64,{text}"},
    }
    question = one(folder, image=forms[image])
    assert isinstance(question, Question) and question.image == data


def test_a_file_address_stays_in_the_root(folder: Path) -> None:
    assert one(folder, image="file:///etc/passwd").reason == "image_outside_root"  # type: ignore[union-attr]
    for other in ("file://host/a.png", "file://[host/a.png"):
        assert one(folder, image=other).reason == "image_url_refused"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["img/A.png", "img/a.jpg", "other/a.png"])
def test_a_missing_image_names_what_is_near(folder: Path, name: str) -> None:
    (folder / "a.png").write_bytes(png(1))
    drop = one(folder, image=name)
    assert isinstance(drop, Drop) and drop.reason == "image_missing" and "there is " in drop.detail
    assert "a.png'" in drop.detail.rpartition("there is")[2]


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"answers": "['a', 'b']"}, ("a", "b")),
        ({"answers": '["it\'s"]'}, ("it's",)),
        ({"answers": "['a' 'b']"}, ("a", "b")),  # as numpy writes an array
        ({"answers": "[sic]"}, ("[sic]",)),
        ({"answers": "['a'] * 9"}, ("['a'] * 9",)),
        ({"answers": "B", "choices": ["cat", "dog"]}, ("dog",)),
        ({"answers": "(A)", "options": ["A. cat", "B. dog"]}, ("cat",)),
        ({"answers": 1, "choices": ["cat", "dog"]}, ("dog",)),
        ({"answers": KeyError, "answer": "0", "options": "['cat', 'dog']"}, ("cat",)),
        ({"answers": "C", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}}, ("z",)),
        ({"answers": 2, "choices": ["1", "2", "3"]}, ("2",)),  # the text of a choice comes first
        ({"answers": "dog", "choices": ["cat", "dog"]}, ("dog",)),
        ({"answers": "B"}, ("B",)),
    ],
)
def test_answers_as_lists_in_text_and_as_choices(folder: Path, fields: dict[str, Any], want: tuple[str, ...]) -> None:
    given = {key: value for key, value in (row() | fields).items() if value is not KeyError}
    question = open_source(write(folder, given)).read(0)
    assert isinstance(question, Question) and question.answers == want


TABLE = [("what?", "['a', 'b']", "img/a.png"), ("how many?", "007", "img/b.png"), ("who?", "None", "img/a.png")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", "image,question,answer\n"),
        ("q.tsv", "image\tquestion\tanswer\n\n"),
        ("folder/q.csv", "image,question,answer\n"),
        ("folder/q.jsonl", ""),
    ],
)
def test_a_table_without_rows_says_so(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    source = file if file.parent == tmp_path else file.parent
    assert error_of(str(source)) == f"{source}: no rows. Expected one for each question."


@pytest.mark.parametrize(("name", "separator"), [("q.csv", ","), ("q.csv", ";"), ("q.tsv", "\t")])
def test_tables_of_text(folder: Path, name: str, separator: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / name).open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([("question", "answers", "image"), *TABLE])
    questions, drops = everything(open_source(str(folder / name)))
    assert not drops and not capsys.readouterr().err, "no progress bar of a library"
    assert [(q.question, q.answers) for q in questions] == [
        ("what?", ("a", "b")), ("how many?", ("007",)), ("who?", ("None",))]  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_objects(folder: Path, indent: int | None) -> None:
    listed = [row(question="wo? ü"), row(answers=["b"], id=7), 3, row(image="none.png")]
    (folder / "q.json").write_text(json.dumps(listed, indent=indent, ensure_ascii=False), encoding="utf-8")
    source = open_source(str(folder / "q.json"))
    questions, drops = everything(source)
    assert [q.question for q in questions] == ["wo? ü", "what?"] and source.ids()[1] == "7"
    assert [drop.reason for drop in drops] == ["bad_json", "image_missing"]
    (folder / "lines.json").write_text(json.dumps(row()) + "\n" + json.dumps(row(id="x")))
    assert len(everything(open_source(str(folder / "lines.json")))[0]) == 2
    (folder / "cut.json").write_text(json.dumps(listed)[:-5])
    assert "is not a list of JSON objects" in error_of(str(folder / "cut.json"))


CHATS = [
    {"conversations": [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "24"}]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image>How many?"},
            {"role": "assistant", "content": "24"},
            {"role": "user", "content": "And why?"},
            {"role": "assistant", "content": "Luck."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "24"}]},
        ]
    },
    {"conversations": {"from": ["human", "gpt"], "value": ["How many?", "24"]}},
]


@pytest.mark.parametrize("chat", CHATS)
def test_a_conversation_is_a_question_and_its_answer(folder: Path, tmp_path: Path, chat: dict[str, Any]) -> None:
    question = open_source(write(folder, chat | {"image": "img/a.png"})).read(0)
    assert isinstance(question, Question) and (question.question, question.answers) == ("How many?", ("24",))
    path = parquet(tmp_path / "t", {name: [value] for name, value in chat.items()} | {"image": [png(1)]})
    stored = open_source(path).read(0)
    assert isinstance(stored, Question) and (stored.question, stored.answers) == ("How many?", ("24",))


@pytest.mark.parametrize(
    "turns", [[], "text", [1], [{"from": "gpt", "value": "24"}], [{"from": "human", "value": 3}], {}]
)
def test_a_conversation_without_question_and_answer_is_a_drop(folder: Path, turns: Any) -> None:
    drop = open_source(write(folder, row(), {"conversations": turns, "image": "img/a.png"})).read(1)
    assert isinstance(drop, Drop) and drop.reason in ("no_question", "no_answer")


def test_columns_that_are_nearly_known_are_spoken_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_source(write(folder, row(bbox=[0.1, 0.2, 0.3, 0.4])))
    assert "column 'bbox' is not read. To read it as boxes: --columns boxes=bbox" in caplog.text


# --- datasets: parquet, folders, save_to_disk ---------------------------------------------------------


def table(rows: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "id": [f"r{i}" for i in range(rows)],
        "question": [f"what {i}?" for i in range(rows)],
        "answers": [["a", "b"]] * rows,
        "image": [png(i) for i in range(rows)],
    } | more


def parquet(folder: Path, columns: dict[str, Any], name: str = "set.parquet") -> str:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({key: value for key, value in columns.items() if value is not KeyError}), folder / name)
    return str(folder / name)


def test_parquet_file(tmp_path: Path) -> None:
    path = parquet(tmp_path, table(license=["MIT"] * 3, boxes=[[[5.0, 5.0, 9.0, 9.0]]] * 3, unused=[1] * 3))
    source = open_source(path, "val")
    questions, drops = everything(source)
    assert not drops and source.name == "set"
    assert [(q.id, q.question, q.answers, q.split) for q in questions] == [
        (f"r{i}", f"what {i}?", ("a", "b"), "val") for i in range(3)
    ]
    assert [question.image for question in questions] == [png(i) for i in range(3)]
    assert [question.source_id for question in questions] == ["val/0", "val/1", "val/2"]
    # a license, and boxes of an unknown space, only when they are named
    assert {(question.license, question.gold_boxes) for question in questions} == {("", ())}
    columns = {"license": "license", "boxes": "boxes"}
    named = open_source(path, options=SourceOptions(columns=columns, gold_space="pixels", ship_images=True)).read(0)
    assert isinstance(named, Question)
    assert (named.license, named.ship_image) == ("MIT", True)
    assert named.gold_boxes[0].xyxy == (5 / 40, 5 / 30, 9 / 40, 9 / 30)
    stated = open_source(path, options=SourceOptions(license="CC0-1.0")).read(0)
    assert isinstance(stated, Question) and stated.license == "CC0-1.0"


def test_image_columns_of_all_kinds_give_the_stored_bytes(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    shapes = {
        "bytes": [png(0), png(1)],
        "struct": [{"bytes": png(0), "path": "/home/someone/0.png"}, {"bytes": None, "path": "0.png"}],
        "path": ["0.png", "./0.png"],
        "list": [[png(0)], [png(1)]],
        "structs": [[{"bytes": png(0), "path": None}], [{"bytes": png(1), "path": None}]],
    }
    for name, images in shapes.items():
        questions, _ = everything(open_source(parquet(tmp_path, table(2, image=images), f"{name}.parquet")))
        assert len(questions) == 2 and questions[0].image == png(0), name
    questions, _ = everything(
        open_source(parquet(tmp_path, table(2, image=KeyError, images=shapes["list"]), "images.parquet"))
    )
    assert len(questions) == 2


def test_bad_rows_of_a_table(tmp_path: Path) -> None:
    columns = table(
        7,
        id=["a", None, " ", "d", "e", "f", "g"],
        question=["q", "q", "q", None, "q", "q", "q"],
        answers=[["a"], ["a"], ["a"], ["a"], [], None, ["a"]],
        image=[png(0), png(1), png(2), png(3), png(4), png(5), None],
    )
    questions, drops = everything(open_source(parquet(tmp_path, columns)))
    assert [question.id for question in questions] == ["a", "train-00000001"]
    assert [(drop.id, drop.reason) for drop in drops] == [
        ("train-00000002", "bad_id"),
        ("d", "no_question"),
        ("e", "no_answer"),
        ("f", "no_answer"),
        ("g", "image_missing"),
    ]
    path = parquet(tmp_path, table(2, image=[[png(0), png(1)], []]), "lists.parquet")
    assert [drop.reason for drop in everything(open_source(path))[1]] == ["several_images", "image_missing"]
    path = parquet(tmp_path, table(2, image=["../x.png", "/etc/passwd"]), "paths.parquet")
    assert [drop.reason for drop in everything(open_source(path))[1]] == ["image_outside_root"] * 2


def test_answers_of_all_types(tmp_path: Path) -> None:
    for given, want in [(["x", "y"], "x"), ([3, 4], "3"), ([0.5, 4.0], "0.5"), ([True, False], "yes")]:
        path = parquet(tmp_path, table(2, answers=KeyError, answer=given))
        questions, _ = everything(open_source(path))
        assert questions[0].answers == (want,)


@pytest.mark.parametrize("column", ["id", "question"])
def test_text_that_is_not_utf_8_drops_its_row_alone(tmp_path: Path, column: str) -> None:
    texts = pa.array([b"one", b"caf\xe9", b"two"]).view(pa.string())
    questions, drops = everything(open_source(parquet(tmp_path, table(3, **{column: texts}))))
    assert len(questions) == 2 and [drop.reason for drop in drops] == ["bad_text"]


def test_ids_of_a_table(tmp_path: Path) -> None:
    assert open_source(parquet(tmp_path, table(2, id=[7, 8]))).ids() == ["7", "8"]
    path = parquet(tmp_path, table(3, id=KeyError))
    assert open_source(path, "val", 2).ids() == ["val-00000000", "val-00000001"]
    path = parquet(tmp_path, table(4, id=["a", "b", "a", "b"]))
    message = error_of(path)
    assert "set: 2 rows repeat the id of an earlier one: 'a' (row 0 and row 2); 'b' (row 1 and row 3)" in message
    assert open_source(path, options=SourceOptions(columns={"id": ""})).ids()[0] == "train-00000000"
    assert open_source(path, limit=2).ids() == ["a", "b"]


def test_table_columns(tmp_path: Path) -> None:
    columns = table(2)
    path = parquet(tmp_path, {"q": columns["question"], "a": columns["answers"], "img": columns["image"]})
    message = error_of(path)
    assert "set: no column for question, answers, image. Columns there: a, img, q." in message
    assert "--columns question=q,answers=a,image=img" in message
    options = SourceOptions(columns=parse_columns("question=q,answers=a,image=img"))
    assert len(everything(open_source(path, options=options))[0]) == 2


def test_a_rewritten_parquet_file_is_read_anew(tmp_path: Path) -> None:
    path = parquet(tmp_path, table(2))
    first = open_source(path)
    parquet(tmp_path, table(2, question=["new?", "new?"]))
    os.utime(path, (1, 1))
    second = open_source(path)
    assert second.read(0).question == "new?"  # type: ignore[union-attr]
    assert first.read(0).question == "what 0?"  # type: ignore[union-attr]
    assert second.fingerprint() != open_source(parquet(tmp_path, table(2), "old.parquet")).fingerprint()


def test_parquet_name_with_glob_characters(tmp_path: Path) -> None:
    parquet(tmp_path, table(1), "s1.parquet")
    assert len(open_source(parquet(tmp_path, table(2), "s[1]*.parquet"))) == 2


def test_folder_of_parquet_files(tmp_path: Path) -> None:
    data = tmp_path / "mine"
    parquet(data, table(2), "train-00000-of-00002.parquet")
    parquet(data, table(2, id=["x", "y"]), "train-00001-of-00002.parquet")
    parquet(data, table(1, id=["z"]), "test-00000-of-00001.parquet")
    train = open_source(str(data))
    assert train.ids() == ["r0", "r1", "x", "y"] and train.name == "mine"
    assert len(everything(train)[0]) == 4
    test = open_source(str(data), "test")
    assert test.ids() == ["z"] and test.fingerprint() != train.fingerprint()
    message = error_of(str(data), "val")
    assert "no split 'val'. Expected one of: train, test. Choose it with --split." in message


def test_folder_with_configs(tmp_path: Path) -> None:
    data = tmp_path / "mine"
    parquet(data, table(1, id=["a"]), "one.parquet")
    parquet(data, table(1, id=["b"]), "two.parquet")
    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("one", "two")]
    (data / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n", encoding="utf-8")
    source = open_source(f"{data}:two")
    assert (source.name, source.ids()) == ("mine:two", ["b"])
    message = error_of(str(data))
    assert "['one', 'two']" in message and "folder:config" in message


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ("README.md", "data_files: ../secret/x.jsonl"),
        ("README.md", "data_files: [{split: train, path: [a.jsonl, /etc/hosts]}]"),
        ("README.md", "data_files: http://127.0.0.1:1/x.jsonl"),
        ("README.md", "data_files: 'json://a::file:///etc/hosts'"),
        ("README.md", "data_files: a.jsonl\n  data_dir: .."),
        (".huggingface.yaml", "data_files: b/../../x.jsonl"),
        (".huggingface.yaml", "data_files: 'hf://datasets/other/set/x.jsonl'"),
    ],
)
def test_data_files_outside_of_a_folder_are_refused(folder: Path, tmp_path: Path, card: str, text: str) -> None:
    write(folder, row(), name="a.jsonl")
    (tmp_path / "secret").mkdir()
    write(tmp_path / "secret", row(), name="x.jsonl")
    mark = "---\n" if card == "README.md" else ""
    (folder / card).write_text(f"{mark}configs:\n- config_name: one\n  {text}\n{mark}", encoding="utf-8")
    assert f"its {card} names the data files" in error_of(str(folder))


def test_a_card_that_is_no_yaml_is_an_error_of_its_own(folder: Path) -> None:
    write(folder, row(), name="a.jsonl")
    (folder / ".huggingface.yaml").write_text("configs: [", encoding="utf-8")
    assert ".huggingface.yaml cannot be read" in error_of(str(folder))


@pytest.mark.parametrize(
    "card",
    ["configs:\n- 5", "configs:\n- config_name: 5\n  data_files: a.jsonl", "dataset_info:\n- 5"],
)
def test_a_card_of_another_shape_is_a_message(folder: Path, card: str) -> None:
    write(folder, row(), name="a.jsonl")
    (folder / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")
    assert f"{folder} cannot be read as a dataset" in error_of(str(folder))


def test_a_linked_data_file_outside_of_its_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, row(), name="x.jsonl")
    (folder / "train.jsonl").symlink_to(tmp_path / "x.jsonl")
    assert "leads out of the folder" in error_of(str(folder))


def test_a_saved_dataset_that_names_files_outside_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset

    for name in ("set", "other"):
        Dataset.from_dict(table(2)).save_to_disk(tmp_path / name)
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    for names in ([{"filename": "../other/data-00000-of-00001.arrow"}], [{}], 3):
        (tmp_path / "set" / "state.json").write_text(json.dumps(state | {"_data_files": names}))
        assert "state.json" in error_of(str(tmp_path / "set"))
    (tmp_path / "set" / "dataset_dict.json").write_text("[]")
    assert "dataset_dict.json cannot be read" in error_of(str(tmp_path / "set"))


def test_a_snapshot_of_the_hub_s_cache_is_read_through_its_links(tmp_path: Path) -> None:
    repo = tmp_path / "datasets--u--cars"
    blobs, snapshot = repo / "blobs", repo / "snapshots" / "abc123"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "b1").write_bytes(png(1))
    (tmp_path / "private.png").write_bytes(png(2))
    (blobs / "q").write_text(json.dumps(row(image="images/1.png")) + "\n" + json.dumps(row(image="images/2.png")))
    (snapshot / "train.jsonl").symlink_to("../../blobs/q")
    (snapshot / "images" / "1.png").symlink_to("../../../blobs/b1")
    (snapshot / "images" / "2.png").symlink_to(tmp_path / "private.png")
    for source in (str(snapshot / "train.jsonl"), str(snapshot)):
        first, second = (open_source(source).read(i) for i in range(2))
        assert isinstance(first, Question) and first.image == png(1)
        assert isinstance(second, Drop) and second.reason == "image_outside_root"


def test_save_to_disk(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature

    features = Features(
        {"question": Value("string"), "answer": ClassLabel(names=["cat", "dog"]), "image": ImageFeature()}
    )
    jpeg = encoded(decode(png(9)), "JPEG", quality=60)
    data = {"question": ["what?"] * 3, "answer": [1, 0, -1], "image": [{"bytes": jpeg, "path": None}] * 3}
    dataset = Dataset.from_dict(data, features=features)
    dataset.save_to_disk(tmp_path / "plain")
    DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "dict")
    source = open_source(str(tmp_path / "plain"), "val")
    questions, drops = everything(source)
    assert source.ids() == ["val-00000000", "val-00000001", "val-00000002"]
    assert [question.answers for question in questions] == [("dog",), ("cat",)]
    assert questions[0].image == jpeg  # not decoded and encoded anew
    assert [drop.reason for drop in drops] == ["no_answer"]
    assert len(everything(open_source(str(tmp_path / "dict"), "test"))[0]) == 1
    assert "no split 'val'. Expected one of: train, test" in error_of(str(tmp_path / "dict"), "val")
    both = (open_source(str(tmp_path / "dict"), split).fingerprint() for split in ("train", "test"))
    assert len(set(both)) == 2


def test_list_of_image_features_and_saved_format(tmp_path: Path) -> None:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    features = Features({"question": Value("string"), "answers": Value("int64"), "images": List(ImageFeature())})
    data = {"question": ["how many?"], "answers": [3], "images": [[{"bytes": png(0), "path": None}]]}
    Dataset.from_dict(data, features=features).with_format("numpy").save_to_disk(tmp_path / "set")
    (question,), _ = everything(open_source(str(tmp_path / "set")))
    assert (question.answers, question.image) == (("3",), png(0))


def test_tables_that_cannot_be_opened(tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    assert "bad.parquet cannot be read as a dataset" in error_of(str(tmp_path / "bad.parquet"))
    (tmp_path / "empty").mkdir()
    assert "empty cannot be read as a dataset" in error_of(str(tmp_path / "empty"))
    none = pa.table({"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())})
    pq.write_table(none.append_column("image", pa.array([], pa.binary())), tmp_path / "none.parquet")
    assert "none.parquet: no rows." in error_of(str(tmp_path / "none.parquet"))
    (tmp_path / "open.csv").write_text('"question,answer,image\n' + "What?,x,a.png\n" * 10_000)
    assert "open.csv cannot be read as a dataset: Error: field larger" in error_of(str(tmp_path / "open.csv"))
    Dataset.from_dict(table(2)).save_to_disk(tmp_path / "saved")
    for info in ("{}", "[]"):
        (tmp_path / "saved" / "dataset_info.json").write_text(info)
        (tmp_path / "saved" / "state.json").write_text('{"_data_files": []}')
        assert "saved cannot be read as a dataset" in error_of(str(tmp_path / "saved"))


# --- the Hub, without one -----------------------------------------------------------------------------


def test_hub_ids() -> None:
    for text in ("a/b", "a-b/c.d", "a/b@v1.0", "a/b:config", "a/b:con fig@refs/pr/1"):
        assert tables.is_hub_id(text)
    for text in ("a", "a/b/c", "/a/b", "a/b@", "a/b:", "", "a b/c"):
        assert not tables.is_hub_id(text)
    assert "'a' is not a Hub id" in error_of("hf:a")


COMMIT = "0123456789" * 4


class Answers:
    """Stands in for the Hub's client: answers with a commit, or does not answer."""

    cards: dict[str, str] = {}  # file of the repository -> its path here

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def dataset_info(self, name: str, revision: str | None, timeout: int) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return type("Info", (), {"sha": self.answer})

    def hf_hub_download(self, name: str, file: str, **_: Any) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        if file not in self.cards:
            raise EntryNotFoundError("404")
        return self.cards[file]


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any, tmp_path: Path, commit: str = COMMIT, **more: Any) -> list[Any]:
    """Make the Hub answer so, and `datasets` load a local table as the commit; gives the calls of the latter."""
    import datasets
    import huggingface_hub

    load, calls = datasets.load_dataset_builder, []
    path = parquet(tmp_path, table(2, **more), "hub.parquet")

    def fake(name: str, config: str | None, revision: str | None) -> Any:
        calls.append((name, config, revision))
        builder = load("parquet", data_files={"train": [path]})
        builder.hash = commit
        return builder

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: Answers(answer))
    monkeypatch.setattr(datasets, "load_dataset_builder", fake)
    return calls


def test_hub_dataset_is_pinned_to_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = hub(monkeypatch, COMMIT, tmp_path)
    source = open_source("user/set:small@v1")
    assert calls == [("user/set", "small", COMMIT)]
    questions, _ = everything(source)
    assert {(q.source, q.source_url, q.license) for q in questions} == {
        ("user/set:small", "https://huggingface.co/datasets/user/set", "")
    }
    assert source.fingerprint() == f"user/set@{COMMIT}:{source._table.rows.config_name}:train"  # type: ignore[attr-defined]
    assert "no split 'val'" in error_of("user/set", "val")


@pytest.mark.parametrize("path", ["https://x.org/a.parquet", "../b/a.parquet", "zip://a::http://127.0.0.1/b.zip"])
def test_data_files_outside_of_a_hub_dataset_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    calls = hub(monkeypatch, COMMIT, tmp_path)
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  data_files: {path}\n---\n")
    monkeypatch.setattr(Answers, "cards", {"README.md": str(tmp_path / "README.md")})
    assert f"user/set: its README.md names the data files {path!r}" in error_of("user/set")
    assert not calls, "nothing was resolved"


def test_a_cached_other_commit_is_never_taken_for_the_asked_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub(monkeypatch, COMMIT, tmp_path, commit="f" * 40)
    assert f"the cache holds commit {'f' * 40}, not {COMMIT}" in error_of("user/set@v1")


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = hub(monkeypatch, ConnectionError("offline"), tmp_path)
    assert COMMIT in open_source("user/set").fingerprint()
    assert COMMIT in open_source(f"hf:user/set@{COMMIT}").fingerprint()
    assert calls == [("user/set", None, None), ("user/set", None, COMMIT)]
    message = error_of("user/set@v1")
    assert "the Hub does not respond (ConnectionError)" in message and "commit of 40 hex digits" in message


def test_paths_of_a_hub_dataset_need_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub(monkeypatch, COMMIT, tmp_path, image=["0.png", "1.png"])
    assert "column 'image' holds paths. Name their folder with --images-root;" in error_of("user/set")
    (tmp_path / "0.png").write_bytes(png(0))
    source = open_source("user/set", options=SourceOptions(images_root=tmp_path))
    assert isinstance(source.read(0), Question) and source.read(1).reason == "image_missing"  # type: ignore[union-attr]


def test_base64_of_a_hub_dataset_needs_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub(monkeypatch, COMMIT, tmp_path, image=[base64.b64encode(png(i)).decode() for i in range(2)])
    assert [row.image for row in everything(open_source("user/set"))[0]] == [png(0), png(1)]


# --- spotlight, and telling kinds apart ---------------------------------------------------------------


def test_spotlight() -> None:
    source = open_source(limit=5)
    questions, drops = everything(source)
    assert (source.name, source.split, drops) == ("spotlight", "train", [])
    for i, question in enumerate(questions):
        drawn = world.make_example("train", i)
        assert (question.id, question.question, question.answers) == (drawn.id, drawn.question, (drawn.answer,))
        assert decode(question.image).tobytes() == drawn.image.tobytes()
        assert [box.xyxy for box in question.gold_boxes] == [drawn.gold_box]
        assert (question.license, question.ship_image) == ("CC0-1.0", True)
        assert question.source == f"spotlight-{drawn.level}"
    assert questions == everything(open_source("spotlight", limit=5))[0]
    assert open_source(limit=5).ids() == open_source(limit=9).ids()[:5]
    assert not set(open_source(split="val").ids()) & set(open_source(split="test").ids())
    assert len(open_source()) == 200
    withheld = open_source(limit=1, options=SourceOptions(ship_images=False)).read(0)
    assert isinstance(withheld, Question) and withheld.ship_image is False


def test_spotlight_fingerprint_follows_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source()
    first = source.fingerprint()
    assert open_source(limit=3).fingerprint() == first != open_source(split="val").fingerprint()
    monkeypatch.setattr(glyphs, "GLYPH", glyphs.GLYPH * 1.5)
    glyphs.font_glyph.cache_clear()
    assert source.fingerprint() != first
    glyphs.font_glyph.cache_clear()


def test_spotlight_settings() -> None:
    source = open_source("spotlight:clutter=20,level=relation", limit=3)
    questions, _ = everything(source)
    assert source.ids() == [f"spotlight-level=relation-clutter=20-train-{i}" for i in range(3)]
    for i, question in enumerate(questions):
        drawn = world.make_example("train", i, level="relation", clutter=20)
        assert (question.id, question.question, question.source) == (
            source.ids()[i],
            drawn.question,
            "spotlight-relation",
        )
        assert decode(question.image).tobytes() == drawn.image.tobytes()
    assert source.fingerprint() != open_source("spotlight", limit=3).fingerprint()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("level=hard", "unknown level 'hard'; expected one of attribute, relation, superlative"),
        ("color=red", "'color=red' is not level=, distractors=, clutter=, each at most once"),
        ("clutter=1,clutter=2", "'clutter=2' is not"),
        ("distractors=many", "'distractors=many' is not a whole number"),
        ("distractors=9", "9 distractors: expected 1 to 7"),
    ],
)
def test_spotlight_refuses_other_settings(settings: str, problem: str) -> None:
    message = error_of(f"spotlight:{settings}")
    assert message.startswith(f"--source spotlight:{settings}: {problem}")
    assert "An example: spotlight:level=relation,distractors=7,clutter=20." in message


def test_spotlight_errors() -> None:
    assert error_of(split="dev").startswith("spotlight has no split 'dev'. Expected one of: pretrain, sft, train")
    assert "do not apply to it" in error_of(options=SourceOptions(license="MIT"))
    assert "has 1000000000 questions" in error_of(limit=10**9 + 1)


def test_unknown_sources_list_what_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xlsx").write_text("x")
    none = str(tmp_path / "none")
    for source in (none, f"{none}.parquet", "data/none.csv", "nonsense", "", "~nobody-here/none.csv"):
        message = error_of(source)
        assert message.startswith(f"--source {source}: was not found. Expected spotlight, a .jsonl file")
        assert "user/name[:config][@revision]" in message
    assert "is no kind of file that visrl reads" in error_of(str(tmp_path / "a.xlsx"))
    monkeypatch.chdir(tmp_path.parent)
    hub_id = f"{tmp_path.name}/set"
    assert error_of(hub_id).endswith(f"The dataset of this name on the Hub is --source hf:{hub_id}."), "a folder here"
    assert "hf:" not in error_of(f"{hub_id}.csv")
    for source in ("~nobody-here/none.jsonl", "visual-cot:~nobody-here/x", "mix:~nobody-here/x", "vsr:~nobody-here/x"):
        assert "~nobody-here" in error_of(source)


def test_every_field_can_be_named() -> None:
    names = {field.name for field in Question.__dataclass_fields__.values()}  # type: ignore[attr-defined]
    assert set(DEFAULT_COLUMNS) - {"boxes", "box_space", "choices"} <= names
