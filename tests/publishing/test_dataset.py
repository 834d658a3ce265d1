"""A dataset folder from runs: its rows, splits, licenses, bytes, and that TRL takes it unchanged."""

import dataclasses
import io
import json
import re
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from tests.conftest import draw_photo, scripted_reply
from tests.helpers.dataset_runs import SHIPPED, file_bytes, make_run, photos, turned_jpeg
from visrl_data.core.config import Thresholds
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.images import decode, sha256
from visrl_data.core.pair_rule import JointExtremes
from visrl_data.pipeline import pairing
from visrl_data.publishing import dataset_rows, dataset_shards
from visrl_data.publishing.dataset import Stamp, build_dataset, restamp
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.runs import dataset_files, dataset_schema, pair_set, stored_images
from visrl_data.runs.dataset_folder import dataset_pairs, open_dataset

PIXEL_CONFIGS = {"rl1", "rl2", "images"}


@pytest.fixture(scope="module")
def spot(tmp_path_factory):
    """A run on 60 questions of the drawn world, whose images may be shipped."""
    return make_run(tmp_path_factory.mktemp("spot") / "run", limit=60)


@pytest.fixture(scope="module")
def built(spot, tmp_path_factory):
    return build_dataset([spot.path], tmp_path_factory.mktemp("built") / "set", Stamp("v1.0", "me/spot"))


def rows_of(folder, config, split="*"):
    files = sorted((folder / "data" / config).glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def loaded(folder, config, cache, split="train"):
    return load_dataset(str(folder), config, split=split, cache_dir=str(cache))


def test_the_same_runs_give_the_same_bytes(spot, built, tmp_path):
    again = build_dataset([spot.path], tmp_path / "again", Stamp("v1.0", "me/spot"))
    assert file_bytes(again.folder) == file_bytes(built.folder)
    shutil.copytree(spot.path, tmp_path / "moved" / "run")
    moved = build_dataset([tmp_path / "moved" / "run"], tmp_path / "again", Stamp("v1.0", "me/spot"))
    assert file_bytes(moved.folder) == file_bytes(built.folder), "and replaces the dataset that was there"
    assert [f.name for f in tmp_path.iterdir()] == ["again", "moved"] or len(list(tmp_path.iterdir())) == 2


def test_a_pair_is_one_readable_row(spot, built):
    rows = {row["question_id"]: row for row in rows_of(built.folder, "preferences")}
    pairs = pq.read_table(spot.path / "pairs.parquet").to_pylist()
    questions = {row["id"]: row for row in spot.table("questions").to_pylist()}
    assert len(rows) == len(pairs) > 10
    for pair in pairs:
        row, question = rows[pair["question_id"]], questions[pair["question_id"]]
        assert {key: row[key] for key in pair} == pair
        assert row["image_sha256"] == sha256(row["image"]["bytes"])
        assert (row["image_width"], row["image_height"]) == decode(row["image"]["bytes"]).size
        assert row["image_bytes"] == len(row["image"]["bytes"])
        assert (row["source"], row["source_id"]) == (question["source"], question["source_id"])
        assert (row["license"], row["round"], row["seed"], row["box_space"]) == ("CC0-1.0", 0, 0, "unit")
        assert row["prompts"] == list(spot.identity()["prompts"])
    assert len({row["id"] for row in rows.values()}) == len(rows)


def test_rows_name_models_with_revision_and_digest(tmp_path):
    """A run's identity as the transformers engine writes it, with a model in a folder of this machine."""
    run = make_run(tmp_path / "run", limit=20)
    told = {"engine": "transformers", "model": "/home/me/actor", "revision": None, "digest": "d" * 64, "adapter": True}
    manifest = run.manifest()
    manifest["run"]["actor"] = told
    manifest["run"]["critic"] = told | {"model": "org/base", "revision": "c" * 40, "adapter": False}
    run.manifest_path.write_text(json.dumps(manifest))
    folder = build_dataset([run.path], tmp_path / "set").folder
    row = rows_of(folder, "preferences")[0]
    assert (row["actor"], row["actor_digest"]) == ("actor", "d" * 64)
    assert row["critic"] == f"org/base@{'c' * 40}"
    assert b"/home/me" not in b"".join(file_bytes(folder).values())


def test_all_about_an_image_is_in_one_split(built):
    for config, column in (("preferences", "image_sha256"), ("candidates", "image_sha256"), ("images", "sha256")):
        sides = {s: {row[column] for row in rows_of(built.folder, config, s)} for s in ("train", "validation")}
        assert sides["train"] and sides["validation"], "60 images fall on both sides"
        assert {dataset_files.split_of(sha) for sha in sides["train"]} == {"train"}
        assert {dataset_files.split_of(sha) for sha in sides["validation"]} == {"validation"}
    for config in ("rl1", "rl2"):
        for split in ("train", "validation"):
            pairs = {row["id"] for row in rows_of(built.folder, "preferences", split)}
            assert {row.get("pair_id", row["id"]) for row in rows_of(built.folder, config, split)} == pairs


def test_a_tenth_of_the_images_is_held_out():
    held_out = sum(dataset_files.split_of(f"{i:064x}") == "validation" for i in range(5_000))
    assert 430 < held_out < 570


def test_rl1_prefers_the_win_box_as_the_actor_writes_it(built, tmp_path):
    """After parquet and `datasets`: image, then text; nothing but type and text in a part."""
    rows = loaded(built.folder, "rl1", tmp_path)
    pairs = {row["id"]: row for row in rows_of(built.folder, "preferences")}
    for row in rows:
        pair = pairs[row["id"]]
        assert row["prompt"][0]["content"] == [
            {"type": "image", "text": None},
            {"type": "text", "text": f"{pair['question']}\n" + focus_request()},
        ]
        assert row["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": pair["win_box_text"]}]}]
        assert row["rejected"][0]["content"][0]["text"] == pair["lose_box_text"]
        [image] = row["images"]
        assert image.tobytes() == decode(pair["image"]["bytes"]).tobytes()


def focus_request():
    from visrl_data.core.prompts import FOCUS_REQUEST

    return FOCUS_REQUEST


def test_rl2_puts_both_responses_under_the_win_crop(built, tmp_path):
    pairs = {row["id"]: row for row in rows_of(built.folder, "preferences")}
    steps = {"focus": 0, "response": 0}
    for row in loaded(built.folder, "rl2", tmp_path):
        pair = pairs[row["pair_id"]]
        steps[row["step"]] += 1
        assert row["id"] == f"{pair['id']}-{row['step']}"
        if row["step"] == "response":
            kinds = [part["type"] for part in row["prompt"][0]["content"]]
            assert kinds == ["image", "text", "image", "text"], "image, question, crop, request"
            assert row["chosen"][0]["content"][0]["text"] == pair["win_response"]
            assert row["rejected"][0]["content"][0]["text"] == pair["lose_response"]
            whole, crop = row["images"]
            assert crop.format == "PNG"
            assert crop.tobytes() == whole.convert("RGB").crop(pair["win_crop"]).tobytes(), "lossless"
        else:
            assert len(row["images"]) == 1
    assert steps["focus"] == steps["response"] == len(pairs) - built.counts["preferences"]["validation"]


def test_equal_responses_leave_no_response_row(built):
    pairs = dataset_pairs(built)
    column = pairs.pairs.column_names.index("same_response")
    same = pa.array([i == 0 for i in range(pairs.pairs.num_rows)])
    pairs = dataclasses.replace(pairs, pairs=pairs.pairs.set_column(column, "same_response", same))
    made = [example for _, example in pair_set.training_examples(pairs, responses=True)]
    first = pairs.pairs["id"][0].as_py()
    assert [e.step for e in made if e.pair_id == first] == ["focus"]
    assert len(made) == 2 * pairs.pairs.num_rows - 1


def test_rows_use_the_prompts_of_the_run(tmp_path):
    (tmp_path / "own.toml").write_text(
        'focus = "<image>\\nLook: {question} Where?"\n'
        'answer = "<image>\\n{question}\\nHere is a part:\\n<crop>\\nSo?"\n'
    )
    run = make_run(tmp_path / "run", limit=30, prompts=str(tmp_path / "own.toml"))
    folder = build_dataset([run.path], tmp_path / "set").folder
    rows = rows_of(folder, "rl2")
    asked = {row["id"]: row["question"] for row in rows_of(folder, "preferences")}
    for row in rows:
        texts = [part["text"] for part in row["prompt"][0]["content"]]
        question = asked[row["pair_id"]]
        assert texts == (
            [None, f"Look: {question} Where?"]
            if row["step"] == "focus"
            else [None, f"{question}\nHere is a part:", None, "So?"]
        )
    assert "<image>\nLook: {question} Where?" in (folder / "README.md").read_text()


def test_the_pool_can_be_filtered_again(spot, built):
    """Other thresholds on the published candidates give the pairs that `visrl filter` gives."""
    tables = [pq.read_table(file) for file in sorted((built.folder / "data" / "candidates").iterdir())]
    pool = pa.concat_tables(tables)
    assert pool.num_rows == spot.rows("candidates")
    raw = {(row["question_id"], row["index"]): row for row in spot.table("candidates").to_pylist()}
    for row in pool.to_pylist():
        stored = raw[row["question_id"], row["index"]]
        assert {key: row[key] for key in stored} == stored
    names = {"id": "question_id", "source": "source", "image_sha256": "image_sha256", "question": "question"}
    names |= {"answers": "answers", "gold_boxes": "gold_boxes"}
    first = pool.filter(pc.equal(pool["index"], 0))
    questions = pa.table({new: first[old] for new, old in names.items()})
    selection = pairing.select_pairs(pool, questions, JointExtremes(Thresholds(0.6, 0.4, 0.6, 0.4), True), seed=0)
    found = pairing.pair_table(pool, questions, selection).drop(["gold_boxes"]).to_pylist()
    pairs, everything = (
        pairing.select_pairs(
            spot.table("candidates"),
            spot.table("questions"),
            JointExtremes(Thresholds(0.6, 0.4, 0.6, 0.4), True),
            seed=0,
        ),
        spot.table("candidates"),
    )
    expected = pairing.pair_table(everything, spot.table("questions"), pairs).drop(["gold_boxes"]).to_pylist()
    assert len(found) > built.manifest["pairs"]["published"]
    assert sorted(found, key=lambda row: row["question_id"]) == sorted(expected, key=lambda row: row["question_id"])


def test_each_original_is_there_once_with_its_own_bytes(spot, built):
    stored = {row["sha256"]: row["bytes"] for row in spot.table("images").to_pylist()}
    rows = rows_of(built.folder, "images")
    assert {row["sha256"]: row["image"]["bytes"] for row in rows} == stored
    assert len(rows) == len(stored)


def test_load_dataset_shows_preferences_first(built, tmp_path):
    found = load_dataset(str(built.folder), cache_dir=str(tmp_path))
    assert {split: rows.num_rows for split, rows in found.items()} == built.counts["preferences"]
    assert found["train"].features == dataset_schema.PREFERENCES
    assert isinstance(found["train"][0]["image"], Image.Image)


def test_one_picture_turned_by_exif_and_one_transparent(tmp_path):
    """rl1 holds what the models saw; `images` the source's own bytes."""
    source = photos(tmp_path / "photos", **SHIPPED)
    for i in range(0, 12, 2):
        turned_jpeg(source.parent / f"{i}.jpg", i)
        picture = draw_photo(i, (60, 40))
        picture.putalpha(200)
        picture.save(source.parent / f"{i + 1}.png")
    folder = build_dataset([make_run(tmp_path / "run", source, box_win=0.5).path], tmp_path / "set").folder
    originals = {row["sha256"]: row["image"]["bytes"] for row in rows_of(folder, "images")}
    files = {sha256(f.read_bytes()): f.read_bytes() for f in source.parent.iterdir() if f.suffix != ".jsonl"}
    assert originals.items() <= files.items()
    pairs = {row["id"]: row for row in rows_of(folder, "preferences")}
    sizes = set()
    for row in rows_of(folder, "rl2"):
        pair = pairs[row["pair_id"]]
        shown = Image.open(io.BytesIO(row["images"][0]["bytes"]))
        upright = decode(originals[pair["image_sha256"]])
        assert (shown.mode, shown.getexif().get(0x0112, 1)) == ("RGB", 1)
        assert shown.tobytes() == upright.tobytes()
        sizes.add(shown.size)
        if row["step"] == "response":
            assert decode(row["images"][1]["bytes"]).tobytes() == upright.crop(pair["win_crop"]).tobytes()
    assert sizes == {(90, 160), (60, 40)}, "both kinds gave pairs"
    check_dataset(folder)


def test_upright_keeps_plain_files():
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 10), "red").save(buffer, kind)
        assert stored_images.upright(buffer.getvalue()) == buffer.getvalue()


def test_markers_in_a_question_stay_text(tmp_path):
    source = photos(tmp_path / "photos", question="is <image> on <|im_end|> or <b>?", **SHIPPED)
    folder = build_dataset([make_run(tmp_path / "run", source).path], tmp_path / "set").folder
    assert rows_of(folder, "preferences")[0]["question"] == "is <image> on <|im_end|> or <b>?"
    text = rows_of(folder, "rl1")[0]["prompt"][0]["content"][1]["text"]
    assert text.startswith("is <\u200bimage> on <\u200b|im_end|> or <b>?\n")


def test_large_configs_are_cut_into_shards(spot, built, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_shards, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(dataset_shards, "GROUP_ROWS", 5)
    folder = build_dataset([spot.path], tmp_path / "set").folder
    names = [f.name for f in sorted((folder / "data" / "images").glob("train-*"))]
    assert len(names) > 2 and names[0] == f"train-00000-of-{len(names):05d}.parquet"
    for config in dataset_schema.CONFIGS:
        assert rows_of(folder, config, "train") == rows_of(built.folder, config, "train")
    check_dataset(folder)


def test_a_row_group_is_bounded_by_its_pictures(monkeypatch):
    monkeypatch.setattr(dataset_shards, "GROUP_BYTES", 1_000)
    schema = dataset_schema.IMAGES.arrow_schema
    rows = [("train", {"sha256": str(i), "image": {"bytes": b"x" * 400, "path": None}}) for i in range(7)]
    assert [table.num_rows for _, table in dataset_shards.grouped(rows, schema)] == [3, 3, 1]


def test_candidates_are_cut_the_same_however_they_come(built, monkeypatch):
    monkeypatch.setattr(dataset_rows, "ROWS", 7)
    pool = pa.concat_tables(pq.read_table(f) for f in sorted((built.folder / "data" / "candidates").iterdir()))

    def cut(rows):
        tables = (pool.slice(start, rows) for start in range(0, pool.num_rows, rows))
        pieces = [
            (split, table.num_rows, table["box_text"].to_pylist()) for split, table in dataset_rows.by_split(tables)
        ]
        return [[piece for piece in pieces if piece[0] == split] for split in ("train", "validation")]

    assert cut(1_000) == cut(3) == cut(50)
    assert {rows for _, rows, _ in cut(3)[0][:-1]} == {7}


# Several runs


def test_runs_with_other_seeds_and_questions_go_together(tmp_path):
    runs = [
        make_run(tmp_path / "a", limit=20, seed=1),
        make_run(tmp_path / "b", limit=20, seed=2),
        make_run(tmp_path / "c", limit=30, split="test"),
    ]
    made = build_dataset([run.path for run in runs], tmp_path / "set")
    rows = rows_of(made.folder, "preferences")
    assert len(rows) == made.manifest["pairs"]["published"]
    assert made.manifest["pairs"]["in_runs"] == sum(run.manifest()["counts"]["pairs"] for run in runs)
    assert {(row["source_split"], row["seed"]) for row in rows} == {("train", 1), ("train", 2), ("test", 0)}
    assert sum(made.counts["candidates"].values()) == sum(run.rows("candidates") for run in runs)
    whole = json.loads((made.folder / "report.json").read_text())["yields"]["all"]
    parts = [json.loads((run.path / "report.json").read_text())["yields"]["all"] for run in runs]
    for key in ("questions", "candidates", "pairs", "in_win", "in_lose"):
        assert whole[key] == sum(part[key] for part in parts)
    assert len(made.manifest["runs"]) == 3
    check_dataset(made.folder)


def test_what_occurs_twice_is_kept_once(tmp_path):
    short, long = make_run(tmp_path / "short", limit=30), make_run(tmp_path / "long", limit=40, chunk_size=5)
    alone = build_dataset([long.path], tmp_path / "alone")
    made = build_dataset([short.path, long.path, short.path], tmp_path / "set")
    assert made.manifest["repeated_questions"] == 60
    strip = {"run"}
    both = [
        sorted(({k: v for k, v in row.items() if k not in strip} for row in rows_of(d.folder, config)), key=str)
        for config in ("preferences", "candidates")
        for d in (made, alone)
    ]
    assert both[0] == both[1] and both[2] == both[3]
    assert (made.folder / "report.json").read_bytes() == (alone.folder / "report.json").read_bytes()
    assert any("60 questions" in note for note in made.notes)


def test_a_pair_that_another_question_repeats_is_left_out(tmp_path):
    """Two rows of a source ask the same of the same picture, and a seedless model gives both the same pair."""
    source = photos(tmp_path / "photos", question=lambda i: f"What is thing {i // 2}?", **SHIPPED)

    def script(request, seed):
        texts = [part.text for part in request.parts if part.text]
        return scripted_reply(request, sum(map(ord, texts[0])) * 10 + seed % 2 if "Standard" not in texts[0] else 0)

    run = make_run(tmp_path / "run", source, script, diversity="off", attempts=8, box_win=0.5, box_lose=0.4)
    made = build_dataset([run.path], tmp_path / "set")
    counts = made.manifest["pairs"]
    assert counts["repeated"] > 0
    assert counts["published"] == counts["in_runs"] - counts["repeated"] == sum(made.counts["preferences"].values())
    check_dataset(made.folder)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"temperature": 1.5}, "temperature: 2.0 -> 1.5"),
        ({"attempts": 2}, "attempts: 3 -> 2"),
        ({"crop_min_side": 0.2}, "crop_min_side: unset -> 0.2"),
        ({"box_win": 0.9}, "filter.box_win: 0.8 -> 0.9"),
    ],
)
def test_runs_made_in_other_ways_are_refused(tmp_path, options, shown):
    first, second = make_run(tmp_path / "a", limit=10), make_run(tmp_path / "b", limit=10, seed=1, **options)
    with pytest.raises(VisRLError, match=re.escape(shown)):
        build_dataset([first.path, second.path], tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_an_unfinished_run_and_one_without_pairs_are_refused(tmp_path):
    with pytest.raises(VisRLError, match="no finished run"):
        build_dataset([tmp_path], tmp_path / "set")
    run = make_run(tmp_path / "run", script=lambda request, seed: "I see nothing", limit=4)
    with pytest.raises(VisRLError, match="visrl filter .* --sweep"):
        build_dataset([run.path], tmp_path / "set")


# Licenses


def test_without_a_license_the_user_is_asked(tmp_path):
    run = make_run(tmp_path / "run", photos(tmp_path / "photos"))
    with pytest.raises(VisRLError, match=r"24 of 24 questions state none.*--license cc-by-4\.0") as asked:
        build_dataset([run.path], tmp_path / "set")
    assert "questions" in str(asked.value) and not (tmp_path / "set").exists()
    made = build_dataset([run.path], tmp_path / "set", license="CC-BY-4.0")
    assert made.manifest["license"]["id"] == "cc-by-4.0"
    assert {row["license"] for row in rows_of(made.folder, "candidates")} == {"CC-BY-4.0"}
    assert not (made.folder / "LICENSE").exists()


def test_an_answer_that_contradicts_the_source_is_refused(tmp_path):
    run = make_run(tmp_path / "run", photos(tmp_path / "photos", license="CC-BY-4.0"))
    with pytest.raises(UsageError, match=r"every question states its license \(CC-BY-4\.0\)"):
        build_dataset([run.path], tmp_path / "set", license="mit")
    assert build_dataset([run.path], tmp_path / "set", license="cc-by-4.0").manifest["license"]["id"] == "cc-by-4.0"


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (lambda i: "CC0-1.0" if i < 6 else "CC-BY-4.0", ("other", "mixed")),
        (lambda i: "CC BY 4.0" if i < 6 else "cc-by-4.0", ("cc-by-4.0", "")),
        (lambda i: "Flickr Terms & Conditions", ("other", "flickr-terms-conditions")),
        (lambda i: "ODbL-1.0", ("odbl", "")),
    ],
)
def test_mixed_and_unknown_licenses_come_with_a_file(tmp_path, licenses, expected):
    source = photos(tmp_path / "photos", license=licenses, ship_image=True)
    made = build_dataset([make_run(tmp_path / "run", source).path], tmp_path / "set")
    assert (made.manifest["license"]["id"], made.manifest["license"]["name"]) == expected
    assert (made.folder / "LICENSE").exists() == (expected[0] == "other")
    for row in rows_of(made.folder, "preferences"):
        assert row["license"] == licenses(int(row["question_id"][1:]))
    assert any("does not know the license 'Flickr Terms" in note for note in made.notes) == expected[1].startswith(
        "flickr"
    )
    if expected[1] == "mixed":
        text = (made.folder / "LICENSE").read_text()
        assert "questions: CC-BY-4.0 (18 questions, 9 images, 9 of them published)" in text
    check_dataset(made.folder)


def test_images_stay_at_home_unless_somebody_says_that_they_may_go(tmp_path):
    """None: nobody said; the user's word counts for all; a source's no is counted when it is overruled."""
    source = photos(tmp_path / "photos", license="CC0-1.0", ship_image=lambda i: [None, True, False][i // 2 % 3])
    run = make_run(tmp_path / "run", source, box_win=0.5)
    files = {sha256((source.parent / f"{i}.{'jpg' if i % 2 == 0 else 'png'}").read_bytes()): i for i in range(12)}

    def shown(**options):
        made = build_dataset([run.path], tmp_path / "set", **options)
        check_dataset(made.folder)
        rows = rows_of(made.folder, "preferences")
        assert len(rows) == made.manifest["pairs"]["published"], "rows stay, whatever becomes of their images"
        embedded = {files[row["image_sha256"]] for row in rows if row["image"]}
        assert embedded <= {files[row["sha256"]] for row in rows_of(made.folder, "images")}
        assert {row["id"] for row in rows if row["image"]} == {row["id"] for row in rows_of(made.folder, "rl1")}
        return {i % 3 for i in embedded}, made

    by_source, made = shown()
    assert by_source == {1} and made.counts["rl1"]
    assert "8 of 12 images are left out" in made.notes[0] and "--ship-images" in made.notes[1]
    everything, made = shown(ship_images=True)
    assert everything == {0, 1, 2}
    assert made.notes == ("4 images are published because you said so, although their source says that they may not.",)
    nothing, made = shown(ship_images=False)
    assert nothing == set() and set(made.counts) == {"preferences", "candidates"}


def test_a_picture_stays_when_one_of_its_questions_says_no(tmp_path):
    source = photos(tmp_path / "photos", license="CC0-1.0", ship_image=lambda i: i % 2 == 0)
    made = build_dataset([make_run(tmp_path / "run", source).path], tmp_path / "set")
    assert "images" not in made.counts


def test_without_images_what_is_left_loads(tmp_path):
    source = photos(tmp_path / "photos", license="CC-BY-4.0", source_url="https://example.org/1")
    folder = build_dataset([make_run(tmp_path / "run", source).path], tmp_path / "set").folder
    row = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"][0]
    assert row["image"] is None and row["source_url"] == "https://example.org/1" and row["image_bytes"] > 0
    with pytest.raises(ValueError, match="rl1"):
        loaded(folder, "rl1", tmp_path / "cache")


# The folder


def test_a_folder_with_other_things_is_left_alone(spot, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear")
    with pytest.raises(VisRLError, match=r"thesis\.tex"):
        build_dataset([spot.path], tmp_path / "mine")
    folder = build_dataset([spot.path], tmp_path / "set").folder
    (folder / "notes.txt").write_text("dear too")
    with pytest.raises(VisRLError, match=r"notes\.txt"):
        build_dataset([spot.path], folder)
    assert (folder / "notes.txt").read_text() == "dear too"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mine", "set"]


def test_a_failing_build_keeps_the_dataset_that_was_there(spot, tmp_path, monkeypatch):
    before = file_bytes(build_dataset([spot.path], tmp_path / "set").folder)

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("visrl_cards.dataset.render_dataset_card", broken)
    with pytest.raises(OSError, match="disk full"):
        build_dataset([spot.path], tmp_path / "set", Stamp("v2.0"))
    assert file_bytes(tmp_path / "set") == before
    assert [f.name for f in tmp_path.iterdir()] == ["set"]


def test_no_path_of_this_machine_goes_out(tmp_path):
    source = photos(tmp_path / "private" / "photos", **SHIPPED)
    run = make_run(tmp_path / "run", source, images_root=str(source.parent))
    assert str(source.parent) in (run.path / "report.html").read_text()
    made = build_dataset([run.path], tmp_path / "set")
    everything = b"".join(file_bytes(made.folder).values())
    assert str(tmp_path).encode() not in everything
    assert b"--source questions.jsonl" in everything
    page = (made.folder / "report.html").read_text()
    assert "visrl gen --source questions.jsonl --images-root photos" in page, "made again without the paths"


def test_the_page_tells_no_server_and_no_detail_of_a_lost_row(tmp_path):
    source = photos(tmp_path / "photos", **SHIPPED)
    with source.open("a") as file:
        file.write(json.dumps({"id": "lost", "question": "?", "answers": ["x"], "image": "gone.png", **SHIPPED}) + "\n")
    run = make_run(tmp_path / "run", source, critic_base_url="http://example.org:8000/v1").path
    own, published = (run / "report.html").read_text(), build_dataset([run], tmp_path / "set").folder / "report.html"
    for word in ("example.org", "gone.png"):
        assert word in own and word not in published.read_text()


def test_the_page_of_a_run_goes_along_when_its_pictures_may(spot, tmp_path):
    run = shutil.copytree(spot.path, tmp_path / "run")
    page = (run / "report.html").read_bytes()
    assert (build_dataset([run], tmp_path / "set").folder / "report.html").read_bytes() == page
    assert not (build_dataset([run], tmp_path / "set", ship_images=False).folder / "report.html").exists()
    (run / "report.html").write_text("<script>")
    published = build_dataset([run], tmp_path / "set").folder / "report.html"
    assert published.read_bytes() == page, "made from the run's tables, whatever its own page became"


def test_another_tag_changes_no_row(spot, built, tmp_path):
    made = build_dataset([spot.path], tmp_path / "set", Stamp("v1.0", "me/spot"))
    changed = restamp(made, Stamp("v1.1", "me/spot", previous="v1.0", changes=("wider boxes",)))
    assert open_dataset(made.folder).manifest == changed.manifest
    new, old = file_bytes(made.folder), file_bytes(built.folder)
    assert {name for name in old if new[name] != old[name]} == {"README.md", "manifest.json"}
    card = (made.folder / "README.md").read_text()
    assert 'revision="v1.1"' in card and "Since `v1.0`:\n\n- wider boxes" in card
    check_dataset(made.folder)


# TRL


@pytest.mark.parametrize("config", ["rl1", "rl2"])
def test_dpo_trainer_takes_the_rows_unchanged(built, untrained, tmp_path, config):
    """One step of the stock trainer and collator on a batch that, in rl2, has one picture in some rows and two
    in others. At the start policy and reference agree: the loss is log 2.
    """
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    rows = loaded(built.folder, config, tmp_path / "cache").select(range(4))
    arguments = DPOConfig(
        str(tmp_path / "out"), max_length=None, per_device_train_batch_size=4, max_steps=1, logging_steps=1,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(untrained),
        args=arguments,
        train_dataset=rows,
        processing_class=AutoProcessor.from_pretrained(untrained),
        peft_config=LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"),
    )
    batch = trainer.data_collator([dict(row) for row in rows])
    pictures = sum(len(row["images"]) for row in rows)
    assert len(batch["pixel_values"]) == 2 * pictures == {"rl1": 8, "rl2": 12}[config]
    assert (batch["completion_mask"].sum(dim=1) > 0).all(), "every row has something to prefer"
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=2e-3)
    assert trainer.state.log_history[0]["grad_norm"] > 0
