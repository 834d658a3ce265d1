"""Mixes: SFT and RL questions apart, every beginning stratified, one stable order; and the commands that take one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import visrl
from tests.tools.source_table import lines, metadata, pictures, read_all
from visrl_data.core.config import GenConfig, load_config, to_toml
from visrl_data.core.errors import VisRLError
from visrl_data.core.records import Drop
from visrl_data.executors import generation
from visrl_data.runs.parts import run_part
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.mix import SHIPPED, read_mix
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.visual_cot_train import TABLE_7

BOX = {"boxes": [[0.1, 0.1, 0.5, 0.5]]}


def questions(folder: Path, name: str, count: int) -> Path:
    pictures(folder, "a.jpg")
    rows = [
        {"question": f"What is {name} {i}?", "answers": ["x"], "image": "a.jpg", "id": f"{i}"} for i in range(count)
    ]
    return lines(folder / f"{name}.jsonl", *(row | BOX for row in rows))


@pytest.fixture
def mix(tmp_path: Path) -> Any:
    """Writes a mix of two files with 60 and 30 rows, and more text; gives its source."""
    files = {name: questions(tmp_path, name, count) for name, count in (("long", 60), ("short", 30))}

    def write(long: str = "", short: str = "", more: str = "") -> str:
        text = f'[long]\nsource = "{files["long"]}"\n{long}\n[short]\nsource = "{files["short"]}"\n{short}\n{more}'
        (tmp_path / "both.toml").write_text(text)
        return f"mix:{tmp_path}/both.toml"

    return write


def parts(source: Any) -> Counter[str]:
    return Counter(name.partition("/")[0] for name in source.ids())


def test_sft_and_rl_have_no_row_in_common(mix: Any) -> None:
    source = mix("sft = 10\ntrain = 40", "sft = 5")
    sft, train = open_source(source, "sft"), open_source(source, "train")
    assert parts(sft) == {"long": 10, "short": 5} and parts(train) == {"long": 40, "short": 25}
    assert not set(sft.ids()) & set(train.ids())
    asked = [{question.question for question in read_all(part)[0]} for part in (sft, train)]
    assert not asked[0] & asked[1] and len(asked[0] | asked[1]) == 80
    assert open_source(source, "sft").ids() == sft.ids() and sft.fingerprint() != train.fingerprint()
    question = sft.read(0)
    assert question.id == sft.ids()[0] and (question.source, question.split) == (question.id.partition("/")[0], "sft")
    assert question.source_id and len(question.gold_boxes) == 1


def test_every_beginning_is_stratified(mix: Any) -> None:
    source = mix("sft = 0", "sft = 0\nweight = 30")
    whole = open_source(source, "train")
    assert len(whole) == 90 and parts(whole) == {"long": 60, "short": 30}
    for limit in (3, 9, 30, 45, 90):
        short = open_source(source, "train", limit)
        assert short.ids() == whole.ids()[:limit]
        assert abs(parts(short)["short"] - limit / 3) <= 1
    even = open_source(mix("sft = 0\nweight = 1", "sft = 0\nweight = 1"), "train", 20)
    assert parts(even) == {"long": 10, "short": 10}
    assert even.fingerprint() == open_source(mix("sft = 0\nweight = 1", "sft = 0\nweight = 1"), "train").fingerprint()


def test_options_of_a_part_are_in_the_fingerprint(mix: Any) -> None:
    """Its rows are other ones by them, and no option of the command line says so."""
    plain = open_source(mix(), "train").fingerprint()
    assert open_source(mix('gold_format = "xyxy"'), "train").fingerprint() == plain, "the default"
    for option in ('gold_format = "xywh"', 'gold_space = "pixels"', 'license = "mine"', 'columns = {source = "id"}'):
        assert open_source(mix(option), "train").fingerprint() != plain


def test_defaults_and_too_few_rows(mix: Any) -> None:
    sft, train = (open_source(mix(), split) for split in ("sft", "train"))
    assert parts(sft) == {"long": 9, "short": 4}, "about a seventh, the paper's share"
    assert parts(train) == {"long": 51, "short": 26}
    asked = mix("sft = 100\ntrain = 200", "sft = 0\ntrain = 3")
    assert parts(open_source(asked, "sft")) == {"long": 20} and parts(open_source(asked, "train")) == {
        "long": 40,
        "short": 3,
    }
    assert len(open_source(asked, "val")) == 90, "another split is passed on; a file has but one"


def test_equal_rows_stay_on_one_side(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    row = {"question": "What?", "answers": ["x"], "image": "a.jpg"}
    lines(tmp_path / "twice.jsonl", *([row] * 5), *(row | {"question": f"{i}?"} for i in range(5)))
    (tmp_path / "m.toml").write_text(f'[a]\nsource = "{tmp_path}/twice.jsonl"\nsft = 5\ntrain = 5\n')
    sides = [
        {q.question for q in read_all(open_source(f"mix:{tmp_path}/m.toml", split))[0]} for split in ("sft", "train")
    ]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 6


def test_a_part_with_splits_of_its_own_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('[drawn]\nsource = "spotlight"\nsft = 3\ntrain = 7\n')
    for split, count in (("sft", 3), ("train", 7)):
        source = open_source(f"mix:{tmp_path}/m.toml", split)
        assert source.ids() == [f"drawn/spotlight-{split}-{i}" for i in range(count)]
        assert {question.source for question in read_all(source)[0]} == {"drawn"}


@pytest.mark.parametrize("by_name", [False, True])
def test_folders_of_images_are_for_the_parts_that_have_files(tmp_path: Path, mix: Any, by_name: bool) -> None:
    pictures(tmp_path / "else", "a.jpg")
    source = mix(more='[drawn]\nsource = "spotlight"\ntrain = 7\n')
    (tmp_path / "a.jpg").unlink()
    root = tmp_path / "else"
    options = SourceOptions(images_root={"long": root, "short": root} if by_name else root)
    read = open_source(source, "train", options=options)
    assert not read_all(read)[1] and parts(read)["drawn"] == 7


def test_options_of_a_part_and_of_the_mix(tmp_path: Path, mix: Any) -> None:
    lines(tmp_path / "other.jsonl", *({"q": "What?", "answers": ["x"], "image": "b.jpg", "id": i} for i in range(9)))
    other = f'[other]\nsource = "{tmp_path}/other.jsonl"\ncolumns = {{question = "q"}}\n'
    source = mix(more=other + 'license = "MIT"\nship_images = true\n')
    pictures(tmp_path / "else", "b.jpg")
    options = SourceOptions(images_root={"other": tmp_path / "else"})
    found = read_all(open_source(source, "train", options=options))[0]
    assert {(row.license, row.ship_image) for row in found if row.source == "other"} == {("MIT", True)}
    assert {row.license for row in found if row.source == "long"} == {""}, "the others keep their own folder"
    never = open_source(
        source, "train", options=SourceOptions(images_root={"other": tmp_path / "else"}, ship_images=False)
    )
    assert {row.ship_image for row in read_all(never)[0]} == {False}
    drop = next(row for row in map(open_source(source, "train").read, range(80)) if isinstance(row, Drop))
    assert (drop.source, drop.reason) == ("other", "image_missing") and drop.id.startswith("other/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no part. Expected tables such as"),
        ("a = 1", r"\[a\]: expected a table with source"),
        ("[a]\nsplit = 'x'", r"\[a\]: expected a table with source"),
        ("[a]\nsource = 'x'\nrows = 3", "unknown 'rows'; expected source, split"),
        ("[a]\nsource = 'x'\nsft = '3'", "sft = '3' is of the wrong type"),
        ("[a]\nsource = 'x'\nsft = true", "sft = True is of the wrong type"),
        ("[a]\nsource = 'x'\ntrain = -1", "train = -1: expected at least 0"),
        ("[a]\nsource = 'x'\nweight = 0", "weight = 0: expected above 0"),
        ("[a]\nsource = 'x'\nweight = nan", "weight = nan: expected above 0"),
        ("['a/b']\nsource = 'x'", "a part's name may have letters"),
        ("[a]\nsource = 'mix:b.toml'", "a mix cannot be a part of a mix"),
        ("[a]\nsource = '{path}/x'", "Name its folder: --mix m:PATH"),
        ("[a]\nsource = 'none.jsonl'", r"Part \[a\] of the mix: none.jsonl: no such file"),
        ("[a]\nsource = 'spotlight'\ntrain = 0", "no part has a row in split 'train'"),
        ("[a", "m.toml: "),
    ],
)
def test_wrong_files_are_one_message(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(VisRLError, match=message):
        open_source(f"mix:{tmp_path}/m.toml")
    with pytest.raises(VisRLError, match="Expected a TOML file of parts, or a shipped mix: paper."):
        open_source("mix:none")


def test_options_that_belong_to_the_parts(mix: Any) -> None:
    with pytest.raises(VisRLError, match="its file sets them for each part"):
        open_source(mix(), options=SourceOptions(license="MIT"))


# --- the paper's mix ---------------------------------------------------------------------------------


def test_the_shipped_mix_is_the_papers_table() -> None:
    found = {part.name: (part.sft, part.train) for part in read_mix(SHIPPED / "paper.toml", "DATA")}
    assert found == TABLE_7
    assert all(part.source == f"visual-cot-train:DATA:{part.name}" for part in read_mix(SHIPPED / "paper.toml", "DATA"))


def test_the_paper_mix_on_small_metadata(tmp_path: Path) -> None:
    folders = {"textcap": "textvqa", "visual7w": "v7w"}
    for name in TABLE_7:
        label = "v7w" if name == "visual7w" else name
        file = tmp_path / f"metadata/{name}_cot_train.jsonl"
        lines(file, *(metadata(i, label, f"{label}{i % 3}.jpg") for i in range(50)))
        pictures(tmp_path / "images/cot_image_data" / folders.get(name, name), *(f"{label}{i}.jpg" for i in range(3)))
    options = SourceOptions(images_root=tmp_path / "images")
    sft, train = (open_source(f"mix:paper:{tmp_path}/metadata", split, None, options) for split in ("sft", "train"))
    assert len(sft) + len(train) == 50 * 9 and not set(sft.ids()) & set(train.ids())
    made, drops = read_all(sft)
    assert not drops and set(parts(sft)) == set(TABLE_7) == {question.source for question in made}
    assert all(question.gold_boxes for question in made)
    assert parts(sft)["vsr"] == round(50 * 1876 / 3376)
    alone = open_source(f"visual-cot-train:{tmp_path}/metadata:vsr", "train", None, options)
    assert {f"vsr/{name}" for name in alone.ids()} == {name for name in train.ids() if name.startswith("vsr/")}


# --- by the commands ---------------------------------------------------------------------------------


def test_options_are_saved_and_read_back(tmp_path: Path) -> None:
    config = GenConfig(source="mix:a.toml", images_root={"": "x", "gqa": "y z.zip"}, allow_urls="*.org")
    (tmp_path / "c.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "c.toml", {}) == config
    assert "images_root" not in to_toml(GenConfig()) and "allow_urls" not in to_toml(GenConfig())


def test_gen_on_a_mix_and_its_yields(mix: Any, scripted_roles: Any, tmp_path: Path) -> None:
    config = GenConfig(source=mix("train = 8", "train = 4"), limit=6, images_root={"long": str(tmp_path)})
    run = generation.generate(config, tmp_path / "run", roles=scripted_roles).path
    report = json.loads((run / "report.json").read_text())
    assert {name: of["rows_read"] for name, of in report["yields"]["by_source"].items()} == {"long": 4, "short": 2}
    told = json.dumps(run_part(run).members[0].about["config"])
    assert str(tmp_path) not in told and '"source": "mix:both.toml"' in told, "no folder of this machine is published"


def test_gen_takes_a_mix(mix: Any) -> None:
    file = mix("train = 8", "train = 4").removeprefix("mix:")
    code, out, err = visrl("gen", "--mix", file, "--estimate", "--speed", 10, "--limit", 6, "--images-root", "a=tests",
                           "--images-root", "b=docs", "--json")  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert (told["questions"], told["parts"]) == (6, {"long": 4, "short": 2})
    code, _, err = visrl("gen", "--mix", file, "--source", "spotlight")
    assert code == 2 and "expected one of them" in err


def test_sft_takes_the_sft_questions(mix: Any, untrained: Path, tmp_path: Path) -> None:
    file = mix("sft = 4\ntrain = 8", "sft = 2\ntrain = 4").removeprefix("mix:")
    code, out, err = visrl("train", "sft", "--mix", file, "--model", untrained, "--epochs", 1, "--batch-size", 4,
                           "--accumulation", 1, "--validation", 0, "-o", tmp_path / "model", "--json")  # fmt: skip
    assert code == 0, err
    data = json.loads(out)["data"]
    assert data["split"] == "sft" and data["rows"] == 6 and data["name"] == f"mix:{file}"
