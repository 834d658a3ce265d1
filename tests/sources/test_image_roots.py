"""Where images are: folders, archives and URLs. Nothing outside what was named is ever read or reached."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.archives import tar_of, zip_of
from tests.tools.source_table import jpeg, lines
from visrl_data.core.errors import VisRLError
from visrl_data.core.images import BadImage
from visrl_data.core.records import Drop, Question
from visrl_data.sources import urls
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.image_roots import Root, Roots, open_root, open_roots, parse_roots
from visrl_data.sources.options import SourceOptions


def reason(root: Root | Roots, path: str) -> str:
    with pytest.raises(BadImage) as caught:
        root.read(path) if isinstance(root, Root) else root.read([path], "set")
    return caught.value.reason


MEMBERS = (("./img/a.jpg", b"first"), ("img/b.jpg", b"second"), ("img/a.jpg", b"later"), ("../out.jpg", b"outside"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_read_in_place(tmp_path: Path, kind: str) -> None:
    file = (zip_of if kind == "zip" else tar_of)(tmp_path / f"images.{kind}", *MEMBERS)
    root = open_root(file)
    assert root.read("img/b.jpg") == root.read("./img/../img//b.jpg") == b"second"
    assert root.read("img/a.jpg") == b"later", "of two, as unpacking would leave it"
    for path in ("none.jpg", "", "img", "img/a.jpg/x", "a\0b", "\ud800"):
        assert reason(root, path) == "image_missing", path
    for path in ("../out.jpg", "img/../../out.jpg", "/etc/passwd", "..", "/img/a.jpg"):
        assert reason(root, path) == "image_outside_root", path
    inside = open_root(f"{file}/img")
    assert inside.read("b.jpg") == b"second" and reason(inside, "../img/b.jpg") == "image_outside_root"
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"images.{kind}"], "nothing is unpacked"
    assert pickle.loads(pickle.dumps(root)).read("img/b.jpg") == b"second"
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(root.read, ["img/b.jpg"] * 200)) == {b"second"}


def test_a_fork_does_not_move_the_place_of_its_parent(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(50)]
    root = open_root(zip_of(tmp_path / "a.zip", *((name, os.urandom(5000)) for name in names)))
    want = [root.read(name) for name in names]
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(0 if [root.read(name) for name in names] == want else 1)
        children.append(child)
    assert [root.read(name) for name in names] == want
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no such folder or archive"),
        ("~nobody-here/none", "no such folder or archive"),
        ("a.tar.gz", r"expected a folder, a .zip or a .tar file. A compressed tar .* \(gunzip\)"),
        ("a.txt", r"expected a folder, a .zip or a .tar file.$"),
        ("bad.zip", r"cannot be read as an archive: it is damaged, .*`unzip -t \S+/bad.zip` tests it"),
        ("bad.tar", r"cannot be read as an archive: it is damaged, .*`tar -tf \S+/bad.tar` tests it"),
        ("good.zip/none", "the archive holds no file there"),
        ("empty.zip", "the archive holds no file."),
    ],
)
def test_roots_that_cannot_be_used_are_one_message(tmp_path: Path, name: str, message: str) -> None:
    for bad in ("a.tar.gz", "a.txt", "bad.zip", "bad.tar"):
        (tmp_path / bad).write_bytes(b"x" * 600)
    zip_of(tmp_path / "good.zip", ("img/a.jpg", b"a"))
    zip_of(tmp_path / "empty.zip")
    with pytest.raises(VisRLError, match=message):
        SourceOptions(images_root=name if name[0] == "~" else tmp_path / name)


def test_named_roots(tmp_path: Path) -> None:
    """The first folder of a path or the row's set picks the root; the path counts with and without that folder."""
    for name in ("gqa", "deep/vsr", "rest"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "gqa/1.jpg").write_bytes(b"gqa")
    (tmp_path / "deep/vsr/1.jpg").write_bytes(b"vsr")
    (tmp_path / "rest/1.jpg").write_bytes(b"rest")
    asked = parse_roots([f"gqa={tmp_path}/gqa", f"vsr={tmp_path}/deep", f"{tmp_path}/rest"])
    assert asked == {"gqa": f"{tmp_path}/gqa", "vsr": f"{tmp_path}/deep", "": f"{tmp_path}/rest"}
    found = open_roots(asked, tmp_path)
    assert found.read(["gqa/1.jpg"], "any") == b"gqa", "by the first folder, which the root stands for"
    assert found.read(["vsr/1.jpg"], "any") == b"vsr", "or holds"
    assert found.read(["1.jpg"], "gqa") == b"gqa", "by the set"
    assert found.read(["1.jpg"], "other") == b"rest"
    assert found.read(["cot/gqa/1.jpg", "gqa/1.jpg"], "other") == b"gqa", "another way to write the same place"
    assert reason(found, "gqa/2.jpg") == "image_missing" and reason(found, "gqa/../../x.jpg") == "image_outside_root"
    only = open_roots({"gqa": str(tmp_path / "gqa")}, tmp_path / "rest")
    assert only.read(["1.jpg"], "other") == b"rest", "without a default the source's own folder"


def test_how_roots_are_written() -> None:
    assert parse_roots(["photos/"]) == "photos/" and parse_roots(["./a=b"]) == "./a=b"
    assert parse_roots(["a=x.zip/in=ner"]) == {"a": "x.zip/in=ner"}
    for twice in (["a=1", "a=2"], ["x", "y"], [""]):
        with pytest.raises(VisRLError, match="expected DIR, or NAME=DIR with each NAME once"):
            parse_roots(twice)


# --- URLs ----------------------------------------------------------------------------------------------


class Pages(BaseHTTPRequestHandler):
    """Answers by path; what it was asked for is kept."""

    asked: list[str] = []

    def do_GET(self) -> None:
        Pages.asked.append(f"{self.headers['Host']} {self.path}")
        name = self.path.strip("/").partition("?")[0]
        if name.isdecimal():
            self.send_response(int(name))
            self.end_headers()
        elif name.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", name.removeprefix("to/").replace("!", "://"))
            self.end_headers()
        elif name == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        else:
            body = jpeg(1) if name == "a.jpg" else bytes(5000)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 10 * (name == "short")))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on loopback that passes for a public one, at the standard port; waiting takes no time."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(urls, "_PORTS", {"http": server.server_address[1], "https": 443})
    monkeypatch.setattr(urls, "_is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(urls, "TRIES", 1)
    Pages.asked = []
    yield "http://localhost"
    server.shutdown()
    server.server_close()


def refused(url: str, hosts: str = "any") -> tuple[str, str]:
    with pytest.raises(BadImage) as caught:
        urls.fetch_image(url, hosts)
    return caught.value.reason, caught.value.detail


def test_an_image_at_a_url(server: str, tmp_path: Path) -> None:
    row = {"question": "What?", "answers": ["x"], "image": f"{server}/a.jpg"}
    file = str(lines(tmp_path / "q.jsonl", row, row | {"image": f"{server}/404"}, row | {"image": f"{server}/b"}))
    source = open_source(file, options=SourceOptions(allow_urls="localhost"))
    question, gone, none = (source.read(i) for i in range(3))
    assert isinstance(question, Question) and question.image == jpeg(1)
    assert isinstance(gone, Drop) and (gone.reason, gone.detail) == (
        "image_fetch_failed", "line 2: http://localhost/404: status 404")  # fmt: skip
    assert isinstance(none, Drop) and none.reason == "image_unreadable"
    without = open_source(file).read(0)
    assert isinstance(without, Drop) and without.reason == "image_url_refused" and "--allow-urls" in without.detail


def test_what_a_fetch_may_not_do(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "MAX_BYTES", 4000)
    assert refused(f"{server}/large")[0] == "image_too_large"
    monkeypatch.setattr(urls, "MAX_BYTES", 32 * 2**20)
    assert refused(f"{server}/short") == (
        "image_fetch_failed",
        "http://localhost/short: the response ended 10 bytes too early; tried 1 times",
    )
    assert refused(f"{server}/to/http!localhost/to/x")[0] == "image_fetch_failed", "it leads to itself"
    assert len(Pages.asked) == 2 + urls.REDIRECTS + 1
    monkeypatch.setattr(urls, "SECONDS", 0.4)
    started = time.monotonic()
    assert refused(f"{server}/slow?signature=secret") == (
        "image_fetch_failed", "http://localhost/slow: no complete response within 0.4 s; tried 1 times")  # fmt: skip
    assert time.monotonic() - started < 3, "a byte now and then does not keep it going"


def test_a_server_in_trouble_is_asked_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(urls.time, "sleep", slept.append)
    monkeypatch.setattr(urls, "TRIES", 3)
    assert refused(f"{server}/503")[1] == "http://localhost/503: status 503; tried 3 times"
    assert len(Pages.asked) == 3 and slept == [1.0, 2.0]
    assert refused(f"{server}/403")[0] == "image_fetch_failed" and len(Pages.asked) == 4, "a no is a no"


@pytest.mark.parametrize(
    ("url", "hosts", "problem"),
    [
        ("ftp://a.org/x", "any", "expected http:// or https://"),
        ("file:///etc/passwd", "any", "expected http:// or https://"),
        ("http://a:b@a.org/x", "any", "a user name or a password"),
        ("http://a.org:22/x", "any", "port 22"),
        ("http://a.org:x/", "any", "malformed"),
        ("http://[::1/", "any", "malformed"),
        ("http://b.org/x?key=secret", "a.org,*.c.org", "http://b.org/x: --allow-urls a.org,*.c.org does not name"),
        ("http://c.org/x", "*.c.org", "does not name its host"),
    ],
)
def test_refused_before_anything_is_looked_up(
    url: str, hosts: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    why, detail = refused(url, hosts)
    assert why == "image_url_refused" and problem in detail and "secret" not in detail


PRIVATE = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1",
           "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1",
           "224.0.0.1", "ff02::1", "255.255.255.255", "fec0::1", "64:ff9b:1::808:808", "168.63.129.16",
           "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "2002:a83f:8110::", "::8.8.8.8", "2001::1", "2001:db8::1",
           "3fff::1", "4000::1", "192.88.99.1", "198.18.0.1", "192.0.0.192", "240.0.0.1", "fd00:ec2::254"]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_this_machine_and_its_network_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        return [(0, 0, 0, "", ("93.184.215.14", port)), (0, 0, 0, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    why, detail = refused("http://innocent.org/a.jpg")
    assert why == "image_url_refused" and f"{address} is no public address" in detail


def test_loopback_is_refused_for_real() -> None:
    assert refused("http://127.0.0.1/a.jpg")[0] == refused("http://localhost/a.jpg")[0] == "image_url_refused"
    assert urls._is_public("93.184.215.14") and urls._is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    assert urls._is_public("64:ff9b::5db8:d70e") and urls._is_public("::ffff:93.184.215.14")


def test_a_redirect_is_checked_like_a_url(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(f"{server}/to/http!127.0.0.2/x") == (
        "image_url_refused", "http://127.0.0.2/x: 127.0.0.2 is no public address")  # fmt: skip
    assert refused(f"{server}/to/http!b.org/x", "localhost")[1].endswith(
        "--allow-urls localhost does not name its host"
    )
    assert "expected http" in refused(f"{server}/to/file!/etc/passwd")[1]
    assert urls.fetch_image(f"{server}/to/http!localhost/a.jpg", "localhost") == jpeg(1)
    assert Pages.asked[-1] == "localhost /a.jpg"


def test_a_redirect_to_no_url_drops_its_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_get", lambda *_: urls._HttpResponse(302, "http://[b.org/x", b""))
    assert refused("http://a.org/x") == ("image_fetch_failed", "http://a.org/x: redirects to a malformed URL")


def test_the_connection_goes_to_the_address_that_was_checked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is looked up a second time may lead elsewhere."""
    real, looked = socket.getaddrinfo, []

    def once(host: str, *rest: Any, **more: Any) -> list[Any]:
        looked.append(host)
        return real("127.0.0.1" if looked.count(host) == 1 else "127.0.0.2", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    assert urls.fetch_image("http://rebind.org/a.jpg", "any") == jpeg(1)
    assert [host for host in looked if host == "rebind.org"] == ["rebind.org"]
    assert Pages.asked == ["rebind.org /a.jpg"]
