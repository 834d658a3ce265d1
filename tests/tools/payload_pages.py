"""What Chromium runs, loads or opens of texts from strangers: python -m tests.tools.payload_pages

Puts each of 30 payloads into every field that a stranger can fill, of a run's report, an evaluation's and a
calibration's page, a dataset card and a model card (their Markdown as HTML, with raw HTML left in, which no host
allows), and loads the five in Chromium, without their policy too. Prints a table; exits with 1 when a script ran, an
address other than the page was asked for, or markup came of a text.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from markdown_it import MarkdownIt

from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from tests.helpers.hostile import PAYLOADS, poisoned
from visrl_cards.dataset import render_dataset_card
from visrl_data.calibration.calibrate import calibrate
from visrl_data.calibration.config import CalibrationConfig
from visrl_data.core.files import write_json
from visrl_data.engines.protocol import Request, Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.evaluation import page as eval_page
from visrl_data.evaluation.predictions import Prediction
from visrl_data.evaluation.scores import ScoreSettings, score_models
from visrl_data.publishing.dataset import Stamp, build_dataset
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.options import SourceOptions
from visrl_train import card
from visrl_train.config import Rl1Config

MARK = "document.documentElement.setAttribute('data-ran',1)"
EVIL = [payload.replace("alert(1)", MARK).replace("https:", "http:") for payload in PAYLOADS]
CLOSED = ("example", "diversity", "response_critic", "sha256", "gold_rule")
ALLOWED = {"script": 2, "iframe": 0, "object": 0, "embed": 0, "base": 0, "form": 1}  # of a page of ours, at most


def main() -> int:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("No Chromium on this machine (apt-get install chromium)")
        return 1
    failed = False
    with tempfile.TemporaryDirectory() as folder, _listening() as (port, requests):
        load = _loader(browser, port, Path(folder))
        control = load(f"<!doctype html><p>{EVIL[2]}<img src=http://evil.example/x.png>")
        print(f"control without escaping: script ran {_has_run(control)}, requests {len(requests)}\n")
        print("| page | payloads | scripts run | requests | foreign tags |\n|---|---|---|---|---|")
        for name, pages in _pages(Path(folder)).items():
            ran = tags = 0
            requests.clear()
            for html in pages:
                dom = load(html)
                ran += _has_run(dom)
                tags += sum(max(0, len(re.findall(rf"<{tag}[\s>]", dom)) - most) for tag, most in ALLOWED.items())
            print(f"| {name} | {len(EVIL)} | {ran} | {len(requests)} | {tags} |", flush=True)
            failed |= bool(ran or requests or tags)
    return int(failed)


def _has_run(dom: str) -> bool:
    return re.search(r"<html[^>]* data-ran=", dom) is not None


def _pages(folder: Path) -> dict[str, list[str]]:
    """Return the HTML of each kind: pages with and without their policy, cards once for each payload."""
    ours = {
        "report": _report(folder / "run"),
        "evaluation": _evaluation(folder / "eval"),
        "calibration": _calibration(folder / "calibration"),
    }
    policy = r'<meta http-equiv="Content-Security-Policy"[^>]*>'
    return {
        **{name: [html, re.sub(policy, "", html)] for name, html in ours.items()},
        "dataset card": list(_dataset_cards(folder / "set")),
        "model card": [_as_html(_model_card(text, folder)) for text in EVIL],
    }


def _rows(i: int) -> dict[str, Callable[[int], object]]:
    """Columns of questions in which every text is a payload; i: which is first."""
    return {
        "id": lambda j: f"{j} {EVIL[(i + j) % len(EVIL)]}",
        "question": lambda j: f"{j} {EVIL[(i + j) % len(EVIL)]}",
        "answers": lambda j: ["7", EVIL[(i + j + 1) % len(EVIL)]],
        "source": lambda j: EVIL[(i + j + 2) % len(EVIL)],
        "license": lambda j: EVIL[(i + j + 3) % len(EVIL)],
        "source_url": lambda j: EVIL[(i + j + 4) % len(EVIL)],
    }


def _report(folder: Path) -> str:
    def reply(request: object, seed: int) -> str:
        from tests.conftest import scripted_reply

        text = scripted_reply(request, seed)
        return text if text[0] in "[{" else f"{text} {EVIL[seed % len(EVIL)]}"

    source = photos(folder / "photos", rows=2 * len(EVIL), **_rows(0))
    options = {"model": EVIL[0], "critic": EVIL[2], "split": EVIL[4], "license": EVIL[12]}
    run = make_run(folder / "run", source, reply, **options)
    return (run.path / "report.html").read_text(encoding="utf-8")


def _evaluation(folder: Path) -> str:
    source = open_source(str(photos(folder / "photos", rows=len(EVIL), **_rows(0))), "train", None, SourceOptions())
    predictions = []
    for i in range(len(source)):
        q = source.read(i)
        predictions.append(
            Prediction(
                i, q.id, q.source, question=q.question, answers=tuple(q.answers), width=q.width, height=q.height,
                image_sha256=q.image_sha256, gold_boxes=((0.1, 0.1, 0.4, 0.5),), focus_state="ok",
                focus_reply=EVIL[i], box=(0.1, 0.1, 0.4, 0.5), crop=(0, 0, 20, 20), response=EVIL[i],
            )
        )  # fmt: skip
    groups = sorted({p.group for p in predictions})
    settings = ScoreSettings(dict.fromkeys(groups, "exact"), "any", 100, 0)
    figures = score_models([predictions, predictions], [2, 2], settings)
    rule = {"min_side": 0.08, "max_aspect": 2.0}
    models = [
        {"name": EVIL[j], "model": EVIL[j], "revision": EVIL[j], "digest": EVIL[j], "steps": 2, "box_space": EVIL[j],
         "crop_rule": rule, "figures": figures[j]}
        for j in range(2)
    ]  # fmt: skip
    about = [{"source": EVIL[0], "name": EVIL[2], "split": EVIL[4], "rows": len(source), "fingerprint": EVIL[0]}]
    report = {"groups": groups, "models": models, "sources": about, "dropped": {EVIL[2]: 3}, "judge": {"id": EVIL[0]}}
    config = {"seed": 0, "gold_rule": "any", "protocol": EVIL[0], "resamples": 100}
    report |= {"config": config, "versions": {"visrl": EVIL[2]}}
    eval_page.write_page(folder, report, [predictions, predictions], [source])
    return (folder / eval_page.NAME).read_text(encoding="utf-8")


def _calibration(folder: Path) -> str:
    def reply(request: Request, seed: int) -> str:
        return f'{EVIL[len(request.parts[-1].text) % len(EVIL)]} {{"score": 1.0}}'

    source = photos(folder / "photos", rows=2 * len(EVIL), **_rows(0))
    config = CalibrationConfig(source=str(source), model=EVIL[0], split=EVIL[4])
    with contextlib.chdir(folder):
        calibrate(config, folder / "c", role=Role(ScriptedEngine(reply), False))
    return (folder / "c" / "report.html").read_text(encoding="utf-8")


def _dataset_cards(folder: Path) -> Iterator[str]:
    source = photos(folder / "photos", rows=2 * len(EVIL), **_rows(0) | SHIPPED)
    dataset = build_dataset([make_run(folder / "run", source).path], folder / "set", Stamp("v1", "me/x", "x"))
    report = json.loads((dataset.folder / "report.json").read_text(encoding="utf-8"))
    for text in EVIL:
        write_json(dataset.folder / "report.json", poisoned(report, text, CLOSED))
        yield _as_html(render_dataset_card(dataset.folder, poisoned(dataset.manifest, text, CLOSED)))


def _model_card(text: str, folder: Path) -> str:
    model = {"id": text, "digest": text}
    record = {"box_space": text, "crop_rule": {"min_side": 0.08, "max_aspect": 2.0}, "origin_base": model}
    record |= {"trained_from": model, "data": {"name": text}, "stage": "rl1", "steps": 2, "versions": {"torch": text}}
    name = text.replace("/", " ")
    return card.render(record, Rl1Config(model=text, data=text), folder / name, Path("nothing.jsonl"))


def _as_html(text: str) -> str:
    body = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text.split("\n---\n", 1)[1])
    # Our own pictures are files of the dataset: here they would be requests.
    return f"<!doctype html><meta charset=utf-8><body>{re.sub(r'<img src=.(card/|curves)[^>]*>', '', body)}"


def _loader(browser: str, port: int, folder: Path) -> Callable[[str], str]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=3000",
             f"--host-resolver-rules=MAP * 127.0.0.1:{port}", f"--user-data-dir={folder / 'browser'}"]  # fmt: skip
    file = folder / "page.html"

    def load(html: str) -> str:
        file.write_text(html, encoding="utf-8")
        command = [browser, *flags, "--dump-dom", file.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout

    return load


class _listening:
    """A server that counts the requests for evil.example: Chromium resolves every name to it, its own ones too."""

    def __enter__(self) -> tuple[int, list[str]]:
        requests: list[str] = []

        class Count(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if "evil.example" in self.headers.get("Host", ""):
                    requests.append(self.path)
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Count)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self._server.server_address[1], requests

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    sys.exit(main())
