"""The page of `visrl ask --web`, where Gradio is installed: asked by its client and in a browser."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw_photo, scripted_reply
from tests.helpers.command import visrl
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.evaluation import ask, ask_page, loopback
from visrl_data.evaluation.config import AskConfig

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="pip install '.[web]'")


def test_without_gradio_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, err = visrl("ask", "--web")
    assert (code, out, err) == (1, "", "visrl: --web needs Gradio: pip install '.[web]'.\n")


@pytest.mark.parametrize("arguments", [("a.png", "What?"), ("-o", "a.png"), ("--json",)])
def test_what_belongs_to_the_terminal_is_refused(arguments):
    code, _, err = visrl("ask", "--web", *arguments)
    assert code == 2 and "--web takes pictures and questions on its page" in err
    code, _, err = visrl("ask", "--port", 8000)
    assert code == 2 and "--port needs --web" in err


@pytest.fixture(scope="module")
def page():
    """The address of a page with two models: the script of dice, and one that writes markup and no boxes."""
    pytest.importorskip("gradio")
    import uvicorn

    config = AskConfig()
    models = ask.find_models(["spotlight", "spotlight-base"], config)
    roles = [Role(ScriptedEngine(reply), True) for reply in (scripted_reply, lambda request, seed: "<b>bold</b>")]
    with loopback.listen(0) as listener, ask_page._upload_folder():
        server = uvicorn.Server(uvicorn.Config(ask_page.build_app(models, roles, config), log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join()


def send(page, path, text):
    """What the page shows after a question: the note, then four cells a model."""
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False, analytics_enabled=False, download_files=False)
    return client.predict(path and handle_file(path), text, api_name="/ask")


@needs_gradio
def test_a_picture_is_answered_by_both_models(page, tmp_path):
    draw_photo(1).save(tmp_path / "a.png")
    _, marked, crop, response, details, plain, no_crop, other, other_details = send(page, tmp_path / "a.png", "What?")
    assert response in "678" and re.match(r"box [\d., ]+ of 120 x 90 pixels\ncrop ", details)
    left, top, right, bottom = map(int, re.search(r"crop (.*)", details)[1].split(", "))
    assert image_size(page, crop) == (right - left, bottom - top)
    assert image_size(page, marked) == image_size(page, plain) == (120, 90)
    assert (other, no_crop) == ("<b>bold</b>", None)
    assert "no box could be read" in other_details and "Answered from the whole image" in other_details


def image_size(page, picture):
    with urllib.request.urlopen(f"{page}/gradio_api/file={picture['path']}") as reply:
        return Image.open(reply).size


@needs_gradio
def test_limits_of_pictures_hold_and_old_answers_go(page, tmp_path):
    (tmp_path / "text.png").write_text("<img src=x onerror=alert(1)>")
    Image.new("1", (10_000, 9_000)).save(tmp_path / "huge.png")
    for name, message in (("text.png", "not an image that can be read"), ("huge.png", "beyond the limits")):
        note, *cells = send(page, tmp_path / name, "What?")
        assert name in note and message in note and set(map(str, cells)) <= {"", "None"}
    draw_photo(1).save(tmp_path / "a.png")
    assert "The question is empty" in send(page, tmp_path / "a.png", "  ")[0]
    assert "Choose a picture first" in send(page, None, "What?")[0]


@needs_gradio
def test_the_page_is_for_this_machine_and_names_no_other(page):
    with urllib.request.urlopen(page) as reply:
        policy, text = reply.headers["Content-Security-Policy"], reply.read().decode()
    assert policy.startswith("default-src 'self' data: blob:;") and "http" not in policy and "*" not in policy
    loaded = re.findall(r"""<(?:script|link|img|iframe)[^>]*?(?:src|href)=["'](https?:[^"']*)""", text)
    assert [address for address in loaded if not address.startswith(page)] == []
    config = json.load(urllib.request.urlopen(f"{page}/config"))
    assert config["analytics_enabled"] is False and not config.get("run_history") and config["footer_links"] == []
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(page, headers={"Host": "elsewhere.example"}))
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{page}/gradio_api/file={Path(__file__).resolve()}")


@needs_gradio
def test_in_a_browser_nothing_is_requested_elsewhere(page, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
             "--virtual-time-budget=20000", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
             f"--user-data-dir={tmp_path / 'browser'}"]  # fmt: skip
    done = subprocess.run(
        [browser, *flags, "--dump-dom", page], capture_output=True, text=True, timeout=250, check=True
    )
    assert "Draw an example" in done.stdout and "spotlight-base: answer" in done.stdout
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert [line for line in said if "Content Security Policy" in line or "Failed to load" in line] == []


@needs_gradio
def test_uploads_are_removed_when_it_closes(tmp_path):
    """The whole command, on the real model: an example's picture is sent, SIGTERM ends it, and no file stays."""
    with started(tmp_path) as (process, page):
        (tmp_path / "a.png").write_bytes(ask.draw_example().image)
        cells = send(page, tmp_path / "a.png", ask.draw_example().question)
        assert cells[3] == ask.draw_example().answers[0]
        [folder] = tmp_path.glob("visrl-ask-*")
        assert list(folder.rglob("a.png"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    assert list(tmp_path.glob("visrl-ask-*")) == []


@contextmanager
def started(folder):
    """Start the command with its temporary files in a folder; yield its process and address."""
    command = [sys.executable, "-m", "visrl_cli", "ask", "--web", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            end = time.monotonic() + 240
            while not (address := re.search(r"Open (http\S+)", (folder / "log").read_text())):
                assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.2)
            yield process, address[1]
        finally:
            process.kill()
