"""A headless Chromium, driven over its debugging pipe (the DevTools protocol): no library, no port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
          "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
          "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe")  # fmt: skip


class Tab:
    """One page of a browser. log: what its console and its network complained of since the page was opened."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        target = wire.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = wire.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        return self.wire.call(method, self.session, **parameters)

    @property
    def log(self) -> list[str]:
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown")
        return [
            json.dumps(e["params"])
            for e in self.wire.events
            if e["method"] in kinds and e.get("sessionId") == self.session
        ]

    def evaluate(self, expression: str) -> Any:
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait(self, expression: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, (
                f"never true: {expression}\n{self.log}\n{self.evaluate('document.body.innerText')}"
            )
            time.sleep(0.05)

    def open(self, url: str) -> None:
        self.wire.events.clear()
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, selector: str) -> None:
        """Click in the middle of an element, with a mouse."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{find}.scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({find}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window, and whether its user likes it dark."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(picture))


class Wire:
    """The pipe to a browser. events: all that it said by itself."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.writing, self.reading = os.fdopen(to_browser, "wb"), from_browser
        self.events: list[dict[str, Any]] = []
        self.pending = b""
        self.count = 0

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.writing.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        self.writing.flush()
        while (reply := self._read()).get("id") != self.count:
            self.events.append(reply)
        assert "error" not in reply, (method, reply)
        return reply["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.pending:
            data = os.read(self.reading, 2**20)
            assert data, "the browser ended"
            self.pending += data
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Wire]:
    """Start a browser with its profile in a folder; skip the test where there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for _ in range(2) for end in os.pipe()]
    command = [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
    ends = (pipes[0], pipes[3])  # the browser reads its file 3 and writes its file 4
    script = f"import os, sys; os.dup2({ends[0]}, 3); os.dup2({ends[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", script, *command], stderr=log, pass_fds=ends)
    os.close(pipes[0])
    os.close(pipes[3])
    try:
        yield Wire(pipes[1], pipes[2])
    finally:
        process.kill()
        process.wait()
        os.close(pipes[2])
