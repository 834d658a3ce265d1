"""Marks of `visrl audit` on the disk: appended, torn, damaged, of several people."""

import pyarrow as pa
import pytest

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import write_table
from visrl_data.runs import marks
from visrl_data.runs.marks import MARK_SCHEMA


def row(annotator, pair, **verdicts):
    return {"annotator": annotator, "pair_id": pair, **dict.fromkeys(marks.UNITS), **verdicts}


def table(*rows):
    return pa.Table.from_pylist(rows, MARK_SCHEMA)


def test_a_mark_is_on_disk_when_it_returns_and_a_later_one_takes_its_place(tmp_path):
    with marks.open_marks(tmp_path / "audit", "kim") as file:
        file.add("p", {"win_box": "right", "lose_box": "wrong"})
        file.add("p", {"win_box": "unsure"})
        assert len(file.path.read_text().splitlines()) == 3
    with marks.open_marks(tmp_path / "audit", "lee") as file:
        file.add("p", {"win_box": "wrong"})
    expected = [row("kim", "p", win_box="unsure", lose_box="wrong"), row("lee", "p", win_box="wrong")]
    assert marks.read_marks(tmp_path / "audit").to_pylist() == expected
    assert marks.read_marks(tmp_path / "none").num_rows == 0


def test_a_torn_last_line_is_no_mark_and_the_next_one_is_whole(tmp_path):
    with marks.open_marks(tmp_path, "kim") as file:
        file.add("p", {"win_box": "right"})
        file.add("q", {"win_box": "right"})
    path = tmp_path / "kim.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert marks.read_marks(tmp_path).to_pylist() == [row("kim", "p", win_box="right")]
    with marks.open_marks(tmp_path, "kim") as file:
        assert file.marks == {"p": {"win_box": "right"}}
        file.add("r", {"lose_box": "wrong"})
    expected = [row("kim", "p", win_box="right"), row("kim", "r", lose_box="wrong")]
    assert marks.read_marks(tmp_path).to_pylist() == expected


@pytest.mark.parametrize(
    ("line", "why"),
    [("{", "can't be read"), ('{"pair": "p", "unit": "win_box", "verdict": "maybe"}', "verdict"), ("[]", "dictionary")],
)
def test_any_other_damage_is_named_and_nothing_is_lost_over_it(tmp_path, line, why):
    (tmp_path / "kim.jsonl").write_text(f"{line}\n")
    with pytest.raises(VisRLError, match=f"kim.jsonl.*{why}"):
        marks.read_marks(tmp_path)
    with pytest.raises(VisRLError, match="kim.jsonl"), marks.open_marks(tmp_path, "kim"):
        pass
    assert (tmp_path / "kim.jsonl").read_text() == f"{line}\n"


def test_one_person_marks_on_one_page_at_a_time(tmp_path):
    with marks.open_marks(tmp_path, "kim"):
        with (
            pytest.raises(VisRLError, match="another `visrl audit` is open for kim"),
            marks.open_marks(tmp_path, "kim"),
        ):
            pass
        with marks.open_marks(tmp_path, "lee"):
            pass


@pytest.mark.parametrize("name", ["", "../kim", ".kim", "a/b", "k" * 41, "kim\n"])
def test_a_name_is_that_of_a_file(tmp_path, name):
    with pytest.raises(UsageError, match="--annotator"), marks.open_marks(tmp_path, name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_copy_under_another_name_is_no_annotator(tmp_path):
    """A dataset that held its marks could not be read again."""
    with marks.open_marks(tmp_path, "kim") as file:
        file.add("p", {"win_box": "right"})
    assert marks.read_marks(tmp_path).num_rows == 1
    (tmp_path / "kim (copy).jsonl").write_bytes((tmp_path / "kim.jsonl").read_bytes())
    with pytest.raises(VisRLError, match=r"kim \(copy\)\.jsonl is no file of marks.*Rename it"):
        marks.read_marks(tmp_path)
    (tmp_path / "kim (copy).jsonl").unlink()
    assert marks.read_marks(tmp_path).num_rows == 1


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "kim.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VisRLError, match="can't be opened"), marks.open_marks(tmp_path, "kim"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_joined_marks_keep_both_people_and_the_later_word_of_each():
    old = table(row("kim", "p", win_box="right", lose_box="wrong"), row("lee", "p", win_box="right"))
    new = table(row("kim", "p", win_box="wrong"), row("kim", "q", win_box="unsure"))
    expected = [
        row("kim", "p", win_box="wrong", lose_box="wrong"),
        row("kim", "q", win_box="unsure"),
        row("lee", "p", win_box="right"),
    ]
    assert marks.join_marks(old, new).to_pylist() == expected


@pytest.mark.parametrize("bad", [row("../kim", "p"), row("kim", None), row("kim", "p", win_box="good")])
def test_marks_of_a_strangers_set_are_checked(tmp_path, bad):
    (tmp_path / "audit").mkdir()
    write_table(tmp_path / marks.TABLE, table(row("kim", "p", win_box="right")))
    assert marks.read_dataset_marks(tmp_path).num_rows == 1
    write_table(tmp_path / marks.TABLE, table(bad))
    with pytest.raises(VisRLError, match=r"marks.parquet can't be read"):
        marks.read_dataset_marks(tmp_path)
