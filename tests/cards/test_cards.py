"""The dataset card: every number on it again from the parquet files; hostile texts; the gate before a commit."""

import dataclasses
import html
import json
import re
import shlex
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from huggingface_hub import DatasetCard

from tests.conftest import scripted_reply
from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from tests.helpers.hostile import PAYLOADS, poisoned, structure
from visrl_cards import pictures
from visrl_cards.dataset import limits, persuasion, render_dataset_card
from visrl_cards.front_matter import size_category
from visrl_cli.main import app
from visrl_cli.options import make_gen_config
from visrl_data.core.boxes import iou
from visrl_data.core.config import GenConfig, load_config
from visrl_data.core.errors import VisRLError
from visrl_data.core.files import write_json
from visrl_data.pipeline.finalize import filter_run
from visrl_data.publishing.dataset import Stamp, build_dataset
from visrl_data.publishing.dataset_checks import check_dataset
from visrl_data.runs.dataset_folder import dataset_pairs, digests, open_dataset
from visrl_data.spotlight import INJECTION


def unsure(request, seed):
    """As in conftest, but some focus replies hold no box and some verdicts can't be read."""
    reply = scripted_reply(request, seed)
    if reply.startswith("[") and seed % 7 == 0:
        return "nowhere"
    return "good!" if reply.startswith("{") and "0.3" in reply else reply


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two sources, lost attempts, unparsed verdicts, some questions with gold boxes."""
    folder = tmp_path_factory.mktemp("cards")
    source = photos(
        folder / "photos", rows=60, source=lambda i: f"set-{i % 2}", license=lambda i: f"cc-by-{i % 2 + 3}.0",
        ship_image=lambda i: i % 4 < 2, source_url=lambda i: f"https://example.org/{i}",
    )  # fmt: skip
    with source.open("a") as file:
        file.write(json.dumps({"id": "gone", "question": "q", "answers": ["a"], "image": "gone.png"}) + "\n")
    return make_run(folder / "run", source, unsure, box_win=0.7)


@pytest.fixture(scope="module")
def dataset(run, tmp_path_factory):
    release = Stamp("v2.0", "me/things", "My | things", ("en",), previous="v1.0", changes=("more <b>things</b>",))
    return build_dataset([run.path], tmp_path_factory.mktemp("made") / "set", release)


@pytest.fixture
def copy(dataset, tmp_path):
    import shutil

    return open_dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))


def read(folder, config):
    return [row for file in sorted((folder / "data" / config).iterdir()) for row in pq.read_table(file).to_pylist()]


def tables_of(card):
    """The card's Markdown tables, each as rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE)
    return [[[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in b.splitlines()] for b in blocks]


def table(card, *head):
    """The rows of the table whose head begins so."""
    [content] = [rows for rows in tables_of(card) if tuple(rows[0][: len(head)]) == head]
    return content[2:]


def as_number(text):
    return float(text.replace(",", "").removesuffix(" %"))


def test_counts_are_those_of_the_files(dataset):
    card = DatasetCard.load(dataset.folder / "README.md")
    rows = {(re.sub("`", "", c), s): int(n) for c, s, n, _ in table(card.text, "config")}
    there = {
        (folder.name, file.name.split("-")[0]): pq.read_metadata(file).num_rows
        for folder in (dataset.folder / "data").iterdir()
        for file in folder.iterdir()
    }
    assert rows == there and len({config for config, _ in rows}) == 5
    images = {row["image_sha256"] for row in read(dataset.folder, "candidates")}
    pairs = sum(n for (config, _), n in there.items() if config == "preferences")
    assert f"{pairs} pairs from 60 questions about {len(images)} images; data version `v2.0`" in card.text
    left_out = len(images) - sum(n for (config, _), n in there.items() if config == "images")
    assert f"**{left_out} of {len(images)} images are not in this dataset**" in card.text and left_out == 15


def test_yields_and_drops_are_those_of_the_pool(run, dataset):
    card = (dataset.folder / "README.md").read_text()
    told = {name: as_number(value) for name, value in table(card, "rows read")}
    told["rows read"] = as_number(re.search(r"^\| rows read \| (\d+) \|", card, re.MULTILINE)[1])
    pool, pairs = read(dataset.folder, "candidates"), read(dataset.folder, "preferences")
    lost = run.table("drops").to_pylist()
    scored = [row for row in pool if None not in (row["box_score"], row["response_score"])]
    questions = run.rows("questions")
    attempts = {(row["question_id"], row["attempt"]) for row in pool}
    assert told == {
        "rows read": 61,
        "dropped at the source": sum(row["stage"] == "source" for row in lost),
        "questions": questions,
        "attempts made": len(attempts),
        "attempts lost": 3 * questions - len(attempts),
        "candidates": len(pool),
        "candidates with all scores": len(scored),
        "candidates in W": sum(row["box_score"] >= 0.7 and row["response_score"] >= 0.8 for row in scored),
        "candidates in L": sum(row["box_score"] <= 0.2 and row["response_score"] <= 0.2 for row in scored),
        "pairs": len(pairs),
        "pairs with two different responses": sum(row["win_response"] != row["lose_response"] for row in pairs),
        "pairs per question": round(100 * len(pairs) / questions, 1),
        "pairs published": len(pairs),
    }
    assert len(scored) < len(pool) and len(attempts) < 3 * questions, "this run lost something"
    by_filter = Counter(row["reason"] for row in pq.read_table(run.path / "unpaired.parquet").to_pylist())
    reasons = {(stage, reason.replace("\\", "")): int(n) for _, stage, reason, n in table(card, "dropped")}
    assert {reason: n for (stage, reason), n in reasons.items() if stage == "filter"} == by_filter
    assert len(pairs) + by_filter.total() == questions
    focus = Counter(row["reason"] for row in lost if row["stage"] == "focus")
    assert {reason: n for (stage, reason), n in reasons.items() if stage == "focus"} == focus
    assert reasons["source", "image_missing"] == 1
    assert len(table(card, "source", "questions")) == 3, "the third is the file, whose row names no set"
    for name, *cells in table(card, "source", "questions")[1:]:
        asked, candidates, paired, share = map(as_number, cells)
        mine = sum(row["source"] == name for row in pairs)
        assert (asked, candidates) == (30, sum(row["source"] == name for row in pool))
        assert (paired, share) == (mine, round(100 * mine / 30, 1))


def test_the_audit_is_that_of_the_boxes(dataset):
    """WP/LN, Wilson's interval and the blind floor, by loops over the rows."""
    rows = [row for row in read(dataset.folder, "preferences") if row["gold_boxes"]]

    def positive(row, box):
        return max(iou(box, gold) for gold in row["gold_boxes"]) > 0.5

    cells = Counter(f"W{'NP'[positive(r, r['win_box'])]}-L{'NP'[positive(r, r['lose_box'])]}" for r in rows)
    candidates = read(dataset.folder, "candidates")
    pools = [
        [positive(row, other["box"]) for other in candidates if other["question_id"] == row["question_id"]]
        for row in rows
    ]
    blind = Counter()
    for pool in pools:
        ordered = [(a, b) for i, a in enumerate(pool) for k, b in enumerate(pool) if i != k]
        for a, b in ordered:
            blind[f"W{'NP'[a]}-L{'NP'[b]}"] += 100 / len(ordered) / len(pools)
    card = (dataset.folder / "README.md").read_text()
    told = {name: values for name, *values in table(card, "cell")}
    assert f"Audit of {len(rows)} pairs" in card and 0 < len(rows) < len(read(dataset.folder, "preferences"))
    for name in ("WP-LP", "WP-LN", "WN-LP", "WN-LN"):
        count, percent, interval, floor = told[name]
        low, high = wilson(cells[name], len(rows))
        assert (int(count), percent) == (cells[name], f"{100 * cells[name] / len(rows):.2f}")
        assert interval == f"{low:.2f} to {high:.2f}" and floor == f"{blind[name]:.2f}"


def wilson(k, n, z=1.959964):
    center, half = k / n + z * z / 2 / n, z * ((k / n * (1 - k / n) + z * z / 4 / n) / n) ** 0.5
    return tuple(100 * max(0, center + side * half) / (1 + z * z / n) for side in (-1, 1))


def test_critics_models_and_licenses_are_those_of_the_rows(run, dataset):
    card = (dataset.folder / "README.md").read_text()
    pool = read(dataset.folder, "candidates")
    for name, verdicts, unparsed, share, mean in table(card, "score"):
        scores = [row[f"{name}_score"] for row in pool]
        known = [score for score in scores if score is not None]
        assert (int(verdicts), int(unparsed)) == (len(scores), len(scores) - len(known))
        assert as_number(share) == round(100 * (1 - len(known) / len(scores)), 1)
        assert float(mean) == round(float(np.mean(known)), 3)
    for line in table(card, "run"):
        assert line[0].strip("`") in {row["run"] for row in pool} and line[1:3] == ["0", "0"]
    licenses = {tuple(row[:2]): row[2:] for row in table(card, "source", "license")}
    for (source, license), (questions, images, left_out) in licenses.items():
        mine = {(row["question_id"], row["image_sha256"]) for row in pool if row["source"] == source}
        assert {row["license"] for row in pool if row["source"] == source} == {license}
        shown = {row["sha256"] for row in read(dataset.folder, "images")}
        pictures_of = {sha for _, sha in mine}
        assert [int(questions), int(images), int(left_out)] == [len(mine), len(pictures_of), len(pictures_of - shown)]
    limits_told = card.split("## Known limits")[1].split("##")[0]
    controller = sum(row["win_box_origin"] == "controller" for row in read(dataset.folder, "preferences"))
    assert f"{controller} of {len(read(dataset.folder, 'preferences'))} win boxes are the diversity" in limits_told
    unread = sum(row["box_score"] is None for row in pool)
    assert unread and f"{unread} of {len(pool)} verdicts of the box critic could not be read" in limits_told


def test_thresholds_are_those_of_the_last_filter(tmp_path):
    run = make_run(tmp_path / "run", limit=60)
    filter_run(run.path, {"box_win": 0.6})
    card = (build_dataset([run.path], tmp_path / "set").folder / "README.md").read_text()
    assert ["box score", "0.6", "0.2"] in table(card, "threshold")
    assert re.search(r"^visrl filter runs/\w{12} --box-win 0\.6$", card, re.MULTILINE)


def test_the_commands_make_the_runs_again(run, dataset):
    """The command on the card gives the options that the run recorded (with the source's path cut)."""
    [line, again] = re.findall(r"^visrl gen .*$", (dataset.folder / "README.md").read_text(), re.MULTILINE)
    assert again.startswith("visrl gen --config ") and "--source questions.jsonl" in again
    words = shlex.split(line)
    assert words[-2:] == ["-o", f"runs/{dataset.manifest['runs'][0]['id']}"]
    command = typer.main.get_command(app).commands["gen"]
    given = command.make_context("gen", words[2:]).params
    options = {spec.name for spec in dataclasses.fields(GenConfig)}
    again = make_gen_config(None, {name: value for name, value in given.items() if name in options})
    recorded = load_config(run.path / "config.toml", {"source": "questions.jsonl"})
    assert again == recorded


def test_a_model_of_the_hub_is_pinned(dataset):
    manifest = json.loads(json.dumps(dataset.manifest))
    told = manifest["runs"][0]
    told["config"]["model"] = told["run"]["actor"]["model"] = "org/actor"
    told["run"]["actor"] |= {"revision": "a" * 40, "digest": "b" * 64}
    card = render_dataset_card(dataset.folder, manifest)
    assert f"visrl gen --model org/actor@{'a' * 40} " in card
    assert ["actor", "org/actor", "a" * 40, f"`{'b' * 16}`"] == table(card, "run")[0][3:]


def test_the_head_is_one_that_the_hub_takes(dataset):
    data = DatasetCard.load(dataset.folder / "README.md").data.to_dict()
    assert set(data) <= {
        *("language", "license", "license_name", "license_link", "tags", "annotations_creators", "pretty_name"),
        *("size_categories", "source_datasets", "task_categories", "configs", "dataset_info"),
    }
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "mixed", "LICENSE")
    assert (dataset.folder / "LICENSE").is_file()
    assert [config["config_name"] for config in data["configs"]] == [
        "preferences",
        "rl1",
        "rl2",
        "candidates",
        "images",
    ]
    assert [config.get("default") for config in data["configs"]] == [True, None, None, None, None]
    for config in data["configs"]:
        for files in config["data_files"]:
            assert list(dataset.folder.glob(files["path"])), "a pattern that matches"
    assert (data["size_categories"], data["language"], data["pretty_name"]) == (["n<1K"], ["en"], "My | things")
    assert data["task_categories"] == ["visual-question-answering", "image-text-to-text"]
    names = [info["config_name"] for info in data["dataset_info"]]
    assert "preference" in data["tags"] and names == [config["config_name"] for config in data["configs"]]
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (dataset.folder / "README.md").read_text()):
        assert (dataset.folder / path).is_file()


def test_size_categories():
    sizes = [size_category(n) for n in (999, 1_000, 9_999, 10_000, 999_999, 10**7)]
    assert sizes == ["n<1K", "1K<n<10K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "n>10M"]


def test_the_row_shown_is_a_real_one_with_a_picture_that_may_be_shown(dataset):
    card = (dataset.folder / "README.md").read_text()
    [row] = [row for row in read(dataset.folder, "preferences") if row["id"] == dataset.manifest["example"]]
    assert row["image"] is not None and (dataset.folder / "card" / "example.png").is_file()
    assert f"**{row['question']}** Answer: 7 / seven" in card
    told = {name: cells for name, *cells in table(card, "")}
    assert told["response"] == [row["win_response"], row["lose_response"]]
    assert told["box score"] == [str(row["win_box_score"]), str(row["lose_box_score"])]
    assert [text.replace("\\", "") for text in told["box"]] == [row["win_box_text"], row["lose_box_text"]]


def test_without_pictures_none_is_shown(run, tmp_path):
    dataset = build_dataset([run.path], tmp_path / "set", ship_images=False)
    assert not (dataset.folder / "card" / "example.png").exists()
    card = (dataset.folder / "README.md").read_text()
    assert "example.png" not in card and '"rl1"' not in card and "its publisher left them out" in card
    assert 'load_dataset(".", "preferences")' in card
    check_dataset(dataset.folder)


def test_charts_show_the_histograms(dataset):
    report = json.loads((dataset.folder / "report.json").read_text())
    box, response = pictures.score_panels(report)
    pool = read(dataset.folder, "candidates")
    for panel, name in ((box, "box_score"), (response, "response_score")):
        counts = Counter(f"{row[name]:g}" for row in pool if row[name] is not None)
        assert dict(zip(panel.labels, panel.series[0].values, strict=True)) == {x: counts[x] for x in panel.labels}
        assert panel.title == f"{name.split('_')[0]} score of {counts.total()} candidates"
    apart, sizes = pictures.box_panels(dataset_pairs(dataset), report)
    rows = read(dataset.folder, "preferences")
    assert sum(apart.series[0].values) == len(rows)
    for series in sizes.series:
        boxes = [row[f"{series.name}_box"] for row in rows]
        sides = [np.sqrt((right - left) * (bottom - top)) for left, top, right, bottom in boxes]
        assert series.values[3] == sum(0.3 <= side < 0.4 for side in sides)


def test_texts_from_strangers_stay_texts(tmp_path):
    nasty = "a | b <script>alert(1)</script> ![x](y) `code` **{{ 91 * 91 }}**\n\n# head"
    source = photos(tmp_path / "photos", question=nasty, answers=["7", "<img src=x>"], **SHIPPED)
    dataset = build_dataset([make_run(tmp_path / "run", source).path], tmp_path / "set")
    body = (dataset.folder / "README.md").read_text().split("\n---\n")[1]
    assert "<script" not in body and "<img" not in body and "\n# head" not in body and "8281" not in body
    assert html.unescape(re.sub(r"\\(.)", r"\1", body)).count("a | b <script>alert(1)</script>") == 1
    check_dataset(dataset.folder)


def test_what_is_missing_is_an_error(copy):
    report = json.loads((copy.folder / "report.json").read_text())
    del report["settings"]["gold_rule"]
    write_json(copy.folder / "report.json", report)
    with pytest.raises(VisRLError, match=r"settings\.gold_rule: Field required"):
        render_dataset_card(copy.folder, copy.manifest)


def test_limits_say_what_cannot_be_said(dataset):
    report = json.loads((dataset.folder / "report.json").read_text())
    report["critics"]["box"] = None
    report["audit"] = {"pairs": None, "state": "no question has a gold box, so there is nothing to audit"}
    lines = "\n".join(limits(report, dataset.manifest["runs"]))
    assert (
        "The box scores were left out when the pairs were selected" in lines
        and "could not be checked: no question has a gold box" in lines
    )


def test_how_far_the_critic_can_be_talked_to_is_told_for_the_model_it_was_measured_on(dataset):
    card = (dataset.folder / "README.md").read_text(encoding="utf-8")
    assert "was not measured" in card.split("## Known limits")[1].split("## ")[0], "these critics are made of dice"
    report = json.loads((dataset.folder / "report.json").read_text())
    study = json.loads(INJECTION.read_text(encoding="utf-8"))
    run = json.loads(json.dumps(dataset.manifest["runs"][0]))
    run["run"]["critic"] |= {"weights_digest": study["digest"], "digest": "a" * 64}
    box, response = persuasion(run, report)
    wrong = [e for e in study["effects"] if (e["critic"], e["kind"]) == ("response_critic", "wrong")]
    worst = max(wrong, key=lambda e: e["shift"])
    assert f"{worst['shift']:+.3f} ({worst['low']:+.3f} to {worst['high']:+.3f})" in response
    assert f"{worst['to_win']} of {study['questions']} verdicts became a win" in response
    assert "box score" in box and study["texts"][worst["text"]] in response
    alone = run | {"config": run["config"] | {"response_critic": "exact"}}
    assert list(persuasion(alone, report)) == [box]
    assert not list(persuasion(alone, report | {"critics": report["critics"] | {"box": None}}))


def test_no_box_critic_and_no_gold_boxes(tmp_path):
    source = photos(tmp_path / "photos", boxes=None, **SHIPPED)
    run = make_run(tmp_path / "run", source, box_critic=False)
    dataset = build_dataset([run.path], tmp_path / "set")
    card = (dataset.folder / "README.md").read_text()
    assert "Nothing to audit: no question has a gold box" in card
    assert [row[0] for row in table(card, "threshold")] == ["response score"]
    check_dataset(dataset.folder)


OPTIONS = [
    {},
    {"diversity": "off"},
    {"diversity": "question", "iou_max": 0.1},
    {"box_critic": False},
    {"response_critic": "exact"},
    {"box_critic": False, "response_critic": "normalized", "diversity": "off"},
    {"lazy": True},
    {"critic": "org/judge"},
    {"score_step": 0.1},
    {"attempts": 1},
    {"lose": "actor-first"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_sentence_follows_from_the_options(options, tmp_path):
    run = make_run(tmp_path / "run", limit=24, **options)
    dataset = build_dataset([run.path], tmp_path / "set")
    card = " ".join((dataset.folder / "README.md").read_text().split())
    has_box, metric = options.get("box_critic", True), options.get("response_critic", "model")
    assert ("no diversity controller ran" in card) == (options.get("diversity") == "off")
    assert ("controller replaced" in card) == (options.get("diversity") != "off")
    assert ("(Eq. 3 of the paper)" in card) == ("diversity" not in options)
    assert ("no model judged anything" in card) == (not has_box and metric != "model")
    assert ("scored both steps" in card) == (has_box and metric == "model")
    assert ("the answer metric" in card) == (metric != "model") and f"metric `{metric}`" in card or metric == "model"
    assert ("There was no box critic" in card) == (not has_box) == ("the two scores disagree" not in card)
    assert ("(`--lazy`)" in card) == ("lazy" in options)
    assert ("Scores were rounded to multiples of 0.1" in card) == ("score_step" in options)
    assert ("(`--lose actor-first`)" in card) == ("Among equally bad candidates" in card) == ("lose" in options)
    assert ("the critic, scripted, scored" in card) == ("critic" in options)
    assert f"(N = {options.get('attempts', 3)})" in card
    critics = {(row["critic"], row["critic_digest"]) for row in read(dataset.folder, "preferences")}
    assert critics == {("", "")} if not has_box and metric != "model" else critics == {("scripted", "")}


def as_adapter(manifest):
    """Give a manifest the models of a run by an adapter whose base, with the adapter off, is the critic."""
    weights = {"engine": "transformers", "model": "me/actor", "revision": "a" * 40, "digest": "a" * 64}
    weights |= {"weights_digest": "b" * 64}
    manifest["run"]["actor"] = weights | {"adapter": True}
    manifest["run"]["critic"] = weights | {"adapter": False}
    manifest["run"]["origin_base"] = {"id": "org/base@" + "c" * 40, "digest": "b" * 64}


def test_the_critic_under_an_adapter_is_named_as_the_base_that_it_is(tmp_path):
    run = make_run(tmp_path / "run", limit=20)
    manifest = run.manifest()
    as_adapter(manifest)
    write_json(run.manifest_path, manifest)
    dataset = build_dataset([run.path], tmp_path / "set")
    for row in read(dataset.folder, "preferences"):
        assert (row["actor"], row["actor_digest"]) == (f"me/actor@{'a' * 40}", "a" * 64)
        assert (row["critic"], row["critic_digest"]) == (f"org/base@{'c' * 40}", "b" * 64)
    card = (dataset.folder / "README.md").read_text()
    assert "its original version, the critic, scored both steps" in " ".join(card.split())
    [_, critic] = table(card, "run")
    assert critic[3:] == ["critic", f"org/base@{'c' * 40}", "c" * 40, f"`{'b' * 16}`"]


def test_scores_that_the_filter_left_out_are_not_said_to_be_empty(tmp_path):
    run = make_run(tmp_path / "run", limit=60)
    filter_run(run.path, {}, False)
    card = " ".join((build_dataset([run.path], tmp_path / "set").folder / "README.md").read_text().split())
    assert "scored both steps" in card and "The box scores were left out" in card
    assert "decided nothing" in card and "no box critic" not in card


CLOSED = (
    "example",
    "diversity",
    "response_critic",
    "sha256",
    "gold_rule",
)  # values of a closed list, checked elsewhere


def test_no_field_of_manifest_or_report_changes_the_card(copy):
    """Every string of both, and every name of a source, reason or prompt, is a payload."""
    report = json.loads((copy.folder / "report.json").read_text())

    def card(words):
        write_json(copy.folder / "report.json", poisoned(report, words, CLOSED))
        return render_dataset_card(copy.folder, poisoned(copy.manifest, words, CLOSED))

    plain = structure(card("x"))
    for text in PAYLOADS:
        body = card(text)
        assert structure(body) == plain, text
        assert "\x1b" not in body and DatasetCard(body).data.to_dict()["pretty_name"]


# The gate


def restate(dataset):
    """Bring the manifest's digests up to date, as somebody would who tampers with care."""
    write_json(dataset.folder / "manifest.json", dataset.manifest | {"sha256": digests(dataset.folder)})


def replace_column(file, name, change):
    content = pq.read_table(file)
    rows = content.to_pylist()
    for row in rows:
        row[name] = change(row[name])
    pq.write_table(pa.Table.from_pylist(rows, content.schema), file)


def first_file(dataset, config):
    return sorted((dataset.folder / "data" / config).glob("train-*"))[0]


def test_a_sound_folder_passes(dataset):
    rows = {config: read(dataset.folder, config) for config in ("preferences", "rl1", "rl2", "images")}
    embedded = sum(row["image"] is not None for row in rows["preferences"])
    lists = sum(len(row["images"]) for config in ("rl1", "rl2") for row in rows[config])
    assert check_dataset(dataset.folder) == embedded + lists + len(rows["images"])


def test_changed_and_surplus_files_are_found(copy):
    file = first_file(copy, "rl1")
    file.write_bytes(file.read_bytes() + b"x")
    (copy.folder / "report.json").unlink()
    with pytest.raises(VisRLError) as error:
        check_dataset(copy.folder)
    for line in (
        r"rl1/train-00000-of-00001.parquet was changed",
        "report.json is missing",
    ):
        assert line in str(error.value)
    (copy.folder / "data" / "rl1" / "train-extra.parquet").write_bytes(b"PAR1")
    with pytest.raises(VisRLError, match=r"train-extra\.parquet is not in its manifest"):
        check_dataset(copy.folder)


@pytest.mark.parametrize(
    ("config", "column", "change", "message"),
    [
        ("images", "image", lambda image: image | {"bytes": image["bytes"][:-40]}, "another checksum"),
        ("rl1", "images", lambda images: [{"bytes": b"", "path": "a.png"}], "no bytes"),
        ("rl1", "images", lambda images: [{"bytes": b"GIF89a", "path": None}], "can't be opened"),
        ("rl2", "images", lambda images: images[:1] * len(images), "the picture is .* expected"),
        ("rl1", "id", lambda name: "x", "two rows have the id x"),
        ("images", "sha256", lambda name: name[::-1], "belongs to the other split|another checksum"),
    ],
)
def test_spoiled_rows_are_found(copy, config, column, change, message):
    replace_column(first_file(copy, config), column, change)
    restate(copy)
    with pytest.raises(VisRLError, match=message):
        check_dataset(copy.folder)


def test_other_counts_and_features_are_found(copy):
    file = first_file(copy, "candidates")
    content = pq.read_table(file)
    pq.write_table(content.slice(1).drop(["focus_reply"]), file)
    restate(copy)
    with pytest.raises(VisRLError) as told:
        check_dataset(copy.folder)
    rows = content.num_rows
    for line in (
        "other columns than candidates has",
        f"candidates/train has {rows - 1} rows, manifest says {rows}",
        f"candidates/train has {rows - 1} rows, dataset_info says {rows}",
        f"candidates/train has {rows - 1} rows, the card says {rows}",
    ):
        assert line in str(told.value)


def test_a_card_edited_by_hand_is_found(copy):
    card = copy.folder / "README.md"
    card.write_text(card.read_text().replace("candidates in W |", "candidates in W | 1"))
    restate(copy)
    with pytest.raises(VisRLError, match=r"README\.md is not the card"):
        check_dataset(copy.folder)


def test_other_folders_are_refused(tmp_path, run):
    for folder in (tmp_path, run.path):
        with pytest.raises(VisRLError, match="no dataset that visrl made"):
            check_dataset(folder)
