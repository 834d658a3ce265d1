"""Serve a page on this machine alone: what the pages of `visrl ask --web` and `visrl audit` have in common."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from visrl_data.core.errors import UsageError, VisRLError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # under which a request may come


@contextlib.contextmanager
def listen(port: int) -> Iterator[socket.socket]:
    """Take the port. Raises VisRLError when it is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listener:
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OverflowError:
            raise UsageError(f"--port {port}: expected 0 to 65535.") from None
        except OSError as error:
            raise VisRLError(f"--port {port}: {error.strerror}. Choose another one, or --port 0 for any.") from None
        yield listener


def run_server(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until Ctrl-C, which raises KeyboardInterrupt."""
    import uvicorn

    options = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(options).run([listener])


def address(listener: socket.socket) -> str:
    """Return the address of the page that listens there."""
    return f"http://{HOST}:{listener.getsockname()[1]}"
