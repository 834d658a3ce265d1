"""A proxy in front of a real server, at an address that stays when it is started again: which requests came twice."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Proxy:
    """port: of the server behind it. answered: digests of the bodies of chat requests that got a reply of status 200,
    in order; without the engine's trials, whose text is a question mark."""

    port: int
    answered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _is_trial(body: bytes) -> bool:
    content = json.loads(body)["messages"][0]["content"]
    return content[-1].get("text") == "?"


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._forward(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_counted = self.path.endswith("/chat/completions") and not _is_trial(body)
            if self._forward(body) == 200 and is_counted:
                proxy.answered.append(hashlib.sha256(body).hexdigest())

        def _forward(self, body: bytes) -> int:
            server = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=600)
            try:
                server.request(self.command, self.path, body, {"Content-Type": "application/json"})
                response = server.getresponse()
                content = response.read()
                self.send_response(response.status)
                self.send_header("Content-Type", response.getheader("Content-Type", "text/plain"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return response.status
            except OSError:  # the server or the client is gone
                self.close_connection = True
                self.connection.close()
                return 0
            finally:
                server.close()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
