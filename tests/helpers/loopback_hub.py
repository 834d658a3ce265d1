"""A Hub on 127.0.0.1, for tests with the real, unmodified clients of huggingface_hub and datasets.

Repositories live in memory as in git (loopback_git.py): blobs, trees and commits have the ids that git would
give them. Large files go through the LFS protocol, or, with `xet_store`, through hf_xet into that folder.
Every request has a KIND (see ROUTES); `hub.faults` makes chosen requests fail in chosen ways, `hub.log` lists
what was asked; loopback_answers.py holds the answers.

    with LoopbackHub() as hub:          # the client reads its environment when it is imported:
        os.environ.update(hub.environment(cache))
        import huggingface_hub          # so this comes after
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

from tests.helpers import loopback_answers as answers
from tests.helpers.loopback_answers import TOKEN, Answer, Refused, Request
from tests.helpers.loopback_git import GITATTRIBUTES, SPACE_TEMPLATE, Blob, Repo

Route = Callable[["LoopbackHub", Request], Answer]


@dataclass
class Fault:
    """What goes wrong with requests of a kind.

    action: a status code (nothing was done), "late 500" (done, yet answered with the code), "cut" (the
    connection closes, nothing was done), "lost" (done, the answer never comes), "stall" (nothing was done, the
    connection stays open), "gone" (404: the repository is not found), "race" (somebody else commits, or
    tags as v1.0, first),
    "corrupt" (other bytes are served), "half" (half of what was requested arrives, then the connection closes),
    "html" (a proxy's page with status 200).
    skip: how many such requests pass first; times: how many fail then.
    """

    kind: str
    action: int | str
    times: int = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def strikes(self, kind: str) -> bool:
        if kind != self.kind or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class LoopbackHub:
    """The server and all that it holds. Use it as a context manager."""

    def __init__(self, xet_store: Path | None = None) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.xet_store = xet_store
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str = TOKEN) -> dict[str, str]:
        """What a client must find in its environment before it is imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "0" if self.xet_store else "1",
            "HF_XET_TELEMETRY_ENABLED": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "*",
        }

    def dataset(self, name: str) -> Repo:
        return self.repos["datasets", name]

    def create(self, kind: str, name: str, private: bool = False) -> Repo:
        repo = self.repos[kind, name] = Repo(kind, name, private)
        files = {".gitattributes": GITATTRIBUTES, **(SPACE_TEMPLATE if kind == "spaces" else {})}
        repo.commit("heads/main", {path: Blob(data, len(data)) for path, data in files.items()}, "initial commit")
        return repo

    def fault(self, kind: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.strikes(kind)), None)


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
_REV = r"(?P<rev>[^/]+)"
_PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"

# kind of request, method, pattern of the path (still percent-encoded), answer
ROUTES: list[tuple[str, str, str, Route]] = [
    ("whoami", "GET", "/api/whoami-v2", answers.whoami),
    ("create_repo", "POST", "/api/repos/create", answers.create),
    ("validate_yaml", "POST", "/api/validate-yaml", answers.validate_yaml),
    ("info", "GET", rf"{_REPO}(?:/revision/{_REV})?", answers.info),
    ("refs", "GET", rf"{_REPO}/refs", answers.refs),
    ("commits", "GET", rf"{_REPO}/commits/{_REV}", answers.commits),
    ("tree", "GET", rf"{_REPO}/tree/{_REV}(?:/(?P<path>.+))?", answers.tree),
    ("paths_info", "POST", rf"{_REPO}/paths-info/{_REV}", answers.paths_info),
    ("preupload", "POST", rf"{_REPO}/preupload/{_REV}", answers.preupload),
    ("commit", "POST", rf"{_REPO}/commit/{_REV}", answers.commit),
    ("tag", "POST", rf"{_REPO}/tag/{_REV}", answers.tag),
    ("branch", "POST", rf"{_REPO}/branch/{_REV}", answers.branch),
    ("xet_write_token", "GET", rf"{_REPO}/xet-write-token/{_REV}", answers.xet_token),
    ("xet_read_token", "GET", rf"{_REPO}/xet-read-token/{_REV}", answers.xet_token),
    ("lfs_batch", "POST", rf"{_PAGE}\.git/info/lfs/objects/batch", answers.lfs_batch),
    ("lfs_put", "PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", answers.lfs_put),
    ("lfs_verify", "POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", answers.lfs_verify),
    ("resolve_head", "HEAD", rf"{_PAGE}/resolve/{_REV}/(?P<path>.+)", answers.resolve),
    ("resolve_get", "GET", rf"{_PAGE}/resolve/{_REV}/(?P<path>.+)", answers.resolve),
]
_READ_ONLY = {"info", "refs", "commits", "tree", "paths_info", "resolve_head", "resolve_get", "validate_yaml"}
_OPEN = {"lfs_put"}  # signed addresses carry no token


def only_loopback() -> None:
    """From now on this process reaches nothing but this machine."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):  # type: ignore[index]
            raise AssertionError(f"a test wants to connect to {address}")
        return connect(self, address)  # type: ignore[arg-type]

    def guarded_look_up(host: str, *rest: object, **more: object) -> list:
        if host not in ("127.0.0.1", "::1", "localhost", None):
            raise AssertionError(f"a test wants to look up {host}")
        return look_up(host, *rest, **more)  # type: ignore[arg-type]

    socket.socket.connect, socket.getaddrinfo = guarded_connect, guarded_look_up  # type: ignore[method-assign]


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def log_message(self, *_: object) -> None:
            pass

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)) or self.read_chunks()
            raw, _, query = self.path.partition("?")
            kind, parts, answer = _route(self.command, raw)
            with hub.lock:
                hub.log.append((kind, f"{self.command} {raw}"))
                fault = hub.fault(kind)
                action = fault.action if fault else ""
                if action == "race":
                    _somebody_is_faster(hub, kind, parts)
                arguments = {name: values[0] for name, values in parse_qs(query).items()}
                request = Request(
                    parts, arguments, self.headers, body, self.headers["Authorization"] == f"Bearer {TOKEN}"
                )
                reply = _faulty(action, fault) or _answer(hub, kind, answer, request)
            if action == "late 500":
                reply = _refusal(Refused(500, "Internal Error - we could not answer"))
            if action == "corrupt":
                reply = reply[0], reply[1], bytes(byte ^ 1 for byte in reply[2])
            if action == "half":
                self.reply(reply[0], {"Content-Length": str(len(reply[2])), **reply[1]}, reply[2][: len(reply[2]) // 2])
                self.close_connection = True
                return
            if action == "stall":
                hub.closing.wait(60)
            if action in ("cut", "lost", "stall"):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.reply(*reply)

        do_GET = do_HEAD = do_POST = do_PUT = serve

        def read_chunks(self) -> bytes:
            if "chunked" not in (self.headers["Transfer-Encoding"] or ""):
                return b""
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


def _route(method: str, raw: str) -> tuple[str, dict[str, str], Route]:
    for kind, verb, pattern, answer in ROUTES:
        match = re.fullmatch(pattern, raw) if verb == method else None
        if match:
            return kind, {name: unquote(part) for name, part in match.groupdict().items() if part}, answer
    return "unknown", {}, _unknown


def _unknown(hub: LoopbackHub, request: Request) -> Answer:
    raise Refused(404, "the loopback Hub has no such page")


def _faulty(action: int | str, fault: Fault | None) -> Answer | None:
    """The answer of a request that is not even looked at."""
    if fault and isinstance(action, int):
        return _refusal(Refused(action, f"Injected {action} for Bearer {TOKEN}", headers=fault.headers))
    if action in ("cut", "stall"):
        return 200, {}, b""
    if action == "gone":
        return _refusal(Refused(404, "Repository not found", "RepoNotFound"))
    if action == "html":
        return 200, {"Content-Type": "text/html"}, b"<html>Please sign in to the guest network</html>"
    return None


def _answer(hub: LoopbackHub, kind: str, answer: Route, request: Request) -> Answer:
    try:
        if kind not in _READ_ONLY | _OPEN and not request.writer:
            raise Refused(401, "Invalid username or password.")
        if request.headers["Authorization"] and not request.writer:
            raise Refused(401, "Invalid credentials in Authorization header")
        return answer(hub, request)
    except Refused as refused:
        return _refusal(refused)


def _refusal(refused: Refused) -> Answer:
    code = {"X-Error-Code": refused.code} if refused.code else {}
    headers = {"X-Error-Message": str(refused), **code, **refused.headers}
    return answers.json_answer({"error": str(refused)}, refused.status, headers)


def _somebody_is_faster(hub: LoopbackHub, kind: str, parts: dict[str, str]) -> None:
    repo = hub.repos[parts.get("kind") or "models", parts["id"]]
    head = repo.commits[repo.refs["heads/main"]]
    if kind == "tag":
        repo.refs["tags/v1.0"] = head.parent
        return
    repo.commit("heads/main", {**head.files, "NOTES.md": Blob(b"mine", 4)}, "somebody else's commit", head.oid)
