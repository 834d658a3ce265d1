"""report.html: true to the report and the tables, harmless whatever the texts say, the same each time."""

import base64
import dataclasses
import html
import html.parser
import io
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import jinja2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import draw_photo, scripted_reply
from tests.helpers.command import visrl
from visrl_data.core.boxes import Box, iou
from visrl_data.core.config import GenConfig, Thresholds, to_toml
from visrl_data.core.gold_regions import gold_iou
from visrl_data.core.pair_rule import JointExtremes, rule_from
from visrl_data.core.text import visible
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors.generation import generate
from visrl_data.pipeline import finalize
from visrl_data.report import page, page_figures, page_flow, page_sample

# Each of these would mark the page if any of it were read as markup.
HACK = "document.documentElement.dataset.hacked=1"
HOSTILE = (
    f"</script><script>{HACK}</script>",
    f"<img src=x onerror={HACK}>",
    f"<!--<script>{HACK}</script>",
    f"\"'><svg onload={HACK}>",
    f"]]></title></textarea></style><iframe srcdoc='<script>parent.{HACK}</script>'>",
    "{{ 7 * 7 }}{% raw %}\\u003cb\\u003e&lt;b&gt;",
    "\u202eright to left\u2066\x07\x1b[31m\u2028\ufeff",
    "long " * 2000,
)


def make_run(folder, rows, script=scripted_reply, **options):
    """A finished run over drawn pictures; rows: what each question's row says besides its picture."""
    source = folder / "source"
    source.mkdir(parents=True)
    lines = []
    for i, row in enumerate(rows):
        draw_photo(i // 2, (120, 90 + 20 * (i // 2 % 2))).save(source / f"{i // 2}.png")
        lines.append({"id": f"q{i}", "question": "What?", "answers": ["7"], "image": f"{i // 2}.png"} | row)
    file = source / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = ScriptedEngine(script)
    config = GenConfig(source=str(file), chunk_size=5, **options)
    return generate(config, folder / "run", roles=(Role(engine, True), Role(engine, False)))


def hostile_script(request, seed):
    """scripted_reply, with an attack in every reply that may hold one; some are nothing else."""
    reply = scripted_reply(request, seed)
    evil = HOSTILE[seed % len(HOSTILE)] if seed else HOSTILE[len(request.parts[-1].text) % len(HOSTILE)]
    lost = seed % 3 == 0 if reply[0] == "[" else sum(request.images[0].resize((1, 1)).getpixel((0, 0))) % 9 == 0
    if reply == "8" or (lost and reply[0] in "[{"):
        return evil[:300]
    return f"{evil[:300]} {reply}" if reply[0] in "[{" and not {"[", "{"} & set(evil) else reply


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Forty questions, most with a label, all hostile; rows that are dropped at the source, too."""
    rows = [
        {
            "id": f"{i} {HOSTILE[i % 5]}",
            "question": f"Question {i}: {HOSTILE[i % len(HOSTILE)]}",
            "answers": ["7", HOSTILE[(i + 1) % len(HOSTILE)]],
            "source": HOSTILE[i % 3],
            "license": HOSTILE[(i + 2) % 4],
            **({"boxes": [[0.1, 0.1, 0.4, 0.5]]} if i % 4 else {}),
        }
        for i in range(40)
    ]
    rows += [{"image": "gone.png"}, {"answers": []}]
    return make_run(tmp_path_factory.mktemp("hostile"), rows, hostile_script, model=HOSTILE[0], box_win=0.6)


@pytest.fixture(scope="module")
def text(run):
    return (run.path / "report.html").read_text("utf-8")


def report_of(run):
    return json.loads((run.path / "report.json").read_text())


def data_of(run):
    """What the page's script reads."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page_text(run), re.DOTALL)
    return json.loads(found[0])


def page_text(run):
    return (run.path / "report.html").read_text("utf-8")


def rows_of(run, name):
    return pq.read_table(run.path / f"{name}.parquet").to_pylist()


def titles(text, plot):
    """{what a bar stands for: count} of a named plot, as its tooltips say."""
    figure = next(f for f in re.findall(r'<figure class="plot">.*?</figure>', text, re.DOTALL) if f">{plot}<" in f)
    pairs = (title.rsplit(": ", 1) for title in re.findall(r"<title>(.*?)</title>", figure))
    return {what: int(n.replace(",", "")) for what, n in pairs}


class Reader(html.parser.HTMLParser):
    """Tags, attributes and text, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_data(self, data):
        self.texts.append(data)


def check_inert(text):
    """Check that no hostile text became markup; return the page as a browser would see it."""
    seen = Reader(text)
    assert seen.tags["script"] == 2 and seen.tags["style"] == 1
    assert not {"iframe", "img", "object", "embed", "link", "base"} & set(seen.tags)
    assert not [name for _, name, _ in seen.attributes if name.startswith("on") or name in ("style", "srcdoc")]
    for payload in HOSTILE[:5]:
        assert payload not in text
    return seen


def check_policy(text):
    """Check that the page's policy allows its own script and style, and no other."""
    policy = next(v for t, n, v in Reader(text).attributes if t == "meta" and n == "content" and "default-src" in v)
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert page.policy(style, script) == policy


def test_the_page_is_a_result_with_a_digest(run):
    assert page.NAME in run.manifest()["sha256"]
    assert list(run.path.glob("*.tmp")) == []


def test_the_flow_shows_what_the_tables_hold(run, text):
    numbers = [int(n.replace(",", "")) for n in re.findall(r'<b class="number">(.*?)</b>', text)]
    candidates = run.table("candidates").to_pylist()
    scored = [c for c in candidates if c["box_score"] is not None and c["response_score"] is not None]
    pairs = rows_of(run, "pairs")
    differ = [p for p in pairs if p["win_response"] != p["lose_response"]]
    assert numbers == [42, 40, len(candidates), len(scored), len(pairs), len(differ)]
    assert 0 < len(pairs) < 40 and len(scored) < len(candidates) < 240
    parts = dict(re.findall(r'<span class="key (\w+)"></span> \w+ ([\d,]+)', text))
    wins = sum(c["box_score"] >= 0.6 and c["response_score"] >= 0.8 for c in scored)
    loses = sum(c["box_score"] <= 0.2 and c["response_score"] <= 0.2 for c in scored)
    assert parts == {"win": str(wins), "lose": str(loses), "between": str(len(scored) - wins - loses)}


def test_widths_are_shares_and_a_stage_is_never_wider_than_the_one_before(run):
    steps = page_flow.flow_stages(report_of(run))
    widths = [step.width for step in steps]
    assert widths[0] == 100 and widths == sorted(widths, reverse=True)
    assert widths[1] == pytest.approx(100 * 40 / 42)
    assert sum(part.width for part in steps[3].parts) == pytest.approx(widths[3], abs=0.01)
    assert all(step.lost == 0 or step.reasons for step in steps), "whatever was lost has a reason"


def test_every_figure_of_the_report_is_on_the_page(run, text):
    report, seen = report_of(run), " ".join(" ".join(Reader(text).texts).split())
    assert {"image missing", "no answer"} <= {r.replace("_", " ") for r in report["drops"]["source"]}
    for stage in ("attempts", "candidates"):
        for reason in report["drops"][stage]["focus"]:
            assert reason.replace("_", " ") in seen
    for name, cell in report["audit"]["pairs"]["cells"].items():
        assert f"{cell['low']:.2f} to {cell['high']:.2f}" in seen and name in seen
        assert f"{report['audit']['floor']['questions_with_pair'][name]:.2f}" in seen
    assert f"AUC {report['audit']['box_critic']['auc']:.3f}" in seen
    assert f"AUC {report['critics']['response']['exact']['auc']:.3f}" in seen
    assert f"{report['boxes']['iou_win_lose']['mean']:.3f}" in seen
    assert "30 of 40 questions have gold boxes" in seen
    for line in report["balance"]:
        assert line in seen


def test_histograms_count_the_candidates(run, text):
    candidates = run.table("candidates").to_pylist()
    for which in ("box", "response"):
        found = titles(text, f"{which.capitalize()} score")
        scores = Counter(c[f"{which}_score"] for c in candidates)
        unparsed = scores.pop(None, 0)
        assert found.pop("unparsed", 0) == unparsed
        assert found == {f"score {score:g}": n for score, n in scores.items()}


def test_labels_split_scores_and_ious(run, text):
    gold = {q["id"]: [Box(*b) for b in q["gold_boxes"]] for q in run.table("questions").to_pylist()}
    expected = Counter()
    for c in run.table("candidates").to_pylist():
        if gold[c["question_id"]] and c["box_score"] is not None:
            positive = gold_iou(Box(*c["box"]), gold[c["question_id"]]) > 0.5
            expected[f"{c['box_score']:g}, {'on the label (IoU &gt; 0.5), up' if positive else 'off it, down'}"] += 1
    assert titles(text, "Box score and label") == expected
    expected = Counter()
    for p in rows_of(run, "pairs"):
        for side, what in (("win", "win, up"), ("lose", "lose, down")) if gold[p["question_id"]] else ():
            value = gold_iou(Box(*p[f"{side}_box"]), gold[p["question_id"]])
            expected[f"{int(value * 10 + 1e-9) / 10:g}, {what}"] += 1
    assert titles(text, "IoU with the label") == expected


def test_coverage_is_exact():
    """The left half covers ten columns wholly; a box of a cell and a half, one cell and half of the next."""
    assert (page_figures.coverage(np.array([[0, 0, 0.5, 1]])) == np.repeat([[1] * 10 + [0] * 10], 20, axis=0)).all()
    share = page_figures.coverage(np.array([[0.1, 0.05, 0.175, 0.1], [0.9, 0.9, 1, 1]]))
    assert share[1, 2:4].tolist() == [0.5, 0.25] and share[18:, 18:].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert np.count_nonzero(share) == 6


def test_the_gallery_holds_the_rows(run):
    data = data_of(run)
    pairs = {visible(p["question_id"]): p for p in rows_of(run, "pairs")}
    questions = {visible(q["id"]): q for q in run.table("questions").to_pylist()}
    stored = {(visible(c["question_id"]), c["index"]): c for c in run.table("candidates").to_pylist()}
    assert [item["id"] for item in data["pairs"]] == list(pairs), "all of them, in the run's order"
    assert len(data["pairs"]) + len(data["unpaired"]) == 40
    for item in data["pairs"]:
        pair = pairs[item["id"]]
        assert (item["win"], item["lose"]) == (pair["win_index"], pair["lose_index"])
        assert item["same"] == pair["same_response"]
        assert item["ties"] == [pair["win_ties"], pair["lose_ties"]]
        assert item["iou"] == pytest.approx(iou(pair["win_box"], pair["lose_box"]), abs=1e-4)
    for item in data["pairs"] + data["unpaired"]:
        question = questions[item["id"]]
        size = np.array([question["width"], question["height"]] * 2)
        assert item["size"] == size[:2].tolist()
        assert np.allclose(
            np.array(item["gold"]).reshape(-1, 4), np.array(question["gold_boxes"]).reshape(-1, 4) * size, atol=0.006
        )
        assert len(item["candidates"]) == sum(key[0] == item["id"] for key in stored)
        for shown_one in item["candidates"]:
            row = stored[item["id"], shown_one["index"]]
            assert np.allclose(shown_one["box"], np.array(row["box"]) * size, atol=0.006)
            assert shown_one["crop"] == row["crop"]
            assert shown_one["seeds"] == [str(row["focus_seed"]), str(row["response_seed"])]
            assert shown_one["reply"] == visible(row["focus_reply"])
            assert shown_one["response"] == visible(row["response"])
            for which in ("box", "response"):
                score = shown_one["scores"][which]
                assert (score["value"], score["state"]) == (row[f"{which}_score"], row[f"{which}_score_state"])
                assert score["raw"] == visible(row[f"{which}_score_raw"])


def test_lost_attempts_are_part_of_the_history(run):
    told = [(item["id"], lost["attempt"]) for view in ("pairs", "unpaired") for item in data_of(run)[view]
            for lost in item["lost"]]  # fmt: skip
    drops = [d for d in run.table("drops").to_pylist() if d["stage"] == "focus"]
    assert drops and sorted(told) == sorted((visible(d["id"]), d["attempt"]) for d in drops)


def test_hostile_text_stays_text(text):
    seen = check_inert(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]", text)
    assert HOSTILE[0] in "".join(seen.texts), "it is shown, as text"
    assert "{{ 7 * 7 }}" in json.dumps(text) and "long " * 1000 not in text


def test_the_page_asks_for_nothing(text):
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|\bsrc=", re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
                         .replace("&lt;img src=x", "").replace("\\u003cimg src=x", ""))  # fmt: skip
    for tag, name, value in Reader(text).attributes:
        assert name != "href" or value.startswith("#" if tag == "a" else "data:image/")
    assert "default-src &#39;none&#39;" in text and "unsafe" not in text


def test_the_policy_names_the_script_and_the_style_that_are_there(text):
    check_policy(text)


def test_the_same_run_has_the_same_page(run, text):
    before = (run.path / "manifest.json").read_bytes()
    finalize.filter_run(run.path, {"box_win": 0.9})
    assert page_text(run) != text and "--box-win 0.9" in page_text(run)
    finalize.filter_run(run.path, {"box_win": 0.6})
    assert page_text(run) == text and (run.path / "manifest.json").read_bytes() == before


def test_caps_are_kept_and_said(run, text, monkeypatch):
    whole = data_of(run)
    monkeypatch.setattr(page_sample, "MOST_PAIRS", 3)
    monkeypatch.setattr(page_sample, "MOST_UNPAIRED", 2)
    finalize.filter_run(run.path, {})
    data, seen = data_of(run), " ".join(page_text(run).split())
    assert (len(data["pairs"]), len(data["unpaired"])) == (3, 2)
    assert f"3 of {len(whole['pairs'])} pairs, drawn at random with seed 0" in seen
    assert f"2 of {len(whole['unpaired'])} questions without a pair, drawn with the same seed" in seen
    assert [p["id"] for p in whole["pairs"] if p["id"] in {q["id"] for q in data["pairs"]}] == [
        p["id"] for p in data["pairs"]
    ]
    assert page_text(run).count("<image ") == len({p["picture"] for p in data["pairs"] + data["unpaired"]})
    monkeypatch.setattr(page_sample, "MOST_BYTES", 15_000)
    finalize.filter_run(run.path, {})
    fewer = data_of(run)
    assert 0 < len(fewer["pairs"]) < 3 and {p["id"] for p in fewer["pairs"]} < {p["id"] for p in data["pairs"]}
    monkeypatch.undo()
    finalize.filter_run(run.path, {})
    assert page_text(run) == text


def test_the_draw_is_uniform_and_depends_on_the_ids_alone():
    """20 of 200 ids, under 300 seeds: each is drawn 30 times, give or take (five sigma are 26)."""
    ids = [f"id {i}" for i in range(200)]
    with mock.patch.object(page_sample, "MOST_PAIRS", 20):
        drawn = Counter(row for seed in range(300) for row in page_sample.draw_pairs(ids, seed))
        assert len(drawn) == 200 and max(drawn.values()) < 56 and min(drawn.values()) > 4
        first = {ids[row] for row in page_sample.draw_pairs(ids, 7)}
        back = ids[::-1]
        assert {back[row] for row in page_sample.draw_pairs(back, 7)} == first
        assert first & set(ids[:150]) <= {ids[row] for row in page_sample.draw_pairs(ids[:150], 7)}


def test_rare_reasons_are_not_crowded_out():
    ids = [f"id {i}" for i in range(500)]
    reasons = ["no_win"] * 495 + ["same_box"] * 3 + ["neither"] * 2
    found = Counter(reasons[row] for row in page_sample.draw_unpaired(ids, reasons, 0))
    assert found == {"no_win": 45, "same_box": 3, "neither": 2}


def test_a_run_without_labels_says_so(tmp_path):
    run = make_run(tmp_path, [{}] * 6)
    text = page_text(run)
    assert "No question has a gold box, so there is nothing to audit" in text
    assert "IoU with the label<" not in text and "Labels<" not in text
    assert all(c["label_iou"] is None for item in data_of(run)["pairs"] for c in item["candidates"])


@pytest.mark.parametrize(
    ("rows", "says", "expected"),
    [
        ([{"boxes": [[0, 0, 1, 1]]}] * 4, "nothing", (4, 0)),
        ([{"answers": []}] * 3, "[0.1, 0.1, 0.4, 0.4]", (0, 0)),
    ],
    ids=["no candidate", "no question"],
)
def test_a_run_with_nothing_to_show_has_a_page(tmp_path, rows, says, expected):
    run = make_run(tmp_path, rows, lambda request, seed: says)
    assert (run.manifest()["counts"]["questions"], run.manifest()["counts"]["candidates"]) == expected
    assert "There is no candidate" in page_text(run)
    assert (len(data_of(run)["pairs"]), len(data_of(run)["unpaired"])) == (0, expected[0])


def test_a_run_without_a_box_critic_has_a_page(tmp_path):
    run = make_run(tmp_path, [{"boxes": [[0, 0, 1, 1]]}] * 6, box_critic=False)
    text = page_text(run)
    assert "off: the response score alone decides" in text and titles(text, "Response score")
    assert "<figcaption>Box score" not in text
    assert {c["scores"]["box"]["state"] for item in data_of(run)["pairs"] for c in item["candidates"]} == {"off"}


def test_a_run_that_no_model_scored_names_no_critic(tmp_path):
    run = make_run(tmp_path, [{}] * 6, box_critic=False, response_critic="exact")
    text = page_text(run)
    assert "<dt>Critic</dt><dd>none: no model scored anything</dd>" in text and ">Critic</th>" not in text
    assert "Response score (by exact) against exact match" in text


def test_pictures_are_small_and_only_those_that_are_wanted(run):
    names = run.table("images", ["sha256"])["sha256"].to_pylist()
    assert len(names) == 20
    found = page_sample.read_pictures(run, set(names[3:5]))
    assert list(found) == names[3:5] and all(uri.startswith("data:image/") for uri in found.values())


@pytest.mark.parametrize(("size", "small"), [((1200, 300), (480, 120)), ((100, 1000), (48, 480)), ((90, 60), (90, 60))])
def test_a_picture_keeps_its_shape(size, small):
    buffer = io.BytesIO()
    draw_photo(1, size).save(buffer, "PNG")
    uri = page_sample.small_picture(buffer.getvalue())
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == small and uri == page_sample.small_picture(buffer.getvalue())


def test_a_plain_drawing_stays_sharp_and_a_broken_one_is_left_out():
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "navy").save(buffer, "PNG")
    assert page_sample.small_picture(buffer.getvalue()).startswith("data:image/png")
    assert page_sample.small_picture(buffer.getvalue()[:60]) == ""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"source": "it's here/$HOME.jsonl", "limit": 7, "columns": {"question": "q", "answers": "a"}},
        {"box_critic": False, "ship_images": False, "trust_remote_code": True, "diversity": "off", "model": "-odd"},
        {"temperature": 0.0, "score_step": 0.05, "box_win": 0.9, "license": "CC BY 4.0; see `x`", "seed": -3},
        {"lose": "hardest"},
        {"engine": "vllm", "vllm_options": {"enforce_eager": True, "max_model_len": 8192, "kv_cache_dtype": "fp8"}},
        {"source": "mix:m.toml", "images_root": {"": "all.zip", "coco": "my pictures/coco", "gqa": "gqa.tar"}},
    ],
)
def test_the_command_on_the_page_gives_the_same_options(options):
    config = GenConfig(**options)
    [command] = page.commands(tomllib.loads(to_toml(config)), rule_from(dataclasses.asdict(config)))
    with mock.patch("visrl_cli.gen._generate") as generate:
        assert visrl(*shlex.split(command)[1:])[0] == 0
    assert generate.call_args.args[0] == config


def test_the_command_tells_of_a_later_filter():
    config = tomllib.loads(to_toml(GenConfig()))
    assert page.commands(config, JointExtremes(Thresholds(0.7, 0.2, 0.8, 0.1), False)) == [
        "visrl gen",
        "visrl filter RUN --box-win 0.7 --response-lose 0.1 --no-box-critic",
    ]
    again = page.commands(config, JointExtremes(Thresholds(), True, "hardest"))
    assert again == ["visrl gen", "visrl filter RUN --lose hardest"]
    config["lose"] = "hardest"
    assert page.commands(config, JointExtremes(Thresholds(), True, "hardest")) == ["visrl gen --lose hardest"]
    assert page.commands(config, JointExtremes(Thresholds(), True)) == [
        "visrl gen --lose hardest",
        "visrl filter RUN --lose uniform",
    ]


def test_inspect_names_the_page_and_opens_it(run):
    code, out, _ = visrl("inspect", run.path)
    assert code == 0 and out.endswith(f"{run.path / 'report.html'}\n")
    with mock.patch("webbrowser.open", return_value=True) as opened:
        assert visrl("inspect", run.path, "--open")[0] == 0
    opened.assert_called_once_with((run.path / "report.html").as_uri())
    with mock.patch("webbrowser.open", return_value=False):
        code, _, err = visrl("inspect", run.path, "--open")
    assert code == 1 and "report.html" in err


def test_colours_have_contrast():
    """WCAG 2: at least 4.5 for text on the ground and on cards, 3 for marks, in both schemes."""
    css = (Path(page.__file__).parent / "page.css").read_text()
    schemes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colour = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for ground in ("ground", "card"):
            for name in ("ink", "muted", "win", "lose", "gold", "link", "plain"):
                assert contrast(colour[name], colour[ground]) >= 4.5, (name, ground)
            assert contrast(colour["between"], colour[ground]) >= 3, ground


def contrast(a, b):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# In a real browser


@pytest.fixture(scope="module")
def dom(tmp_path_factory):
    """dom(url): the page as it is after its script ran, and what the browser complained of."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    if subprocess.run([browser, "--version"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip(f"{browser} does not start here")

    def load(url):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
                 "--virtual-time-budget=10000", "--host-resolver-rules=MAP * ~NOTFOUND",
                 f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]  # fmt: skip
        done = subprocess.run(
            [browser, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=200, check=True
        )
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, said

    return load


def cards(dom):
    return dom.count('<article class="card"')


def test_a_browser_that_is_attacked_shows_it(dom, tmp_path):
    """The control: without escaping and policy, the payload does mark the page."""
    (tmp_path / "bare.html").write_text(f"<!doctype html><title>bare</title><p>{HOSTILE[0]}</p>")
    assert "data-hacked" in dom((tmp_path / "bare.html").as_uri())[0].partition("<body")[0]


def test_in_a_browser_all_cards_are_there_and_no_text_runs(dom, run):
    found, said = dom((run.path / "report.html").as_uri())
    assert said == []
    assert "data-hacked" not in found.partition("<head")[0]
    tags = Reader(found).tags
    assert tags["script"] == 2 and not {"img", "iframe", "object", "embed", "base"} & set(tags)
    assert cards(found) == len(data_of(run)["pairs"])
    assert re.search(r'<output id="shown"[^>]*>(\d+) of \1 shown', found)


def test_in_a_browser_the_hash_filters(dom, run):
    data = data_of(run)
    address = (run.path / "report.html").as_uri()
    expected = [
        item
        for item in data["pairs"]
        for win in [next(c for c in item["candidates"] if c["index"] == item["win"])]
        if win["label_iou"] is not None and win["label_iou"] <= 0.5 and win["scores"]["box"]["value"] >= 0.7
    ]
    assert 0 < len(expected) < len(data["pairs"])
    found, _ = dom(f"{address}#view=pairs&positive=no&wb_min=0.7&sort=apart")
    assert cards(found) == len(expected)
    assert f"{len(expected)} of {len(data['pairs'])} shown" in found
    apart = [float(value) for value in re.findall(r"IoU of win and lose ([\d.]+)<", found)]
    assert len(apart) == len(expected) and apart == sorted(apart)
    reason = data["unpaired"][0]["reason"]
    found, _ = dom(f"{address}#view=unpaired&reason={reason}")
    assert cards(found) == sum(item["reason"] == reason for item in data["unpaired"])


def test_in_a_browser_an_empty_gallery_says_so(dom, run):
    address = (run.path / "report.html").as_uri()
    found, _ = dom(f"{address}#view=pairs&q=nothing+has+these+words")
    assert cards(found) == 0 and "Nothing matches these filters. Clear them to see all.</p>" in found
    assert f"0 of {len(data_of(run)['pairs'])} shown" in found


def test_in_a_browser_a_narrow_screen_is_wide_enough(dom, run, tmp_path):
    """400 pixels: only tables scroll, inside themselves. The page is in a frame of that width, without its policy."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_text(run))
    measure = "document.body.title = this.contentDocument.documentElement.scrollWidth"
    frame = f'<iframe onload="{measure}" style="width:400px;height:900px;border:0" srcdoc="{html.escape(page)}">'
    (tmp_path / "narrow.html").write_text(f"<!doctype html><body>{frame}</iframe>", encoding="utf-8")
    found, _ = dom((tmp_path / "narrow.html").as_uri())
    assert int(re.search(r'<body title="(\d+)"', found)[1]) <= 400


def test_in_a_browser_boxes_lie_where_they_should(dom, run):
    """A hash that names one question opens its history: boxes in pixels, crops as windows on the one picture."""
    item = next(i for i in data_of(run)["pairs"] if i["gold"])
    found, said = dom(f"{(run.path / 'report.html').as_uri()}#view=pairs&q={quote(item['id'])}")
    assert said == [] and cards(found) == 1
    width, height = item["size"]
    whole = re.search(rf'<svg viewBox="0 0 {width} {height}".*?</svg>', found, re.DOTALL)[0]
    assert f'href="#picture-{item["picture"]}"' in whole
    box_of = {c["index"]: c["box"] for c in item["candidates"]}
    for kind, box in (("win", box_of[item["win"]]), ("lose", box_of[item["lose"]]), ("gold", item["gold"][0])):
        drawn = re.search(rf'<rect class="box {kind}" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', whole)
        x, y, across, down = map(float, drawn.groups())
        assert [x, y, x + across, y + down] == pytest.approx(box, abs=0.01)
    for candidate in item["candidates"]:
        left, top, right, bottom = candidate["crop"]
        assert f'<svg viewBox="{left} {top} {right - left} {bottom - top}"' in found
        assert all(seed in found for seed in candidate["seeds"])
    assert found.count('<div class="candidate">') == len(item["candidates"])


def test_a_missing_template_value_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        page.environment().get_template("page.html.j2").render({})
