"""The options of a run that somebody published: what is read of them, and what only the user can name."""

import contextlib
import http.server
import threading

import pytest

from tests.helpers.command import visrl
from visrl_data.core import hub_access
from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.runs import hub_fetch, published_options
from visrl_data.runs.published_options import local_options, resolve_options


@contextlib.contextmanager
def served(data: bytes, status: int = 200):
    """A server on this machine; yields the address of a file that holds the data."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/options.toml"
        server.shutdown()


def test_options_of_a_url_with_flags_on_top():
    config = GenConfig(model="org/model@abc", source="org/questions", attempts=5, temperature=1.0)
    with served(to_toml(config).encode()) as url:
        assert resolve_options(url, {}) == config
        assert resolve_options(url, {"attempts": 2}).attempts == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "unknown option 'colour'"),
        ("attempts = 'many'", "attempts = 'many': expected int"),
        ("attempts = 0", "--attempts 0: expected at least 1"),
        ("trust_remote_code = true", "a file can't grant"),
        ("source = '/etc/passwd'", "Expected your own --source"),
        ("source = 'questions.jsonl'", "was made with --source questions.jsonl"),
        ("source = 'visual-cot:here.json'", "Expected your own --source"),
        ("source = '../up/questions'", "Expected your own --source"),
        ("model = '/models/mine'", "Expected your own --model"),
        ("critic = 'mine'", "Expected your own --critic"),
        ("base_url = 'http://evil.example/v1'", "Expected your own --base-url"),
        ("images_root = '/home'\nprompts = 'p.toml'", "Expected your own --images-root and --prompts"),
        ("allow_urls = 'any'", "that only you can grant"),
        ("ship_images = true", "that only you can grant"),
        ("[vllm_options]\ndownload_dir = '/tmp'", "Expected your own --vllm-options"),
        ("<html>", "Expected a TOML file of options"),
        ("x = " + "[" * 5000, "Expected a TOML file of options"),
    ],
)
def test_what_a_strangers_options_may_not_say(text, message):
    with served(text.encode()) as url, pytest.raises(UsageError) as error:
        resolve_options(url, {})
    assert message in str(error.value)


def test_what_the_user_names_is_taken():
    with served(b"source = 'questions.jsonl'\nship_images = true\nseed = 7") as url:
        config = resolve_options(url, {"source": "mine.jsonl", "ship_images": False})
    assert (config.source, config.ship_images, config.seed) == ("mine.jsonl", False, 7)


def test_size_and_address_are_bounded(monkeypatch):
    monkeypatch.setattr(published_options, "MOST_BYTES", 10)
    with served(b"seed = 1 # and so on") as url, pytest.raises(UsageError, match="more than 10 bytes"):
        resolve_options(url, {})
    with pytest.raises(UsageError, match="expected http"):
        resolve_options("file:///etc/passwd", {})
    with served(b"", status=404) as url, pytest.raises(VisRLError, match="could not be fetched: HTTP Error 404"):
        resolve_options(url, {})
    with pytest.raises(VisRLError, match="could not be fetched"):
        resolve_options("http://user:secret@127.0.0.1:1/x", {})


def test_a_url_of_a_message_holds_no_secret():
    with pytest.raises(VisRLError) as error:
        resolve_options("http://user:secret@127.0.0.1:1/x?token=abc", {})
    assert "secret" not in str(error.value) and "abc" not in str(error.value)


def test_files_stay_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "options").write_text("seed = 3\nsource = '/data/questions.jsonl'")
    assert resolve_options("runs/options", {}).seed == 3
    for name in ("nowhere.toml", "runs/nowhere"):
        with pytest.raises(UsageError, match="no such file"):
            resolve_options(name, {})


def test_sources_that_every_machine_has():
    for source in ("spotlight", "spotlight:level=relation", "org/set", "org/set:config@main", "hf:org/set", "gqa"):
        assert local_options({"source": source}) == [], source
    for source in ("a/questions.jsonl", "mix:paper", "folder", "~/q.csv", "a/b/c", 7):
        assert local_options({"source": source}) == ["source"], source


def test_a_critic_that_is_no_text_is_left_for_the_user():
    actor, critic = ({"engine": "transformers", "revision": "abc"} for _ in range(2))
    options = published_options.published_options(
        {"config": {"model": "org/model", "critic": 5}, "run": {"actor": actor, "critic": critic}}
    )
    assert options["model"] == "org/model@abc" and local_options(options) == ["critic"]


class NoConnection:
    """A client of the Hub whose every request fails; `requests` are their names."""

    def __init__(self):
        self.requests = []

    def __getattr__(self, name):
        def fail(*_, **__):
            self.requests.append(name)
            raise ConnectionError("no route to host")

        return fail


def test_without_a_connection_one_series_of_tries_is_reported(monkeypatch):
    client, lines = NoConnection(), []
    monkeypatch.setattr(published_options, "hub_api", lambda: client)
    monkeypatch.setattr(hub_fetch, "hub_api", lambda: client)
    monkeypatch.setattr(hub_access.time, "sleep", lambda _: None)
    with pytest.raises(VisRLError, match="The dataset user/pairs@v1.0 could not be fetched: the connection failed"):
        resolve_options("user/pairs@v1.0", {}, lines.append)
    tries = len(hub_access.DELAYS)
    assert client.requests == ["get_paths_info"] * (tries + 1) + ["snapshot_download"]
    assert len(lines) == tries and all("the connection failed" in line and "trying again in" in line for line in lines)


@pytest.mark.parametrize(
    "words",
    [
        ["gen", "--config", "user/pairs@v1.0"],
        ["export", "user/pairs@v1.0", "--format", "swift", "-o", "out"],
        ["rebuild", "user/pairs@v1.0", "--images", "."],
        ["train", "rl1", "--data", "user/pairs@v1.0"],
    ],
)
def test_commands_report_their_tries(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published_options, "hub_api", NoConnection)
    monkeypatch.setattr(hub_fetch, "hub_api", NoConnection)
    monkeypatch.setattr(hub_access.time, "sleep", lambda _: None)
    code, _, err = visrl(*words)
    assert code == 1 and err.count("user/pairs@v1.0: the connection failed") == len(hub_access.DELAYS)
