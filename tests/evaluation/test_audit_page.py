"""The page of `visrl audit`: who is let in, what is shown, what is stored, in a real browser, and after a kill."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
import uvicorn
from PIL import Image

from tests.helpers.auditor import mark_everything, sender
from tests.helpers.browser import Tab, open_browser
from tests.helpers.command import visrl
from tests.helpers.dataset_runs import make_run, photos
from tests.helpers.hostile import PAYLOADS
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.images import decode
from visrl_data.evaluation import audit, loopback
from visrl_data.evaluation.audit_page import AuditServer, build_app
from visrl_data.report.human_audit import audit_by_people
from visrl_data.runs.marks import open_marks, read_marks
from visrl_data.runs.pair_ids import pair_ids
from visrl_data.runs.run_folder import Run

TOKEN = "token-of-the-test"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    return make_run(folder / "run", photos(folder / "photos", 40), attempts=4)


@contextmanager
def serving(run, folder, annotator="kim", sample=1000):
    """Serve the page of a run with its marks in a folder; yield its address."""
    target = audit.open_audit(str(run.path), print)
    with loopback.listen(0) as listener, open_marks(folder, annotator) as marks:
        pairs = audit.draw(target, sample, annotator)
        app = build_app(AuditServer(pairs, marks, {"annotator": annotator, "note": "a note"}), TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"{loopback.address(listener)}/{TOKEN}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def page(run, tmp_path):
    with serving(run, tmp_path) as address:
        yield address


def status(url, body=None, **headers):
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        assert error.headers["content-security-policy"].startswith("default-src 'none'")
        return error.code


def lines(folder, annotator="kim"):
    return [json.loads(line) for line in (folder / f"{annotator}.jsonl").read_text().splitlines()]


def a_mark(**changes):
    return {"pair": 0, "place": 0, "part": "box", "verdict": "right", "seen": None} | changes


# Who is let in


def test_only_this_machine_with_the_token_and_from_this_page_is_let_in(page, tmp_path):
    home = page.removesuffix(f"{TOKEN}/")
    body = json.dumps(a_mark()).encode()
    assert [status(page + path) for path in ("", "style.css", "script.js", "pairs", "picture/0", "crop/0/1")] == [
        200
    ] * 6
    assert [status(home + path) for path in ("", "pairs", "mark", f"{TOKEN}x/", f"x/{TOKEN}/", "wrong/pairs")] == [
        403
    ] * 6
    assert status(home + "wrong/mark", body) == 403
    for host in ("elsewhere.example", "127.0.0.1.elsewhere.example:80", "", "10.0.0.1:80"):
        assert status(f"{page}pairs", Host=host) == 403, host
    for origin in ("http://elsewhere.example", "null", home.replace("http", "https").rstrip("/"), "http://127.0.0.1:1"):
        assert status(f"{page}mark", body, Origin=origin) == 403, origin
    assert lines(tmp_path) == []
    assert status(f"{page}mark", body, Origin=home.rstrip("/")) == 200
    assert len(lines(tmp_path)) == 1


def test_every_reply_has_the_policy(page):
    with urllib.request.urlopen(page, timeout=120) as reply:
        headers = reply.headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"


# What is shown


def test_nothing_says_which_side_is_the_win(run, page):
    shown = sender(page)("pairs")
    assert {"win", "lose", "score", "gold"}.isdisjoint(re.findall(r"[a-z]+", json.dumps(shown)))
    assert sorted(shown["pairs"][0]) == [
        *("answers", "boxes", "colors", "marks", "question", "responses", "same", "size"),
    ]
    pairs = audit.draw(audit.open_audit(str(run.path), print), 1000, "kim")
    for order in (Counter(pair.sides for pair in pairs), Counter(pair.colors for pair in pairs)):
        assert len(order) == 2 and min(order.values()) > len(pairs) // 5
    others = audit.draw(audit.open_audit(str(run.path), print), 1000, "lee")
    assert [pair.id for pair in others] == [pair.id for pair in pairs]
    assert [pair.sides for pair in others] != [pair.sides for pair in pairs], "each person has an order of their own"


def test_pictures_and_crops_are_those_of_the_pair(run, page):
    pairs = audit.draw(audit.open_audit(str(run.path), print), 3, "kim")
    items = sender(page)("pairs")["pairs"]
    for number, pair in enumerate(pairs):
        whole = decode(pair.image)
        assert opened(f"{page}picture/{number}").size == whole.size == tuple(items[number]["size"])
        for place, side in enumerate(pair.sides):
            left, top, right, bottom = pair.row[f"{side}_crop"]
            assert opened(f"{page}crop/{number}/{place}").size == (right - left, bottom - top)
            x1, _, x2, _ = items[number]["boxes"][place]
            assert (x1, x2) == pytest.approx([v * whole.width for v in pair.row[f"{side}_box"][::2]], abs=0.01)
    assert status(f"{page}picture/1000") == 404


def opened(url):
    with urllib.request.urlopen(url, timeout=120) as reply:
        return Image.open(BytesIO(reply.read()))


def test_the_first_n_hold_each_stratum_in_its_share():
    ids = [f"q{i}" for i in range(200)]
    strata = [("a",)] * 140 + [("b",)] * 50 + [("c",)] * 10
    order = audit.sampling_order(ids, strata, 0)
    assert sorted(order) == list(range(200))
    for n in (10, 50, 120):
        drawn = Counter(strata[i][0] for i in order[:n])
        for name, size in (("a", 140), ("b", 50), ("c", 10)):
            assert abs(drawn[name] - n * size / 200) <= 1.5, (n, drawn)
    assert order != audit.sampling_order(ids, strata, 1)
    # a pair of its own stratum is not left out of small samples for ever
    alone = [(str(i),) for i in range(40)]
    assert audit.sampling_order(ids[:40], alone, 0)[:10] != audit.sampling_order(ids[:40], alone, 1)[:10]


def test_the_note_says_what_interval_the_sample_gives(run):
    target = audit.open_audit(str(run.path), print)
    every = target.pairs.num_rows
    assert "known to ± 0.0 points" in audit.describe_sample(every, target)
    assert re.search(r"5 of \d+ pairs.*50 % will be known to ± (2\d|3\d)\.\d points", audit.describe_sample(5, target))


# What is stored


def test_a_mark_is_stored_by_its_side_and_a_stale_one_is_not(run, page, tmp_path):
    send = sender(page)
    pair = audit.draw(audit.open_audit(str(run.path), print), 1, "kim")[0]
    assert send("mark", a_mark(place=1))[1]["box"] == "right"
    assert lines(tmp_path) == [{"pair": pair.id, "unit": f"{pair.sides[1]}_box", "verdict": "right"}]
    with pytest.raises(urllib.error.HTTPError, match="409") as stale:  # another tab still shows no mark
        send("mark", a_mark(place=1, verdict="wrong"))
    assert json.load(stale.value)[1]["box"] == "right" and len(lines(tmp_path)) == 1
    assert send("mark", a_mark(place=1, verdict="wrong", seen="right"))[1]["box"] == "wrong"
    assert [line["verdict"] for line in lines(tmp_path)] == ["right", "wrong"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[" * 2000, *(json.dumps(a_mark(**change)).encode() for change in (
        {"pair": 1000}, {"pair": -1}, {"place": 2}, {"part": "win"}, {"verdict": "maybe"}, {"seen": "x"}, {"pair": "0"}
    ))],
)  # fmt: skip
def test_what_is_no_mark_is_refused(page, tmp_path, body):
    assert status(f"{page}mark", body) == 400
    assert lines(tmp_path) == []


def test_the_same_response_is_marked_once_for_both(run, tmp_path, monkeypatch):
    draw = audit.draw

    def draw_same(*arguments):
        return [dataclasses.replace(p, row={**p.row, "same_response": True}) for p in draw(*arguments)]

    monkeypatch.setattr(audit, "draw", draw_same)
    with serving(run, tmp_path) as page:
        assert sender(page)("pairs")["pairs"][0]["same"] is True
        assert [of["response"] for of in sender(page)("mark", a_mark(part="response"))] == ["right"] * 2
    assert sorted(line["unit"] for line in lines(tmp_path)) == ["lose_response", "win_response"]


# Eyes that see the labels


def test_a_person_who_sees_the_labels_finds_what_the_labels_say(run, tmp_path):
    with serving(run, tmp_path / "all", "kim") as address:
        mark_everything(run, sender(address))
    found = audit_by_people(run.pairs(), read_marks(tmp_path / "all"), run.report()["settings"])
    by_labels = run.report()["audit"]["pairs"]
    assert by_labels["audited"] >= 8
    assert {name: found["shares"][name]["count"] for name in by_labels["cells"]} == {
        name: cell["count"] for name, cell in by_labels["cells"].items()
    }
    assert found["labels"]["share"]["percent"] == 100 and found["labels"]["kappa"] == 1
    with serving(run, tmp_path / "few", "kim", sample=12) as address:
        mark_everything(run, sender(address))
    few = audit_by_people(run.pairs(), read_marks(tmp_path / "few"), run.report()["settings"])
    assert few["seen"] == 12
    for name, cell in by_labels["cells"].items():
        assert few["shares"][name]["low"] <= cell["percent"] <= few["shares"][name]["high"], name


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as wire:
        yield Tab(wire)


def wait_for_place(tab, start, end=""):
    text = "document.getElementById('place')?.textContent"
    tab.wait(f"{text}?.startsWith('{start}') && {text}.endsWith('{end}')")


def test_in_a_browser_keys_and_the_mouse_mark_and_a_reload_continues(run, page, tab, tmp_path):
    pairs = audit.draw(audit.open_audit(str(run.path), print), 3, "kim")
    tab.look(1280, 800)
    tab.open(page)
    tab.wait("document.querySelectorAll('.pane').length === 2")
    for key in "1231":
        tab.press(key)
    wait_for_place(tab, "2 of")
    sides = pairs[0].sides
    units = [f"{sides[i]}_{part}" for part in ("box", "response") for i in (0, 1)]
    assert [(line["unit"], line["verdict"]) for line in lines(tmp_path)] == list(
        zip(units, ("right", "wrong", "unsure", "right"), strict=True)
    )
    tab.call("Page.reload")
    wait_for_place(tab, "2 of", ", 1 marked")
    tab.click("fieldset[data-place='1'][data-part='box'] button[data-verdict='wrong']")
    tab.wait("document.querySelector(\"[data-place='1'][data-part='box'] [aria-pressed=true]\") !== null")
    last = lines(tmp_path)[-1]
    assert last == {"pair": pairs[1].id, "unit": f"{pairs[1].sides[1]}_box", "verdict": "wrong"}
    tab.press("ArrowRight")
    wait_for_place(tab, "3 of")
    tab.press("ArrowLeft")
    wait_for_place(tab, "2 of")
    tab.press("ArrowLeft")
    wait_for_place(tab, "1 of")
    tab.press("2")
    tab.wait("document.querySelector('[data-verdict=wrong]').getAttribute('aria-pressed') === 'true'")
    assert lines(tmp_path)[-1] == {"pair": pairs[0].id, "unit": f"{sides[0]}_box", "verdict": "wrong"}
    assert tab.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert tab.log == []


def test_in_a_browser_an_old_page_says_so_and_stores_nothing(run, tab, tmp_path):
    with serving(run, tmp_path) as address:
        tab.open(address)
        tab.wait("document.querySelectorAll('.pane').length === 2")
        sender(address)("mark", a_mark(verdict="wrong"))  # the same person, on another page
        tab.press("1")
        tab.wait("document.getElementById('message').textContent.includes('marked on another page')")
        assert [line["verdict"] for line in lines(tmp_path)] == ["wrong"]
        tab.press("1")
        tab.wait("document.getElementById('message').textContent === ''")
        assert [line["verdict"] for line in lines(tmp_path)] == ["wrong", "right"]
    tab.press("1")
    tab.wait("document.getElementById('message').textContent.includes('not running any more')")


def test_in_a_browser_no_text_acts(run, tab, tmp_path, monkeypatch):
    payload = "\n".join(PAYLOADS[:12]).replace("alert(1)", "document.documentElement.dataset.ran = 1")
    rows = {"question": payload, "answers": [payload], "win_response": payload, "lose_response": payload}
    draw = audit.draw
    monkeypatch.setattr(
        audit, "draw", lambda *given: [dataclasses.replace(p, row={**p.row, **rows}) for p in draw(*given)]
    )
    with serving(run, tmp_path) as address:
        tab.open(address)
        tab.wait("document.querySelectorAll('.pane').length === 2")
        assert tab.evaluate("document.documentElement.dataset.ran") is None
        foreign = "document.querySelectorAll('main script, main b, h1 *, iframe, object, embed').length"
        assert tab.evaluate(foreign) == 0 and tab.log == []
        assert payload[:20] in tab.evaluate("document.getElementById('question').textContent")


@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_the_page_is_as_wide_as_the_window(page, tab, width):
    tab.look(width, 800, dark=width == 400)
    tab.open(page)
    tab.wait("document.querySelectorAll('.pane').length === 2")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


# The command


@contextmanager
def started(folder, *arguments):
    """Start the command; yield its process and the address of its page."""
    command = [sys.executable, "-m", "visrl_cli", "audit", *map(str, arguments), "--port", "0"]
    root = {"PYTHONPATH": os.pathsep.join(sys.path), **os.environ}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=root, cwd=folder)
    try:
        end = time.monotonic() + 240
        while not (address := re.search(r"Open (http\S+)", (folder / "log").read_text())):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        yield process, address[1]
    finally:
        process.kill()
        process.wait()


def test_killed_and_started_again_it_continues_and_the_run_shows_the_marks(run, tmp_path):
    run = make_run(tmp_path / "run", photos(tmp_path / "photos", 12), attempts=4)
    with started(tmp_path, run.path) as (process, address):
        sender(address)("mark", a_mark())
        process.kill()
        process.wait()
    file = run.path / "audit" / "annotator.jsonl"
    with file.open("a") as torn:
        torn.write('{"pair": "x", "un')
    before = Run(run.path).manifest()["sha256"]
    with started(tmp_path, run.path) as (process, again):
        assert again.rsplit("/", 2)[1] != address.rsplit("/", 2)[1], "a token of its own"
        assert sender(again)("pairs")["pairs"][0]["marks"][0]["box"] == "right"
        code, _, err = visrl("audit", run.path, "--port", 0)
        assert code == 1 and "another `visrl audit` is open for annotator" in err
        sender(again)("mark", a_mark(place=1, verdict="wrong"))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 0
    assert len(lines(run.path / "audit", "annotator")) == 2
    log = (tmp_path / "log").read_text()
    assert "By annotator (1 pair)" in log and "report.html" in log
    assert "By annotator (1 pair)" in (run.path / "report.html").read_text()
    after = Run(run.path).manifest()["sha256"]
    assert {name for name in after if after[name] != before[name]} == {"report.html"}
    code, out, _ = visrl("inspect", run.path, "--json")
    assert code == 0 and json.loads(out)["human_audit"]["annotators"] == {"annotator": 1}
    code, out, _ = visrl("inspect", run.path)
    assert code == 0 and "Audit by people" in out
    code, _, _ = visrl("filter", run.path, "--box-win", 0.5)  # picked again, a pair that stays keeps its marks
    names = set(pair_ids(run.pairs()))
    assert all(line["pair"] in names for line in lines(run.path / "audit", "annotator"))


def test_what_can_not_be_audited_is_one_message(tmp_path, run):
    with pytest.raises(VisRLError, match="no such folder"):
        audit.open_audit(str(tmp_path / "none"), print)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text('{"kind": "visrl dataset"}')
    with pytest.raises(UsageError, match="is a dataset folder.*Audit one of the runs"):
        audit.open_audit(str(tmp_path / "set"), print)
    code, _, err = visrl("audit", run.path, "--annotator", "../x")
    assert code == 2 and "--annotator" in err and not (Path(run.path).parent / "x.jsonl").exists()
